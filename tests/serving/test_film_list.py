import os
from pathlib import Path

import pytest

from pneumonia.serving import film_list
from tests.serving.test_predict import film


def test_films_of_files_folders_and_globs_once_each_and_in_order(tmp_path: Path) -> None:
    b, a, deep = (film(tmp_path / name) for name in ("d/b.jpeg", "d/a.PNG", "d/sub/deep/c.jpg"))
    odd = film(tmp_path / "odd [1].jpeg")
    named = tmp_path / "films.txt"
    for hidden in (".DS_Store", "._a.jpeg", ".cache/x.jpeg", "__MACOSX/x.jpeg", "sub/__MACOSX/y.jpeg", "notes.txt"):
        (tmp_path / "d" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / hidden).touch()
    named.touch()
    gif = tmp_path / "d" / "sub" / "x.gif"
    gif.touch()
    (tmp_path / "d" / "sub" / "loop").symlink_to(tmp_path / "d")

    folder = str(tmp_path / "d")
    passed = {".DS_Store": 1, "._*": 1, "in .cache": 1, "__MACOSX": 2, "text (.txt)": 1}
    assert film_list.films([folder]) == ([a, b, gif, deep], passed)
    assert film_list.films([str(b), folder])[0] == [b, a, gif, deep]
    assert film_list.films([f"{folder}/*"])[0] == [a, b, gif, deep]
    assert film_list.films([f"{folder}/**"])[0] == [a, b, gif, deep]
    assert film_list.films([f"{folder}/**/*.jp*g"]) == ([b, deep], {"__MACOSX": 2})
    assert film_list.films([str(odd), str(named)]) == ([odd, named], {})


def test_films_by_content_masks_and_what_is_passed_over(tmp_path: Path) -> None:
    """A hospital's CD, and the folders of the COVID-19 Radiography Database."""
    (tmp_path / "DICOM").mkdir()
    dicom = b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + b"\0" * 400
    for name in ("DICOM/IM000001", "DICOM/1.2.840.113619.2.5", "DICOM/a.IMA"):
        (tmp_path / name).write_bytes(dicom)
    bare = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100\x08\x00\x16\x00UI\x02\x001\x00" + b"\0" * 150
    (tmp_path / "DICOM/b").write_bytes(bare)  # without its preamble
    (tmp_path / "DICOM/DIR").write_bytes(dicom + b"1.2.840.10008.1.3.10\0")  # a DICOMDIR by another name
    (tmp_path / "DICOMDIR").write_bytes(dicom)
    (tmp_path / "README").write_text("see the viewer")
    (tmp_path / "core").write_bytes(b"\x02\x00\x00\x00\x02\x00\x00\x00" * 90)
    (tmp_path / "autorun.inf").touch()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    film(tmp_path / "c.JPG").rename(tmp_path / "c.JFIF")
    for part in ("images", "masks", "labels"):
        film(tmp_path / f"COVID/{part}/COVID-1.png")
    film(tmp_path / "pair/x.png")
    film(tmp_path / "pair/x_mask.png")
    taken, passed = film_list.films([str(tmp_path)])
    assert {path.relative_to(tmp_path).as_posix() for path in taken} == {
        "DICOM/IM000001", "DICOM/1.2.840.113619.2.5", "DICOM/a.IMA", "DICOM/b", "c.JFIF",
        "COVID/images/COVID-1.png", "pair/x.png",
    }  # fmt: skip
    assert passed == {
        "DICOMDIR": 2, "text (no suffix)": 1, "unknown (no suffix)": 1, "system (.inf)": 1, "not a file": 1,
        "in masks": 1, "in labels": 1, "mask beside its film": 1,
    }  # fmt: skip
    masks = tmp_path / "COVID/masks"
    for named in (masks, masks / "*.png", masks / "COVID-1.png"):
        assert film_list.films([str(named)]) == ([masks / "COVID-1.png"], {}), "what is named is taken"
    image = tmp_path / "COVID/images/COVID-1.png"
    assert film_list.films([f"{tmp_path}/COVID/*/*.png"]) == ([image], {"in masks": 1, "in labels": 1})
    assert film_list.films([f"{tmp_path}/COVID/*"]) == ([image], {"in masks": 1, "in labels": 1})
    with pytest.raises(ValueError, match=r"nothing.* is no file, no folder and no pattern that matches any"):
        film_list.films([f"{tmp_path}/COVID/*", str(tmp_path / "nothing*")])
    with pytest.raises(ValueError, match="is no file"):
        film_list.films(["a" * 300])


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.jpeg", "nowhere.jpeg"])
def test_an_input_that_names_nothing_is_said(tmp_path: Path, missing: str) -> None:
    there = film(tmp_path / "a.jpeg")
    with pytest.raises(ValueError, match="nowhere"):
        film_list.films([str(there), str(tmp_path / missing)])


def test_no_films_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ValueError, match=r"no film in .*JPEG.* \(skipped: 1 text \(\.txt\)\)"):
        film_list.films([str(tmp_path)])
    with pytest.raises(ValueError, match="no film in an empty list"):
        film_list.films([])


def test_a_list_on_the_disk_is_the_same_list(tmp_path: Path) -> None:
    paths = [film(tmp_path / "d" / name) for name in ("a.png", "b\nc.png", "d.png", os.fsdecode(b"\xff.png"))]
    (tmp_path / "d" / "notes.txt").touch()
    films = film_list.FilmList([str(tmp_path / "d")])
    assert len(films) == 4
    for _ in range(2):
        assert sorted(films) == sorted((path, path.stat().st_size) for path in paths)
    assert [path for path, _ in films] == film_list.films([str(tmp_path / "d")])[0]
    assert films.skipped == {"text (.txt)": 1}


def test_the_digest_of_a_list_tells_other_films(tmp_path: Path) -> None:
    first, second = film(tmp_path / "a.png"), film(tmp_path / "b.png", 1)

    def digest(*inputs: Path) -> str:
        return film_list.FilmList([str(one) for one in inputs]).digest

    before = digest(tmp_path)
    assert before == digest(first, second)
    assert before not in (digest(first), digest(second, first))
    second.write_bytes(second.read_bytes() + b"more")
    assert before != digest(tmp_path)


def test_a_film_with_two_names_is_taken_once(tmp_path: Path) -> None:
    path = film(tmp_path / "films/a.png")
    (tmp_path / "films/again.png").symlink_to(path)
    (tmp_path / "linked").symlink_to(tmp_path / "films")
    assert film_list.films([str(tmp_path)])[0] == [path]
    assert film_list.films([str(tmp_path / "linked"), str(path)])[0] == [tmp_path / "linked/a.png"]
