"""What others say, in one line of ours."""

from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.messages import first_line, shortened

WORDS = st.lists(st.text(st.characters(blacklist_categories=["Z", "C"]), min_size=1, max_size=12), max_size=40)


@given(WORDS, st.integers(20, 200))
def test_a_text_is_cut_between_words(words: list[str], most: int) -> None:
    text = " ".join(words)
    short = shortened(text, most)
    assert len(short) <= most
    if len(text) <= most:
        assert short == text
    else:
        kept = short.removesuffix(" ...").split()
        assert short.endswith(" ...")
        assert kept == words[: len(kept)]
        assert len(" ".join(words[: len(kept) + 1])) > most - len(" ...")  # no more would have gone in


def test_one_long_word_is_cut_where_it_must_be() -> None:
    assert shortened("a" * 50, 20) == "a" * 16 + " ..."


def test_the_first_line_of_an_error_or_its_kind() -> None:
    assert first_line(ValueError("\n too large\nby far")) == "too large"
    assert first_line(MemoryError()) == "MemoryError"
