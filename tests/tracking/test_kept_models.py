"""Which trials keep their models is decided from what the store has, whatever machine sent it and when."""

from pathlib import Path
from typing import Any

import pytest

from pneumonia.tracking import kept_models
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.tracking.conftest import NewRecord, stub_model


@pytest.fixture
def parent(tracker: Tracker, new_record: NewRecord) -> str:
    record = new_record("search", role="search")
    record.add_params({"keep_models": 2})
    return tracker.send(record)


def trial(new_record: NewRecord, number: int, objective: float, parent: str, **more: Any) -> Record:
    record = new_record(f"trial {number}", role="trial", parent=parent, tags={"trial.number": str(number)}, **more)
    record.summarise({"val/objective": objective}, step=1)
    stub_model(record)
    record.finish("PRUNED" if number % 2 else "COMPLETE")
    return record


def with_models(tracker: Tracker, parent: str) -> set[str]:
    runs = tracker.children("1", parent)
    return {run.data.tags["trial.number"] for run in runs if tracker.has_model(run.info.run_id)}


def test_the_best_keep_theirs_wherever_they_ran(tracker: Tracker, new_record: NewRecord, parent: str) -> None:
    """Also a trial that another machine sends late."""
    for number, objective in enumerate((0.5, 0.2, 0.4)):
        tracker.send(trial(new_record, number, objective, parent))
    assert kept_models.keep_best(tracker, "1", parent, 2) == 1
    assert with_models(tracker, parent) == {"1", "2"}
    late = trial(new_record, 3, 0.1, parent)
    tracker.send(late)
    assert kept_models.keep_best(tracker, "1", parent, 2) == 1
    assert kept_models.keep_best(tracker, "1", parent, 2) == 0
    assert with_models(tracker, parent) == {"1", "3"}
    tags = {run.data.tags["trial.number"]: run.data.tags.get("model.dropped") for run in tracker.children("1", parent)}
    assert tags == {"0": "deleted", "1": None, "2": "deleted", "3": None}


def test_a_home_that_sends_after_the_search_gives_up_what_is_too_much(
    tracker: Tracker, new_record: NewRecord, parent: str, home: Path
) -> None:
    """It knows the number from the search's run, and asks for no other run's."""
    for number, objective in enumerate((0.5, 0.2, 0.4)):
        trial(new_record, number, objective, parent)
    lonely = trial(new_record, 7, 0.9, tracker.send(new_record("seeds", role="seeds")))
    done, left = kept_models.sync(tracker, home)
    assert (len(done), left) == (4, [])
    assert with_models(tracker, parent) == {"1", "2"}
    assert tracker.has_model(sent(lonely)["run_id"])
    assert kept_models.keep_best_of_sent(tracker, done) == 0


def test_a_run_that_was_closed_for_a_dead_machine_may_still_get_its_model(
    tracker: Tracker, new_record: NewRecord, parent: str
) -> None:
    for number, objective in enumerate((0.5, 0.2, 0.4)):
        record = trial(new_record, number, objective, parent)
        if number == 0:
            record.model.rename(record.folder / "away")
        tracker.send(record)
    assert kept_models.keep_best(tracker, "1", parent, 2) == 0
    closed = next(run for run in tracker.children("1", parent) if run.data.tags["trial.number"] == "0")
    assert "model.dropped" not in closed.data.tags


def test_no_other_run_s_model_is_touched(tracker: Tracker, new_record: NewRecord, parent: str) -> None:
    """Neither the final training's nor that of a trial that is still running."""
    final = new_record("final", role="final", parent=parent)
    stub_model(final)
    final.finish("COMPLETE")
    tracker.send(final)
    running = new_record("running", role="trial", parent=parent, tags={"trial.number": "0"})
    tracker.send(running)
    assert kept_models.keep_best(tracker, "1", parent, 0) == 0
    assert tracker.has_model(sent(final)["run_id"])
