"""The index: layouts, what is refused, who is a patient, what leaks, and which films validate."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.data import index as data
from pneumonia.data.classes import choose, told_by_opacities
from pneumonia.data.index import DataError, Index, require, scan
from pneumonia.data.layouts import split_of
from pneumonia.data.split import VAL_SHARE, assign_val
from tests.conftest import ROOT

REAL = ROOT.parent / "shared" / "data"


def film(path: Path, content: str | None = None) -> Path:
    """Any bytes do: scanning reads films but does not decode them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if content is not None else path.as_posix())
    return path


def kermany(root: Path, train: int = 20, test: int = 4) -> Path:
    for n in range(train):
        film(root / f"train/NORMAL/IM-{n:04d}-0001.jpeg", f"train normal {n}")
        film(root / f"train/PNEUMONIA/person{n}_{'virus' if n % 3 else 'bacteria'}_{n}.jpeg", f"train pneumonia {n}")
    for n in range(test):
        film(root / f"test/NORMAL/IM-{n:04d}-0001.jpeg", f"test normal {n}")
        film(root / f"test/PNEUMONIA/person{n}_virus_{n}.jpeg", f"test pneumonia {n}")
    return root


def paths(index: Index) -> set[str]:
    return set(index.table["path"])


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


def test_only_test(tmp_path: Path) -> None:
    index = scan(kermany(tmp_path, train=0))
    assert set(index.table["split"]) == {"test"}
    require(index, "test")
    with pytest.raises(DataError, match=r"looked for train films of NORMAL and PNEUMONIA in .*found 4 test NORMAL"):
        require(index, "train")


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


