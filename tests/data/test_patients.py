"""Whose a film is, by the name of its file."""

from collections import Counter
from pathlib import Path

from pneumonia.data.index import scan
from tests.data.conftest import film


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
