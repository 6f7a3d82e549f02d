"""The same film twice is used once, and never on both sides."""

import json
from pathlib import Path

from pneumonia.data.index import scan
from tests.data.conftest import film, kermany, paths


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
