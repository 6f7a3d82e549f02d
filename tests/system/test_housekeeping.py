"""`clean` and `doctor` beside a search in the same home, and after it."""

import json
import time
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner, Result

from pneumonia.cli import cli
from pneumonia.tracking.record import records
from pneumonia.tracking.store import Tracker
from tests.command import Lab

pytestmark = [pytest.mark.slow, pytest.mark.long]


def run(*words: str) -> Result:
    """In this process, so that it is done often while the search runs."""
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    return done


def test_cleaning_beside_a_search_does_it_no_harm(
    films: Path, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, films, tracking=tracker.uri)
    monkeypatch.setenv("PNEUMONIA_HOME", str(lab.home))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    try:
        search, cleaned = lab.search(trials=3, workers=1), 0
        while search.process.poll() is None:
            run("clean", "--yes", "--older", "0", "--keep-models", "1")
            cleaned += 1
            time.sleep(0.5)
        assert search.end() == 0, search.text()
        assert cleaned > 3
        assert len(lab.done()) == 3
        runs = lab.runs()
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert len(runs) == 5  # the search, its trials and the final training
        run("clean", "--yes", "--keep-models", "1")
        assert list(records(lab.home / "records")) == []
        assert len(tracker.client.search_logged_models(["1"])) == 2  # the best trial's, and the champion
        mlflow.pyfunc.load_model("models:/pneumonia@champion")
        found = json.loads(run("doctor", "--json").stdout)
        assert {one["state"] for one in found if one["name"] in ("champion", "unsent", "stale runs")} == {"ok"}
    finally:
        lab.stop()