@pytest.mark.parametrize(
    "classes",
    [
        ("NORMAL", "PNEUMONIA"),
        ("0", "1"),
        ("-1", "1"),
        ("0.0", "1.0"),
        ("no", "yes"),
        ("false", "true"),
        ("N", "P"),
        ("Neg", "Pos"),
        ("Healthy", "Covid"),
        ("healthy lungs", "sick"),
        ("zzz_control", "sick"),
        ("No Finding", "Tuberculosis"),
        ("NORMAL", "abnormal"),
        ("NORMAL", "not normal"),
        ("healthy", "unhealthy"),
        ("no_pneumonia", "PNEUMONIA"),
        ("2_NORMAL", "1_PNEUMONIA"),
        ("1_NORMAL", "0_PNEUMONIA"),
        ("Lung_Normal", "COVID"),
        ("without pneumonia", "PNEUMONIA"),
        ("w/o pneumonia", "with pneumonia"),
        ("NonPneumonia", "PNEUMONIA"),
        ("nonpneumonia", "PNEUMONIA"),
        ("notcovid", "COVID19"),
        ("not_pneumonia", "PNEUMONIA"),
        ("NORMAL", "Viral Pneumonia"),
        ("normal1", "pneumonia1"),
        ("Non-COVID-19", "COVID-19"),
        ("class0", "class1"),
        ("covid-negative", "covid-positive"),
        ("pneumonia=0", "pneumonia=1"),
        ("normal=1", "normal=0"),
        ("pneumonia_no", "pneumonia_yes"),
        ("pneumonia absent", "pneumonia present"),
        ("uninfected", "infected"),
        ("No Lung Opacity / Not Normal", "Lung Opacity"),
        ("NoTB", "TB"),
        ("disease-free", "disease"),
        ("none", "nodule"),
    ],
)
def test_which_class_is_positive_by_meaning(classes: tuple[str, str]) -> None:
    for names in (classes, classes[::-1]):
        assert choose(names, Path("films")).classes == classes


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog"),
        ("bacteria", "virus"),
        ("1", "2"),
        ("normal", "healthy"),
        ("NORMAL", "NORMAL2"),
        ("notch", "chest"),
        ("no virus", "No Finding"),
    ],
)
def test_names_that_do_not_tell_are_asked_about(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        for n in range(3):
            film(tmp_path / f"train/{name}/{n}.png")
    with pytest.raises(DataError, match=r"do not tell which is the positive one: say so with --positive"):
        scan(tmp_path)
    for positive in names:
        index = scan(tmp_path, positive=f" {positive.upper()}")
        assert index.classes[1].casefold() == positive.casefold()
        assert f"positive: {index.classes[1]}, negative: {index.classes[0]}" in index.report.lines()[1]
        named = index.table["path"].str.split("/").str[1].str.casefold()
        assert set(named[index.table["label"] == 1]) == {positive.casefold()}
    with pytest.raises(DataError, match=r"is to be lion, but the films are .* takes one of these two"):
        scan(tmp_path, positive="lion")


def test_a_models_classes_say_which_is_positive(tmp_path: Path) -> None:
    for name in ("bacteria", "Virus"):
        for n in range(3):
            film(tmp_path / f"train/{name}/{n}.png")
    assert scan(tmp_path, like=("virus", "Bacteria")).classes == ("virus", "Bacteria"), "as the model spells them"
    assert scan(tmp_path, like=("virus", "bacteria"), positive="virus").classes == ("bacteria", "virus")
    with pytest.raises(DataError, match="the model tells NORMAL from PNEUMONIA, but the films are bacteria and Virus"):
        scan(tmp_path, like=("NORMAL", "PNEUMONIA"))


def test_films_asked_about_the_other_way_round_are_other_films(tmp_path: Path) -> None:
    """Or an unfinished study would go on with the labels exchanged; what earlier versions chose stays what it was."""
    for name in ("pneumonia", "without pneumonia"):
        for n in range(3):
            film(tmp_path / f"train/{name}/{n}.png", f"{name} {n}")
    now = scan(tmp_path)
    formerly = scan(tmp_path, positive="without pneumonia")
    assert now.classes == ("without pneumonia", "PNEUMONIA")
    assert now.fingerprint != formerly.fingerprint
    assert "versions before 0.2 read this otherwise: without pneumonia was the positive class" in now.report.notes[0]
    assert not any("0.2" in note for note in formerly.report.notes)


# --- splits, suffixes and masks


def split_films(root: Path, name: str, count: int, *, first: int = 0) -> None:
    for n in range(first, first + count):
        film(root / f"{name}/NORMAL/IM-{n:04d}-0001.jpeg", f"{name} normal {n}")
        film(root / f"{name}/PNEUMONIA/person{n}_bacteria_{n}_jpeg.rf.{n:032x}.jpg", f"{name} pneumonia {n}")


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


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "DEV"])
def test_a_folders_validation_split_that_can_choose_is_kept(tmp_path: Path, name: str) -> None:
    root = kermany(tmp_path)
    split_films(root, name, 30, first=100)
    index = scan(root)
    assert set(index.only("val")["path"].str.split("/").str[0]) == {name}
    assert len(index.only("val")) == 60
    assert f"{name} (60 films) is kept as the validation split" in index.report.notes
    said = "the films of val were counted as train" if name == "val" else f"the 60 films of {name} were left out"
    assert said in index.report.notes[0]


@pytest.mark.parametrize(("count", "first", "why"), [(29, 100, "fewer than 30 films of a class"), (30, 0, "patients")])
def test_a_validation_split_that_cannot_choose_is_train_and_said(
    tmp_path: Path, count: int, first: int, why: str
) -> None:
    root = kermany(tmp_path)
    split_films(root, "valid", count, first=first)
    index = scan(root)
    assert sum(f"valid ({2 * count} films) is counted as train, with " in note for note in index.report.notes) == 1
    assert any(why in note for note in index.report.notes)
    assert index.report.used == 48 + 2 * count
    assert set(index.only("val")["path"].str.split("/").str[0]) == {"train", "valid"}


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
    assert any("1 films that stand in train itself" in note for note in report.notes)
    assert report.ignored == {"outside train, val and test": 3, "outside the class folders": 1}


