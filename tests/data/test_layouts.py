"""Folders as people have them give the same films, and what is not understood is said."""

from collections import Counter
from pathlib import Path

import pytest

from pneumonia.data import index as data
from pneumonia.data.index import DataError, scan
from pneumonia.data.layouts import split_of
from tests.data.conftest import film, kermany, split_films


def test_every_layout_gives_the_same_films(tmp_path: Path) -> None:
    here = scan(kermany(tmp_path / "a"))
    parent = scan(kermany(tmp_path / "b/chest_xray").parent)
    nested = scan(kermany(tmp_path / "c/chest_xray/chest_xray").parents[1])
    for other in (parent, nested):
        assert other.table.equals(here.table)
        assert other.fingerprint == here.fingerprint
    assert here.classes == ("NORMAL", "PNEUMONIA")
    assert list(here.table.columns) == list(data.COLUMNS)
    assert (here.root / here.table["path"].iloc[0]).exists()
    assert set(here.table["split"]) == {"train", "val", "test"}
    assert any("chest_xray" in note for note in parent.report.notes)


def test_kaggles_copy_within_itself_is_not_counted_twice(tmp_path: Path) -> None:
    root = kermany(tmp_path / "chest_xray")
    kermany(root / "chest_xray")
    film(root / "__MACOSX/chest_xray/._x.jpeg")
    index = scan(root)
    assert index.report.found == index.report.used == 48
    assert index.report.ignored == {"__MACOSX": 1, "outside train, val and test": 48}
    assert any(note.startswith("chest_xray (48 films) is no folder of") for note in index.report.notes)


def test_kaggles_val_is_train_and_said(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    film(root / "val/NORMAL/IM-9999-0001.jpeg")
    film(root / "val/PNEUMONIA/person1_bacteria_77.jpeg")
    index = scan(root)
    rows = index.table.set_index("path")
    assert set(rows["split"]) == {"train", "val", "test"}
    assert rows.at["val/PNEUMONIA/person1_bacteria_77.jpeg", "patient"] == "train/person1"
    assert sum("val (2 films)" in note for note in index.report.notes) == 1


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("TRAIN_SET", "train"), ("01_train", "train"),
        ("training data", "train"), ("val", "val"), ("Valid", "val"), ("validation", "val"), ("dev", "val"),
        ("validation-set", "val"), ("eval", "val"), ("DevSet", "val"), ("Test", "test"), ("testing", "test"),
        ("test images", "test"), ("TestData", "test"), ("set", None), ("dataset", None), ("invalid", None),
        ("holdout", None), ("train_1", None), ("chest_xray", None), ("trainval", None), ("latest", None), ("", None),
    ],
)  # fmt: skip
def test_words_for_splits(word: str, split: str | None) -> None:
    assert split_of(word) == split


def test_splits_by_other_words_and_two_of_one_kind(tmp_path: Path) -> None:
    kermany(tmp_path / "plain", train=0)
    root = tmp_path / "other"
    (tmp_path / "plain").rename(root)
    (root / "test").rename(root / "Testing")
    for name, first in (("Training", 0), ("train", 100), ("valid", 200), ("val", 300)):
        split_films(root, name, 40, first=first)
    index = scan(root)
    assert Counter(index.table["split"]) == {"train": 160, "val": 160, "test": 8}
    assert any("Training and train are all train films" in note for note in index.report.notes)
    assert any(note.startswith("val and valid (160 films) is kept") for note in index.report.notes)


def test_splits_by_other_words_further_down(tmp_path: Path) -> None:
    for split, first in (("Training", 0), ("Validation", 100), ("Testing", 200)):
        split_films(tmp_path / "all/Chest X-ray", split, 30, first=first)
    (tmp_path / "testing/notes").mkdir(parents=True)  # beside the films, and no split of them
    index = scan(tmp_path)
    assert index.root == tmp_path / "all/Chest X-ray"
    assert Counter(index.table["split"]) == {"train": 60, "val": 60, "test": 60}


def test_a_folder_that_is_no_split_is_named_with_its_films(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    film(root / "holdout/NORMAL/a.jpeg")
    film(root / "holdout/NORMAL/notes.txt")
    film(root / "papers/a.pdf")
    film(root / "train/loose.png")
    report = scan(root).report
    assert [note for note in report.notes if "holdout" in note or "papers" in note] == [
        "holdout (1 films) is no folder of training, validation or test films by its name, and is not used"
    ]
    assert any("1 films directly in train" in note for note in report.notes)
    assert report.ignored == {"outside train, val and test": 3, "outside the class folders": 1}


def test_class_folders_alone_are_training_films_where_that_is_asked_for(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    whole, alone = scan(root), scan(root / "train", one_split=True)
    of_train = whole.table[whole.table["split"] != "test"]
    assert set(alone.table["sha256"]) >= set(of_train["sha256"])
    assert set(alone.table["split"]) == {"train", "val"}
    assert alone.root == root / "train"
    assert scan(root, one_split=True).table.equals(whole.table)
    with pytest.raises(DataError, match="put the class folders into a folder called train"):
        scan(root / "train")
