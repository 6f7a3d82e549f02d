"""What is a film and what is not: by suffix, by content, by where it stands."""

import json
import os
from pathlib import Path

from pneumonia.data.index import scan
from tests.data.conftest import film, kermany


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