def test_films_by_content_and_what_is_none(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    normal = root / "train/NORMAL"
    dicom = b"\0" * 128 + b"DICM"
    for name in ("IM000001", "1.2.840.113619.2.5", "scan.IMA", "DICOMDIR"):
        (normal / name).write_bytes(dicom + name.encode())
    for name in ("a.dicom", "b.DIC", "c.JFIF", "d.jpe"):
        film(normal / name)
    (normal / "picture.backup").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    (normal / "LICENSE").write_text("text")
    (normal / "empty").touch()
    index = scan(root)
    assert index.report.used == 48 + 8
    assert index.report.ignored == {"DICOMDIR": 1, "text (no suffix)": 1, "empty (no suffix)": 1}
    assert "4 films told by their content" in index.report.notes[0]
    assert "1 .dicom films" in index.report.notes[0]


def test_masks_and_hidden_folders_are_no_films(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for n in range(4):
            for name in ("COVID", "Normal"):
                for part in ("images", "masks"):
                    film(tmp_path / f"{split}/{name}/{part}/{name}-{n}.png", f"{split} {name} {part} {n}")
    film(tmp_path / "train/COVID/images/.thumbnails/a.png")
    film(tmp_path / "train/.ipynb_checkpoints/a.png")
    film(tmp_path / "train/masks/a.png")
    (tmp_path / "__MACOSX").mkdir()
    index = scan(tmp_path)
    assert index.classes == ("NORMAL", "COVID")
    assert index.report.used == 16
    assert set(index.table["path"].str.split("/").str[2]) == {"images"}
    assert index.report.ignored == {"in masks": 17, "in .thumbnails": 1, "in .ipynb_checkpoints": 1}
    assert "5 files in masks, in .thumbnails of train/COVID were taken for films" in index.report.notes[0]


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


def test_counts_name_their_subtypes(tmp_path: Path) -> None:
    index = scan(kermany(tmp_path, train=0))
    with pytest.raises(DataError, match=r"found 4 test NORMAL, 4 test PNEUMONIA virus$"):
        require(index, "train")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kermany(tmp_path / "films")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scan("~/films").report.used == 48


def test_exported_copies_of_a_film_are_one_patient(tmp_path: Path) -> None:
    """Roboflow's export writes each film of train several times, changed, under a hash of its own."""
    for n in range(10):
        for name in ("Normal", "Pneumonia"):
            for copy in range(3):
                film(tmp_path / f"train/{name}/{n}_png.rf.{copy:032x}.jpg", f"{name} {n} {copy}")
    table = scan(tmp_path).table
    assert table["patient"].nunique() == 20
    assert table.groupby("patient")["split"].nunique().max() == 1


def test_a_patient_is_the_number_within_its_series(tmp_path: Path) -> None:
    for split in ("train", "test"):
        film(tmp_path / f"{split}/PNEUMONIA/person12_bacteria_1.jpeg")
        film(tmp_path / f"{split}/PNEUMONIA/person12_virus_2_3.jpeg")
        film(tmp_path / f"{split}/NORMAL/IM-0012-0001-0002.jpeg")
        film(tmp_path / f"{split}/NORMAL/NORMAL2-IM-0012-0001.jpeg")
    table = scan(tmp_path).table
    assert Counter(table["patient"]) == {
        f"{split}/{n}": 2 for split in ("train", "test") for n in ("person12", "IM-0012")
    }
    assert Counter(table["subtype"]) == {"": 4, "bacteria": 2, "virus": 2}


def test_names_without_numbers_are_said_once(tmp_path: Path) -> None:
    for n in range(6):
        film(tmp_path / f"train/normal/{n}.png")
        film(tmp_path / f"train/ill/person_{n}.png")
    index = scan(tmp_path)
    assert index.table["patient"].is_unique
    assert [note for note in index.report.notes if "patient number" in note] == [
        "12 films have no patient number in their names: each is its own patient"
    ]


# --- identical films and patients in two splits


def test_identical_films(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    for path in ("train/NORMAL/IM-0100-0001.jpeg", "train/NORMAL/IM-0101-0001.jpeg"):
        film(root / path, "twice in train")
    for path in ("train/NORMAL/IM-0102-0001.jpeg", "test/NORMAL/IM-0100-0001.jpeg"):
        film(root / path, "in train and test")
    for path in ("train/NORMAL/IM-0103-0001.jpeg", "train/PNEUMONIA/person103_virus_1.jpeg"):
        film(root / path, "under both labels")
    for path in ("test/NORMAL/IM-0101-0001.jpeg", "test/NORMAL/IM-0101-0002.jpeg"):
        film(root / path, "twice in test")
    index = scan(root)
    assert paths(index) - paths(scan(kermany(tmp_path / "plain"))) == {
        "train/NORMAL/IM-0100-0001.jpeg",
        "test/NORMAL/IM-0100-0001.jpeg",
        "test/NORMAL/IM-0101-0001.jpeg",
        "test/NORMAL/IM-0101-0002.jpeg",
    }
    report = index.report
    assert [(g.kept, g.left_out) for g in report.leaks] == [
        (("test/NORMAL/IM-0100-0001.jpeg",), ("train/NORMAL/IM-0102-0001.jpeg",))
    ]
    left_out = {g.why: g.left_out for g in report.duplicates}
    assert left_out == {
        "identical films in test": (),
        "identical films in train": ("train/NORMAL/IM-0101-0001.jpeg",),
        "identical films under both labels in train": (
            "train/NORMAL/IM-0103-0001.jpeg", "train/PNEUMONIA/person103_virus_1.jpeg",
        ),
    }  # fmt: skip
    assert report.found == report.used + 4
    text = "\n".join(report.lines())
    assert "under both labels" in text
    assert "in train and test" in text
    json.dumps(report.as_dict())


def test_empty_files_are_no_duplicates(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    for path in ("train/NORMAL/IM-0100-0001.jpeg", "train/PNEUMONIA/person1_virus_9.jpeg", "test/NORMAL/IM-1-1.jpeg"):
        film(root / path, "")
    index = scan(root)
    assert index.report.used == 51
    assert not index.report.duplicates
    assert not index.report.leaks


def test_unreadable_and_odd_entries(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    normal = root / "train/NORMAL"
    (normal / "gone.jpeg").symlink_to(root / "nowhere.jpeg")
    os.mkfifo(normal / "pipe.jpeg")  # opening it would wait for ever
    (normal / "again").symlink_to(normal)  # a loop
    (normal / "itself.jpeg").symlink_to(normal / "itself.jpeg")
    (normal / "linked").symlink_to(film(tmp_path / "elsewhere/x.jpeg").parent)
    (normal / os.fsdecode(b"\xff.jpeg")).write_text("name that is not UTF-8")
    index = scan(root)
    assert dict(index.report.corrupt) == {
        "train/NORMAL/gone.jpeg": "no such file",
        "train/NORMAL/itself.jpeg": "no such file",
        "train/NORMAL/pipe.jpeg": "not a file",
    }
    assert index.report.used == 49
    assert index.report.ignored["name that is not text"] == 1
    json.dumps(index.report.as_dict()).encode("utf-8")


# --- manifests


def manifest(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest(tmp_path: Path, suffix: str) -> None:
    far = film(tmp_path / "far/away.png")
    rows: list[dict[str, object]] = [
        {"Path": f"films/{n}.png", "label": n % 2, "patient": f"00{n // 2}", "subtype": "x" if n % 2 else None}
        for n in range(12)
    ]
    for row in rows:
        film(tmp_path / "set" / str(row["Path"]))
    rows.append({"Path": str(far), "label": 1, "patient": "007", "subtype": "x"})
    rows.append({"Path": "films/missing.png", "label": 1, "patient": "008", "subtype": "x"})
    index = scan(manifest(tmp_path / f"set/films{suffix}", rows))
    assert index.classes == ("0", "1")
    assert index.root == tmp_path / "set"
    table = index.table.set_index("path")
    assert table.at["films/3.png", "patient"] == "001"
    assert table.at["films/3.png", "subtype"] == "x"
    assert table.at["films/2.png", "subtype"] == ""
    assert table.at[far.as_posix(), "label"] == 1
    (((path, why)),) = index.report.corrupt
    assert path == "films/missing.png"
    assert re.fullmatch(rf"no such file; film 14 of films\{suffix}( \(line 15\))?, column path", why)
    assert set(table["split"]) == {"train", "val"}
    assert index.report.found == index.report.used + 1


def test_a_manifests_val_and_patients_are_believed(tmp_path: Path) -> None:
    rows = [
        {"path": film(tmp_path / f"{n}.png").name, "label": n % 2, "patient": p, "split": split}
        for n, (p, split) in enumerate(
            [
                ("p", "train"),
                ("p", "Testing"),
                ("q", "valid"),
                ("q", "train"),
                ("r", "training"),
                ("s", "Train"),
                ("t", "test"),
            ]
        )
    ]
    index = scan(manifest(tmp_path / "m.csv", rows))
    assert dict(zip(index.table["path"], index.table["split"], strict=True)) == {
        "1.png": "test", "2.png": "val", "4.png": "train", "5.png": "train", "6.png": "test",
    }  # fmt: skip
    assert [(g.why, g.left_out) for g in index.report.leaks] == [
        ("the same patient p in train and test", ("0.png",)),
        ("the same patient q in train and val", ("3.png",)),
    ]


def test_a_row_given_twice_counts_once(tmp_path: Path) -> None:
    rows = [
        {"path": film(tmp_path / f"{n}.png").name, "label": n % 2, "split": "test" if n > 3 else "train"}
        for n in range(8)
    ]
    index = scan(manifest(tmp_path / "m.csv", rows + rows[3:5]))
    assert len(index.table) == 8
    assert index.report.found == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,klass\na.png,1\n", "looked for the columns path and label in .* found path, klass: label missing"),
        ("path,label\na.png,1\nb.png,\n", "film 2 of .* has no label"),
        (
            "path,label,split\na.png,1,holdout\n",
            r"film 1 of .* \(line 2\) has the split 'holdout': it must be train, val or test",
        ),
        ("path,label\na.png,1\nb.png,1\n", "two classes in .* found 1: 1"),
        ("path,label\na.png,1\nb.png,0\nc.png,2\n", "two classes in .* found 3: 0, 1, 2"),
        ("path,label\nx.png,1\ny.png,0\n", "found none; of 2 files named, none exists"),
        ("path,label\nx.png,1\ny.png,0\n", r"tried /.*/x\.png \(no such file; film 1 of .*\) and /.*/y\.png"),
        ("path,label\n", "found none: it has a header, but no rows"),
        ("", "cannot be read: it is empty"),
        ("\n\n", "cannot be read: it is empty"),
        (
            "path,label\na.png,1\nb,b.png,0\n",
            r"film 2 of .* \(line 3\) has 3 cells, .* 2 columns, path, label",
        ),
        ('path,label\na.png,1\n"b.png,0\n', r"cannot be read: line 3: "),
        ("path,Label,label\na.png,1,1\nb.png,1,0\n", r"column label twice, as Label and label, and film 2 .*'1'.*'0'"),
        ("path,label\n" + "a" * 300 + ".png,1\n", r"too long; film 1 of .* \(line 2\), column path\)"),
    ],
)
def test_manifest_errors(tmp_path: Path, text: str, message: str) -> None:
    for name in "abc":
        film(tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        scan(tmp_path / "m.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_a_manifest_of_rubbish(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00rubbish\x00\n" * 3)
    with pytest.raises(DataError, match=f"^the manifest .*{name} cannot be read: ") as error:
        scan(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        b"path,label\n{0},0\n{1},1\n",
        b"path,label,\n{0},0,\n{1},1,\n",
        b"path,label\n{0},0,\n{1},1,,\n",
        b"Path;LABEL\r\n{0};0\r\n{1};1\r\n",
        b"path\tlabel\n{0}\t0\n{1}\t1\n",
        b"sep=;\npath;label\n{0};0\n{1};1\n",
        b",path,label\n0,{0},0\n1,{1},1\n",
        b"path,Label,label\n{0},0,0\n{1},1,1\n",
        b'"path", "label"\n\n"{0}", "0"\n"{1}", "1"\n,\n',
        b"path,label\n.\\{0},0\n.\\{1},1\n",
        b"path,label,patient\n{0},0,N/A\n{1},1,N/A\n",
        b"path,label,patient\n{0},0,nan\n{1},1,\n",
        b"path,label,patient,split\n{0},0,007,\n{1},1,007,\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_manifests_as_people_write_them(tmp_path: Path, text: bytes, encoding: str) -> None:
    names = [film(tmp_path / f"films/{n}, Müller.png").relative_to(tmp_path).as_posix() for n in range(2)]
    quoted = [name if b'"{0}"' in text or b"\t" in text or b";" in text else f'"{name}"' for name in names]
    if b"\\" in text:
        quoted = [name.replace("/", "\\") for name in quoted]
        text = text.replace(b".\\{0}", b"{0}").replace(b".\\{1}", b"{1}")
    (tmp_path / "m.csv").write_bytes(text.decode().format(*quoted).encode(encoding))
    table = scan(tmp_path / "m.csv").table
    assert dict(zip(table["path"], table["label"], strict=True)) == {names[0]: 0, names[1]: 1}
    assert table["patient"].nunique() == 2
    assert set(table["split"]) == {"train"}


def test_one_path_that_is_too_long_costs_one_film(tmp_path: Path) -> None:
    rows = [{"path": film(tmp_path / f"{n}.png").name, "label": n % 2} for n in range(4)]
    index = scan(manifest(tmp_path / "m.csv", [*rows, {"path": "a" * 300 + ".png", "label": 1}]))
    assert index.report.used == 4
    (((path, why)),) = index.report.corrupt
    assert path == "a" * 300 + ".png"
    assert why == "File name too long; film 5 of m.csv (line 6), column path"
    assert max(map(len, index.report.lines())) < 300


def test_films_without_a_patient_are_said(tmp_path: Path) -> None:
    rows = [
        {"path": film(tmp_path / f"{n}.png").name, "label": n % 2, "patient": "p" if n < 4 else "N/A"}
        for n in range(20)
    ]
    index = scan(manifest(tmp_path / "m.csv", rows))
    assert index.table["patient"].nunique() == 17
    assert any("16 films have no patient in the manifest, but N/A" in note for note in index.report.notes)
    assert "the 16 films whose patient is not known were all of one" in index.report.notes[0]


def test_a_parquet_cell_that_is_no_text_is_named(tmp_path: Path) -> None:
    rows = [{"path": "a.png", "label": [1]}, {"path": "b.png", "label": [0]}]
    with pytest.raises(DataError, match=r"film 1 of .* has ndarray in the column label"):
        scan(manifest(tmp_path / "m.parquet", rows))


def test_a_manifest_by_a_link_or_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, object]] = [{"path": f"films/{n}.png", "label": n % 2} for n in range(20)]
    for row in rows:
        film(tmp_path / "set" / str(row["path"]))
    (tmp_path / "set/m.csv").symlink_to(manifest(tmp_path / "elsewhere.csv", rows))
    monkeypatch.chdir(tmp_path / "set")
    for name in (tmp_path / "set/m.csv", "m.csv"):
        index = scan(name)
        assert index.report.used == 20, "paths start from where the link stands, not from where it leads"
        assert index.root == tmp_path / "set"
    monkeypatch.chdir(tmp_path)
    assert (index.root / index.table["path"].iloc[0]).is_file(), "the index outlives a change of folder"


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing at .*nowhere"):
        scan(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"looked for train or test, each with two class folders.*no folders"):
        scan(tmp_path / "empty")
    for n in range(3):
        film(tmp_path / f"flat/NORMAL/{n}.png")
        film(tmp_path / f"flat/PNEUMONIA/{n}.png")
        film(tmp_path / f"one/train/NORMAL/{n}.png")
        for name in "abc":
            film(tmp_path / f"three/train/{name}/{n}.png")
    with pytest.raises(DataError, match="found the folders NORMAL, PNEUMONIA"):
        scan(tmp_path / "flat")
    with pytest.raises(DataError, match=r"two classes in .* found 1: NORMAL"):
        scan(tmp_path / "one")
    with pytest.raises(DataError, match=r"two classes in .* found 3: a, b, c"):
        scan(tmp_path / "three")
    with pytest.raises(DataError, match=r"found several \(one, three\)"):
        scan(tmp_path)
    film(tmp_path / "gifs/train/NORMAL/a.gif")
    with pytest.raises(DataError, match=r"found none \(1 GIF ignored\)"):
        scan(tmp_path / "gifs")
    with pytest.raises(DataError, match="neither"):
        scan(film(tmp_path / "notes.txt"))


# --- the fingerprint


def test_the_fingerprint_is_of_content(tmp_path: Path) -> None:
    root = kermany(tmp_path)
    before = scan(root).fingerprint
    (root / "train/NORMAL/IM-0003-0001.jpeg").rename(root / "train/NORMAL/another name.png")
    assert scan(root).fingerprint == before
    (root / "train/NORMAL/another name.png").rename(root / "train/PNEUMONIA/another name.png")
    relabelled = scan(root).fingerprint
    (root / "train/PNEUMONIA/another name.png").rename(root / "test/PNEUMONIA/another name.png")
    moved = scan(root).fingerprint
    film(root / "test/PNEUMONIA/another name.png", "one byte more")
    assert len({before, relabelled, moved, scan(root).fingerprint}) == 4


# --- the validation split


def frame(films: list[tuple[int, int, str]]) -> pd.DataFrame:
    """Train films as (patient number, label, subtype)."""
    rows = [("train", label, f"p{patient}", subtype) for patient, label, subtype in films]
    return pd.DataFrame(rows, columns=["split", "label", "patient", "subtype"])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 1), st.sampled_from(["", "a", "b"])), min_size=1, max_size=60)
)
def test_no_patient_is_on_both_sides_and_no_class_is_missing(films: list[tuple[int, int, str]]) -> None:
    table = assign_val(frame(films))
    sides = table.groupby("patient")["split"].nunique()
    assert (sides == 1).all()
    for _, rows in table.groupby("label"):
        want = {"train", "val"} if rows["patient"].nunique() > 1 else {"train"}
        assert set(rows["split"]) == want
    # the order of the rows decides nothing
    shuffled = assign_val(frame(films).sample(frac=1, random_state=0)).sort_index()
    assert shuffled["split"].tolist() == table["split"].tolist()


