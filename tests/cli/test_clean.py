"""The command `clean`: a list first, and nothing that is not sent, ever."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pneumonia.cli import cli
from pneumonia.tracking.record import records
from pneumonia.tracking.store import Tracker
from tests.conftest import NO_SERVER, gone
from tests.housekeeping.conftest import NewRecord, sent_record
from tests.tracking.conftest import small

__all__ = ["sent_record"]


def run(*words: str):
    return CliRunner().invoke(cli, ["clean", *words])


@pytest.fixture(autouse=True)
def place(home: Path, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home, and a folder for temporary files in which nobody else leaves any."""
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def test_nothing_is_removed_without_yes_and_what_is_not_sent_never(
    sent_record: NewRecord, new_record: NewRecord, home: Path
) -> None:
    whole, unsent = sent_record("whole"), small(new_record, "unsent", owner=gone())
    for words in ((), ("--json",), ("--older", "0", "--keep-models", "1")):
        done = run(*words)
        assert done.exit_code == 0, done.output
        assert "whole" in done.output
        assert "unsent" not in done.output
        assert set(records(home / "records")) == {whole, unsent}
    assert "nothing was removed: --yes removes them" in run().stderr
    done = run("--yes")
    assert done.exit_code == 0, done.output
    assert "1 of 1 removed" in done.stderr
    assert records(home / "records") == [unsent]
    assert "nothing can go" in run("--yes").stderr


def test_json(sent_record: NewRecord, home: Path) -> None:
    record = sent_record("whole")
    listed = json.loads(run("--json").stdout)
    assert (listed["removed"], [one["state"] for one in listed["items"]]) == (False, ["can go"])
    assert listed["bytes"] == listed["items"][0]["bytes"] > 0
    assert listed["items"][0]["what"] == str(record.folder)
    removed = json.loads(run("--json", "--yes").stdout)
    assert (removed["removed"], removed["bytes"]) == (True, listed["bytes"])
    assert [one["state"] for one in removed["items"]] == ["removed"]


def test_while_the_store_is_away_its_records_stay(
    sent_record: NewRecord, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_record("whole")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_SERVER)
    done = run("--yes", "--keep-models", "1")
    assert done.exit_code == 0
    assert "are not looked at, and stay" in done.stderr
    assert len(records(home / "records")) == 1


def test_what_cannot_be_removed_is_said(sent_record: NewRecord, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent_record("whole")

    def broken(path: Path) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr("pneumonia.housekeeping.removable.discard", broken)
    done = run("--yes")
    assert done.exit_code == 1
    assert "stays: Read-only file system" in done.stdout


def test_where_nothing_is_there_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PNEUMONIA_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    done = run("--yes")
    assert done.exit_code == 0
    assert "nothing can go" in done.stderr
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("words", [("--keep-models", "0"), ("--older", "-1")])
def test_what_would_remove_too_much_is_refused(words: tuple[str, str]) -> None:
    assert run(*words).exit_code == 2
