"""Sets of synthetic films: the layout and names of the real ones, and the same bytes for a seed."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pneumonia.synthetic import dataset as synthetic
from pneumonia.synthetic.dataset import write

NORMAL = re.compile(r"(?:NORMAL2-)?(IM-\d{4})-\d{4}\.jpeg")
PNEUMONIA = re.compile(r"(person\d+)_(bacteria|virus)_\d+\.jpeg")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("home"), seed=7, train=64, test=32)


def test_layout_counts_and_names(films: Path) -> None:
    root = films / "chest_xray"
    counts = {(s, c): len(list((root / s / c).iterdir())) for s in ("train", "test") for c in ("NORMAL", "PNEUMONIA")}
    assert counts == {
        ("train", "NORMAL"): 16,
        ("train", "PNEUMONIA"): 48,
        ("test", "NORMAL"): 12,
        ("test", "PNEUMONIA"): 20,
    }
    for path in root.rglob("*.*"):
        assert (NORMAL if path.parent.name == "NORMAL" else PNEUMONIA).fullmatch(path.name), path.name
        film = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert film is not None
        assert film.ndim == 2
        assert film.std() > 20


def test_patients_have_one_class_one_subtype_and_sometimes_several_films() -> None:
    plan = list(synthetic._plan(0, 1040, 208))
    assert len({film.path for film in plan}) == len(plan) == 1248
    subtypes: dict[tuple[str, str], set[str]] = {}
    numbers: Counter[tuple[str, str]] = Counter()
    for film in plan:
        _, split, _, name = film.path.split("/")
        match = NORMAL.fullmatch(name) or PNEUMONIA.fullmatch(name)
        assert match, name
        subtypes.setdefault((split, match[1]), set()).add(film.subtype)
        numbers[split, match[1]] += 1
    assert all(len(s) == 1 for s in subtypes.values())
    assert {1, 2, 3} <= set(numbers.values())
    seeds = {(film.patient[1], film.patient[2:]) for film in plan}
    assert len(seeds) == len(subtypes)
    kinds = Counter(film.subtype for film in plan)
    assert 1.5 < kinds["bacteria"] / kinds["virus"] < 2.7


@pytest.mark.slow
def test_equal_seeds_give_equal_bytes_however_many_processes_draw(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "FILMS_A_PROCESS", 40)
    monkeypatch.setattr(synthetic.os, "cpu_count", lambda: 2)
    again = write(tmp_path, seed=7, train=64, test=32)
    assert again.name == films.name
    assert digests(again) == digests(films)
    assert [p.name for p in tmp_path.iterdir()] == [again.name]


def test_seeds_give_other_films(tmp_path: Path) -> None:
    one, two = (digests(write(tmp_path, seed=s, train=8, test=8)) for s in (0, 1))
    assert not set(one.values()) & set(two.values())
    assert len(set(one.values())) == 16


def test_a_complete_set_is_reused_and_another_size_is_another_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path, train=8, test=8)
    other = write(tmp_path, train=9, test=8)
    assert other != first
    monkeypatch.setattr(synthetic, "draw", lambda *_, **__: pytest.fail("drew again"))
    assert write(tmp_path, train=8, test=8) == first


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def fail(*args: object, **kwargs: object) -> np.ndarray:
        drawn.append(args)
        if len(drawn) > 4:
            raise OSError("disk full")
        return np.zeros((32, 32), np.uint8)

    monkeypatch.setattr(synthetic, "draw", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, train=8, test=8)
    assert not list(tmp_path.iterdir())


def test_a_failing_process_is_reported_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(synthetic.sys, "executable", shutil.which("false"))
    with pytest.raises(OSError, match="exit code 1"):
        write(tmp_path, train=200, test=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_at_once_end_with_one_set(tmp_path: Path) -> None:
    code = (
        f"import pathlib, pneumonia.synthetic as s; print(s.write(pathlib.Path({str(tmp_path)!r}), train=24, test=8))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate(timeout=60)[0].strip() for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert said[0] == said[1]
    assert [str(p) for p in tmp_path.iterdir()] == said[:1]
    assert len(digests(Path(said[0]))) == 32


@pytest.mark.parametrize(("arguments", "word"), [({"seed": -1}, "seed"), ({"train": 7}, "8"), ({"test": 0}, "8")])
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        write(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