def test_val_is_stratified() -> None:
    sizes = {(0, ""): 900, (1, "bacteria"): 500, (1, "virus"): 301, (1, "rare"): 10}
    films = [
        (hash_free, label, subtype)
        for k, ((label, subtype), n) in enumerate(sizes.items())
        for hash_free in range(k * 10_000, k * 10_000 + n)
    ]
    table = assign_val(frame(films))
    for (label, subtype), n in sizes.items():
        chosen = table[(table["label"] == label) & (table["subtype"] == subtype)]["split"].eq("val").sum()
        assert abs(chosen - VAL_SHARE * n) <= 1


def test_adding_films_moves_few_patients() -> None:
    films = [(n, n % 2, "") for n in range(1000)]
    before = assign_val(frame(films)).set_index("patient")["split"]
    after = assign_val(frame(films + [(n, n % 2, "") for n in range(1000, 1100)])).set_index("patient")["split"]
    assert (before != after[before.index]).sum() <= 20  # another salt would move about 255


def test_the_split_is_the_same_for_ever() -> None:
    table = assign_val(frame([(n, n % 2, "") for n in range(40)]))
    chosen = sorted(table[table["split"] == "val"]["patient"])
    assert chosen == ["p11", "p13", "p21", "p22", "p30", "p6"], "val films have changed: old and new runs differ"


