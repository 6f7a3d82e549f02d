from pneumonia.runtime import names

THERE = {"a.jpeg", "b.jpeg", "my films", "my films/c.jpeg", "x,y.png", "it's.png", "*.jpeg", "back\\slash.png"}


def split(*texts: str) -> list[str]:
    return names.split(texts, THERE.__contains__)


def test_one_text_may_hold_several_names() -> None:
    assert split("a.jpeg b.jpeg") == ["a.jpeg", "b.jpeg"]
    assert split("a.jpeg, b.jpeg\n*.jpeg") == ["a.jpeg", "b.jpeg", "*.jpeg"]
    assert split("a.jpeg", "b.jpeg x,y.png") == ["a.jpeg", "b.jpeg", "x,y.png"]
    assert split("", " ") == []


def test_names_may_hold_spaces() -> None:
    assert split("my films") == ["my films"]
    assert split("my films a.jpeg") == ["my films", "a.jpeg"]
    assert split("a.jpeg my films/c.jpeg b.jpeg") == ["a.jpeg", "my films/c.jpeg", "b.jpeg"]


def test_quotation_marks_leave_no_doubt() -> None:
    assert split("'not there' a.jpeg") == ["not there", "a.jpeg"]
    assert split('a.jpeg "my films"/*.png') == ["a.jpeg", "my films/*.png"]
    assert split("'my films' back\\slash.png") == ["my films", "back\\slash.png"]
    assert split("a.jpeg it's.png") == ["a.jpeg", "it's.png"]
    assert split("a.jpeg 'tis.png") == ["a.jpeg", "'tis.png"]


def test_what_names_nothing_is_left_for_others_to_say() -> None:
    assert split("a.jpeg none.jpeg b.jpeg") == ["a.jpeg", "none.jpeg", "b.jpeg"]
    many = [f"none{number}.jpeg" for number in range(3000)]
    assert split(" ".join(many)) == many
