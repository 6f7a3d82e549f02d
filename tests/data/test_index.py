"""The index: what it counts, what is refused, and its fingerprint."""

import hashlib
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from pneumonia.data.index import DataError, require, scan
from tests.conftest import ROOT
from tests.data.conftest import film, kermany, paths

REAL = ROOT.parent / "shared" / "data"


def test_only_test(tmp_path: Path) -> None:
    index = scan(kermany(tmp_path, train=0))
    assert set(index.table["split"]) == {"test"}
    require(index, "test")
    with pytest.raises(DataError, match=r"looked for train films of NORMAL and PNEUMONIA in .*found 4 test NORMAL"):
        require(index, "train")


def test_counts_name_their_subtypes(tmp_path: Path) -> None:
    index = scan(kermany(tmp_path, train=0))
    with pytest.raises(DataError, match=r"found 4 test NORMAL, 4 test PNEUMONIA virus$"):
        require(index, "train")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kermany(tmp_path / "films")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scan("~/films").report.used == 48


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
