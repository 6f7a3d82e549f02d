"""What a run logged takes the place of the model that it did not keep."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumonia.data.index import Index
from pneumonia.runs.compare import compare_and_record
from pneumonia.runs.context import RunContext
from pneumonia.tracking.store import Tracker
from tests.runs.conftest import drop


def test_a_run_that_kept_no_model_is_compared_by_what_it_predicted(
    tracker: Tracker, runs: list[str], index: Index, home: Path
) -> None:
    whole = compare_and_record(runs, index, RunContext(home=home, tracker=tracker))[1]
    drop(tracker, runs[1])
    part = compare_and_record(runs, index, RunContext(home=home, tracker=tracker))[1]
    assert part.models == whole.models
    np.testing.assert_allclose(part.probabilities, whole.probabilities, atol=1e-4)
    np.testing.assert_allclose(part.thresholds, whole.thresholds)
    (note,) = set(part.notes) - set(whole.notes)
    assert note.startswith(f"copy {runs[1][:8]} was not kept")

    newer = index.table["path"].where(index.table["path"] != index.only("val")["path"].iloc[0], "another.png")
    (failure,) = compare_and_record(
        runs[:2], replace(index, table=index.table.assign(path=newer)), RunContext(home=home, tracker=tracker)
    )[1].failures  # fmt: skip
    assert failure[0] == "another.png"
    assert f"the run {runs[1]} has no prediction of it" in failure[1]


def test_what_a_run_logged_is_compared_on_its_own_films_alone(
    tracker: Tracker, runs: list[str], index: Index, home: Path
) -> None:
    for run_id in runs:
        drop(tracker, run_id)
    with pytest.raises(ValueError, match=r"one .* takes PNEUMONIA for the positive class, but .* NORMAL"):
        compare_and_record(
            runs, replace(index, classes=("PNEUMONIA", "NORMAL")), RunContext(home=home, tracker=tracker)
        )
    tracker.client.set_tag(runs[1], "data.fingerprint", "another")
    with pytest.raises(ValueError, match=r"copy .* kept no model, and what it logged is of other films"):
        compare_and_record(runs, index, RunContext(home=home, tracker=tracker))
