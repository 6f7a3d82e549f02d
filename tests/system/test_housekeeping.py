"""`doctor` and `clean` as commands beside a search in the same home, and after it."""

import json
import time
from pathlib import Path

import mlflow
import pytest

from pneumonia.tracking.record import records
from pneumonia.tracking.store import Tracker
from tests.command import Lab

pytestmark = pytest.mark.slow


def test_cleaning_beside_a_search_does_it_no_harm(films: Path, tracker: Tracker, tmp_path: Path) -> None:
    lab = Lab(tmp_path, films, tracking=tracker.uri)
    try:
        search, cleaned = lab.search(trials=3, workers=1), 0
        while search.process.poll() is None:
            clean = lab.start("clean", "--yes", "--older", "0", "--keep-models", "1")
            assert clean.end() == 0, clean.text()
            cleaned += 1
            time.sleep(1)
        assert search.end() == 0, search.text()
        assert cleaned
        assert len(lab.done()) == 3
        runs = lab.runs()
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert len(runs) == 5  # the search, its trials and the final training
        lab.start("clean", "--yes", "--keep-models", "1").end()
        assert list(records(lab.home / "records")) == []
        assert len(tracker.client.search_logged_models(["1"])) == 2  # the best trial's, and the champion
        mlflow.pyfunc.load_model("models:/pneumonia@champion")
        doctor = lab.start("doctor", "--json")
        assert doctor.end() == 0, doctor.text()
        found = json.loads(doctor.text()[: doctor.text().rindex("]") + 1])
        assert {one["state"] for one in found if one["name"] in ("champion", "unsent", "stale runs")} == {"ok"}
    finally:
        lab.stop()
