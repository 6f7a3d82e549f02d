"""The final candidate: trained and registered once, also by who comes later."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.registry.versions import enter
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import SILENT
from pneumonia.runs.train import run_training
from pneumonia.search import final
from pneumonia.search.leader import LeadLost
from pneumonia.search.storage import StudyError
from pneumonia.search.worker import Task
from pneumonia.tracking.record import Record, records
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.conftest import TINY


class Trained(Exception):
    """A final training began."""


@pytest.fixture
def in_full(
    index: data.Index, decoded: cache.Decoded, home: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Ends a search whose best trial has TINY's configuration: `in_full(lr=1e-3)`, or another."""

    def train(*arguments: Any, **more: Any) -> None:
        raise Trained

    monkeypatch.setattr(final, "run_training", train)

    def end(*, confirm: Callable[[], None] = lambda: None, **changes: Any) -> Any:
        task = Task(
            index=index,
            base=replace(TINY, epochs=1),
            long=False,
            changed=True,
            context=RunContext(home=home, tracker=tracker),
            storage="",
            study="study",
            goal=1,
            keep_models=1,
            pruner="none",
        )
        params = {"lr": TINY.lr, **changes}
        best = optuna.trial.create_trial(
            params=params, distributions={name: FloatDistribution(0, 1) for name in params}, value=0.1
        )
        assert isinstance(best, FrozenTrial)
        goal = final.Goal(epochs=TINY.epochs, model_name="pneumonia", key="ab12", confirm=confirm)
        return final.finish([best], task, goal, decoded, SILENT)

    return end


@pytest.fixture
def waiting(copy_trained: Callable[..., Record], tracker: Tracker) -> Record:
    """A final training that ended and was sent, but not registered, before its search died."""
    record = copy_trained("final", register="pneumonia", role="final")
    assert record.params == asdict(TINY)
    record.finish("COMPLETE")
    tracker.send(record)
    return record


def test_a_final_training_that_waits_is_registered(in_full: Callable[..., Any], waiting: Record) -> None:
    record, verdict = in_full()
    assert (record.folder, verdict.version, verdict.alias) == (waiting.folder, "1", "champion")


def test_a_final_training_that_waits_is_registered_though_the_films_have_moved(
    in_full: Callable[..., Any], waiting: Record
) -> None:
    waiting.update(dataset={**waiting.run.dataset, "source": "/nonexistent"})
    record, verdict = in_full()
    assert (record.folder, verdict.version, verdict.alias) == (waiting.folder, "1", "champion")


def test_what_is_registered_is_not_trained_again(
    in_full: Callable[..., Any], waiting: Record, tracker: Tracker
) -> None:
    before = enter(tracker, waiting)
    record, verdict = in_full()
    assert (record.folder, verdict) == (waiting.folder, before)
    assert len(tracker.client.search_model_versions("name = 'pneumonia'")) == 1


def test_another_best_trial_is_trained(in_full: Callable[..., Any], waiting: Record) -> None:
    with pytest.raises(Trained):
        in_full(lr=TINY.lr / 2)
    assert "verdict" not in sent(waiting)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (LeadLost("another search leads study study by now"), "INTERRUPTED"),
        (StudyError("it has not answered"), "COMPLETE"),
    ],
)
def test_who_was_cut_off_in_the_final_training_asks_who_leads_before_it_is_complete(
    in_full: Callable[..., Any],
    tracker: Tracker,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    state: str,
) -> None:
    """Another may have made the final model meanwhile: there is one. A database that is away takes none away."""
    monkeypatch.setattr(final, "run_training", run_training)  # the real one
    monkeypatch.setattr(final, "_registered", lambda *arguments: None)

    def confirm() -> None:
        raise error

    with pytest.raises(LeadLost) if state == "INTERRUPTED" else nullcontext():
        in_full(confirm=confirm)
    (record,) = records(home / "records")
    assert record.status is not None
    assert record.status["state"] == state
    run = tracker.client.get_run(sent(record)["run_id"])
    assert run.info.status == ("KILLED" if state == "INTERRUPTED" else "FINISHED")