@pytest.mark.parametrize("sizes", [(10, 1000), (2, 200)])
def test_small_classes(tmp_path: Path, sizes: tuple[int, int]) -> None:
    for name, n in zip(("NORMAL", "PNEUMONIA"), sizes, strict=True):
        for number in range(n):
            film(tmp_path / f"train/{name}/{number}.png", f"{name} {number}")
    index = scan(tmp_path)
    require(index, "train")
    require(index, "val")


def test_without_corrupt_films(tmp_path: Path) -> None:
    index = scan(kermany(tmp_path))
    lost = index.table["path"].iloc[5]
    less = index.without([(lost, "truncated")])
    assert lost not in paths(less)
    assert less.table.index.equals(pd.RangeIndex(47))
    assert less.report.corrupt == ((lost, "truncated"),)
    assert less.report.used == 47
    assert sum(int(row["films"]) for row in less.report.counts) == 47
    assert less.fingerprint == index.fingerprint


# --- real films


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="the real films of ../shared/data are not there")
def test_real_films() -> None:
    index = scan(REAL)
    by_path = Counter(index.table["path"].str.split("/").str[:2].str.join("/"))
    left_out = Counter("/".join(path.split("/")[:2]) for g in index.report.duplicates for path in g.left_out)
    assert by_path + left_out == {
        "train/NORMAL": 1341, "train/PNEUMONIA": 3875, "test/NORMAL": 71, "test/PNEUMONIA": 133,
    }  # fmt: skip
    assert not index.report.leaks
    assert not index.report.corrupt
    assert index.classes == ("NORMAL", "PNEUMONIA")
    sides = index.table[index.table["split"] != "test"].groupby("patient")["split"].nunique()
    assert (sides == 1).all()
    row = index.table.iloc[0]
    assert hashlib.sha256((index.root / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    assert scan(REAL / "chest_xray").fingerprint == index.fingerprint


@pytest.mark.parametrize(
    "classes",
    [
        ("NORMAL", "PNEUMONIA"),
        ("healthy", "pneumonia_bacterial"),
        ("No Finding", "Lung Opacity"),
        ("negative", "COVID"),
    ],
)
def test_classes_that_opacities_tell_apart(classes: tuple[str, str]) -> None:
    assert told_by_opacities(classes)


@pytest.mark.parametrize(
    "classes",
    [
        ("NORMAL", "Cardiomegaly"),
        ("normal", "Pneumothorax"),
        ("normal", "pneumonectomy"),
        ("0", "1"),
        ("bacterial_pneumonia", "viral_pneumonia"),
        ("COVID", "Lung_Opacity"),
        ("pneumonia", "without pneumonia"),
        ("covid", "covid_no"),
        ("healthy", "no pneumonia"),
    ],
)
def test_classes_that_they_do_not(classes: tuple[str, str]) -> None:
    """Two illnesses, another illness, or no telling which class is which: an ill film must not become a normal one."""
    assert not told_by_opacities(classes)
