"""Each file that is left out is counted by its reason."""

from pathlib import Path

import pytest

from pneumonia.data.index import DataError, scan
from tests.data.conftest import film, kermany


def test_what_is_no_film_is_counted_by_reason(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    for name in (".DS_Store", "._IM-0001-0001.jpeg", "notes.txt", "a.GIF", "b.tiff", "c.tif", "d.bmp", "e.WebP"):
        film(root / "train/NORMAL" / name)
    film(root / "train/__MACOSX/NORMAL/._a.jpeg")
    film(root / "train/stray.jpeg")
    film(root / "readme.md")
    film(root / "train/NORMAL/UPPER.JPG")
    film(root / "train/NORMAL/scan.DCM")
    film(root / "train/NORMAL/deeper/scan.png")
    report = scan(root).report
    assert report.used == report.found == 48 + 3
    assert report.ignored == {
        ".DS_Store": 1, "._*": 1, "BMP": 1, "GIF": 1, "TIFF": 2, "WebP": 1, "__MACOSX": 1, "text (.txt)": 1,
        "outside the class folders": 1, "outside train, val and test": 1,
    }  # fmt: skip
    assert any("1 GIF, 2 TIFF, 1 WebP" in note for note in report.notes)


def test_what_was_ignored_stands_in_the_refusal(tmp_path: Path) -> None:
    for n in range(3):
        film(tmp_path / f"train/NORMAL/{n}.png")
    film(tmp_path / "train/PNEUMONIA/a.tif")
    with pytest.raises(DataError, match="found 1: NORMAL") as error:
        scan(tmp_path)
    assert "ignored files: 1 TIFF" in error.value.report
    for name in ("cats/a.png", "dogs/a.png", "a.txt", "b.txt"):
        film(tmp_path / "flat" / name)
    with pytest.raises(DataError, match=r"found the folders cats, dogs and 2 \.txt files; put the class folders into"):
        scan(tmp_path / "flat")
