"""The page of an exploration."""

import shutil
from pathlib import Path

from pneumonia.data.index import Index, scan
from pneumonia.reports import exploration_page
from pneumonia.runs import explore


def test_copies_are_listed(index: Index, tmp_path: Path) -> None:
    root = tmp_path / "films"
    shutil.copytree(index.root, root)
    one, leaked = index.only("train")["path"].iloc[0], index.only("test")["path"].iloc[0]
    shutil.copy(root / one, (root / one).with_name("twin.jpeg"))
    shutil.copy(root / leaked, (root / leaked.replace("test", "train", 1)).with_name("leaked.jpeg"))
    told = explore.explore(scan(root), home=tmp_path / "home")
    assert (told.as_dict()["duplicates_left_out"], told.as_dict()["leaks_left_out"]) == (1, 1)
    page = exploration_page.html(told, {})
    assert "twin.jpeg" in page
    assert "leaked.jpeg" in page
