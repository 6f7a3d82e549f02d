"""A final training that another machine sent is gone on with from what the store has of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pneumonia.data.index import Index
from pneumonia.registry.versions import enter, is_waiting
from pneumonia.runs.context import RunContext
from pneumonia.tracking.fetched_record import complete_runs, fetch_record
from pneumonia.tracking.record import Record, Run
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent


def test_what_one_machine_trained_another_registers(
    tracker: Tracker, copy_trained: Callable[..., Record], index: Index, tmp_path: Path
) -> None:
    """And when the first comes back, it finds its model registered as that version."""
    first = copy_trained("final", register="pneumonia", role="final")
    first.update(tags={**first.run.tags, "study.key": "k", "best.trial": "3"})
    first.finish("COMPLETE")
    tracker.send(first)
    (run,) = complete_runs(tracker, "pneumonia", "final", "k")
    assert complete_runs(tracker, "pneumonia", "final", "another") == []
    assert complete_runs(tracker, "nowhere", "final", "k") == []

    other = RunContext(home=tmp_path / "other", tracker=tracker)
    like = other.filled_in(Run(name="final", role="final", register="pneumonia"), index)
    fetched = fetch_record(tracker, run, like, tmp_path / "other" / "records" / "final")
    assert fetched is not None
    assert is_waiting(fetched)
    assert first.summary.items() <= fetched.summary.items()
    assert fetched.run.tags.items() >= {"study.key": "k", "best.trial": "3", "data.classes": "NORMAL/PNEUMONIA"}.items()
    verdict = enter(tracker, fetched)
    assert (verdict.version, verdict.alias) == ("1", "champion")
    assert tracker.client.get_run(sent(first)["run_id"]).info.status == "FINISHED"

    again = enter(tracker, first)
    assert (again.version, again.alias) == ("1", "champion")
    assert len(tracker.client.search_model_versions("name = 'pneumonia'")) == 1


def test_a_run_without_a_model_is_no_record(tracker: Tracker, new_record: Callable[..., Record], home: Path) -> None:
    record = new_record("final", role="final", tags={"study.key": "k"})
    record.finish("COMPLETE")
    tracker.send(record)
    (run,) = complete_runs(tracker, "pneumonia", "final", "k")
    assert fetch_record(tracker, run, replace(record.run), home / "there") is None
    assert not (home / "there").exists()
