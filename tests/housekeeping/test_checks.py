"""All checks together: on a home that is well, and where the packages are not."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from pneumonia.housekeeping import checks, installation
from pneumonia.housekeeping.checks import Place, every_check
from pneumonia.housekeeping.checkup import Check
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker

ALL = {
    "python", "packages", "environment", "cores", "memory", "libraries", "gpu", "nginx", "disk", "home",
    "tracking store", "tracking schema", "run files", "champion", "stale runs", "unsent", "caches", "study database",
}  # fmt: skip


def states(found: Iterator[Check]) -> dict[str, str]:
    return {check.name: check.state for check in found}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_where_all_is_well_every_check_says_so_and_nothing_changes(
    tracker: Tracker, registered: Record, home: Path, tmp_path: Path
) -> None:
    before = everything(tmp_path)
    place = Place(tracker.uri, home, home)
    found = states(every_check({}, lambda: place, storage=None, experiment="pneumonia"))
    assert found.keys() == ALL
    assert "error" not in found.values()
    assert everything(tmp_path) == before


def test_where_nothing_is_there_yet_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = Place("sqlite:///mlflow.db", None, tmp_path / "data")
    found = states(every_check({}, lambda: place, storage=None, experiment="pneumonia"))
    assert "error" not in found.values()
    assert (found["tracking store"], found["home"]) == ("note", "note")
    assert list(tmp_path.iterdir()) == []


def test_a_store_behind_its_schema_is_not_opened_and_the_rest_is_looked_at(
    tracker: Tracker, home: Path, tmp_path: Path
) -> None:
    home.mkdir()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as opened:
        opened.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        opened.commit()
    place = Place(tracker.uri, home, home)
    found = states(every_check({}, lambda: place, storage=None, experiment="pneumonia"))
    assert found["tracking schema"] == "error"
    assert "champion" not in found
    assert found["unsent"] == "ok"


def test_packages_that_cannot_be_loaded_end_nothing_but_what_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "libraries", partial(installation.libraries, ("json", "no_such_package")))

    def place() -> Place:
        raise AssertionError("MLflow may be what is broken")

    found = states(every_check({}, place, storage=None, experiment="pneumonia"))
    assert (found["libraries"], found["tracking store"]) == ("error", "error")
    assert found["cores"] in ("ok", "warning")


def test_a_home_that_is_not_found_in_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PLACE_SECONDS", 0.2)
    let_go = threading.Event()

    def place() -> Place:
        let_go.wait(60)
        raise AssertionError("too late")

    found = states(every_check(dict(os.environ), place, storage=None, experiment="pneumonia"))
    let_go.set()
    assert found["tracking store"] == "error"
