"""Searches of one study at a time: one leads, the others join."""

import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from pneumonia.config import SearchConfig
from pneumonia.data import index as data
from pneumonia.registry.gate import Verdict
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import SILENT
from pneumonia.runtime.signals import Interrupted
from pneumonia.search import connection, final, leader, run
from pneumonia.search import study as studies
from pneumonia.search.worker import Task
from pneumonia.tracking.record import Record, Run, records
from pneumonia.tracking.store import Tracker
from tests.command import until
from tests.conftest import gone

Search = Callable[..., run.Outcome]


@pytest.fixture
def config() -> SearchConfig:
    return SearchConfig(data="films", disturb=0.7, opacity=0.3, trials=1).for_data(cores=1, films=4400)


@pytest.fixture
def one_trial(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Instead of trainings: the first trial ends at once, and nothing is trained in full. The parents of the trials."""
    parents: list[str] = []

    def run_trials(study: optuna.Study, task: Task, *rest: Any, **more: Any) -> None:
        parents.append(str(task.context.parent))
        if (trial := studies.claim(study, 1, wait=lambda: True)) is not None:
            study.tell(trial, 0.1)

    def finish(trials: Any, task: Task, *rest: Any) -> tuple[Record, Verdict]:
        record = task.context.begin(Run(name="final", role="final"), task.index)
        record.finish("COMPLETE")
        return record, Verdict(name="pneumonia", version="1", alias="champion", reason="it is alone")

    monkeypatch.setattr(run.pool, "prepared", nullcontext)  # no worker will start
    monkeypatch.setattr(run, "_run_trials", run_trials)
    monkeypatch.setattr(run, "_record_trials", lambda *rest: None)  # draws figures
    monkeypatch.setattr(run, "decode_for", lambda *rest, **more: None)
    monkeypatch.setattr(run.cache, "decode", lambda *rest, **more: None)
    monkeypatch.setattr(final, "finish", finish)
    return parents


@pytest.fixture
def search(index: data.Index, home: Path, tracker: Tracker, config: SearchConfig, one_trial: list[str]) -> Search:
    """A search of this home, typed again with each call: `search(study="mine")`."""
    return lambda **more: run.search(replace(config, **more), index, RunContext(home=home, tracker=tracker))


def test_of_those_who_joined_only_who_claims_the_lead_has_it(
    search: Search, one_trial: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first leader dies; another of those who joined is quicker, and this one joins that, until it has finished."""
    free = leader.Standing()
    led = [leader.Standing(leader={"run_id": name}) for name in ("first", "second")]
    standings = iter([led[0], free, led[1], leader.Standing(finished="second")])
    monkeypatch.setattr(leader, "ask", lambda study: next(standings))
    monkeypatch.setattr(leader, "claim", lambda study, seen: None)
    ended = search(trials=2)
    assert one_trial == ["first", "second"]
    assert (ended.run_id, ended.joined, ended.done) == ("second", True, True)


def test_a_joined_search_ends_when_the_trials_are_done(
    search: Search, one_trial: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "ask", lambda study: leader.Standing(leader={"run_id": "other"}))
    ended = search()
    assert one_trial == ["other"]
    assert (ended.run_id, ended.joined, ended.done) == ("other", True, False)


def test_a_leader_that_slept_hands_over_and_answers_with_what_the_other_found(
    search: Search, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes the study over during its final training, and finishes it."""

    def slow(trials: Any, task: Task, goal: final.Goal, *rest: Any) -> Any:
        study = optuna.load_study(study_name=task.study, storage=connection.connect(task.storage))
        # between a look and the claim the leader may count on, and a claim of what has changed is none
        other = until(lambda: leader.claim(study, study.user_attrs["leader"]), "the lead is taken")
        other.begin("other")
        other.finish("other")
        while True:  # until the next beat has noticed
            goal.check()

    monkeypatch.setattr(leader, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(final, "finish", slow)
    ended = search()
    assert (ended.run_id, ended.done) == ("other", True)
    (parent,) = tracker.client.search_runs(["1"], "tags.role = 'search'")
    assert parent.info.status == "KILLED"


class TestAStudyThatIsDone:
    """What the same command does: the default study of a home is followed by the next, all others are answered."""

    def test_the_default_one(self, search: Search) -> None:
        first, second = search(), search()
        assert (first.done, second.done) == (False, False)
        assert second.study == f"{first.study}-2"

    def test_a_named_one(self, search: Search) -> None:
        first, second, third = search(study="mine"), search(study="mine"), search(study="mine", new=True)
        assert (second.study, second.run_id, second.done) == ("mine", first.run_id, True)
        assert (third.study, third.done) == ("mine-2", False)
        fourth = search(study="mine")
        assert (fourth.study, fourth.run_id, fourth.done) == ("mine-2", third.run_id, True)

    def test_a_shared_one(self, search: Search, tmp_path: Path) -> None:
        storage = f"sqlite:///{tmp_path / 'shared.db'}"
        first, second = search(storage=storage), search(storage=storage)
        assert (second.study, second.run_id, second.done) == (first.study, first.run_id, True)

    def test_one_that_this_home_was_leading_when_it_died(self, search: Search, home: Path) -> None:
        """It is answered once, since the command that died is typed again once."""
        first = search()
        (parent,) = [record for record in records(home / "records") if record.run.role == "search"]
        (parent.folder / "status.json").unlink()
        parent.update(owner=gone())
        second, third = search(), search()
        assert (second.study, second.run_id, second.done) == (first.study, first.run_id, True)
        assert (third.study, third.done) == (f"{first.study}-2", False)


def test_a_run_whose_end_a_worker_was_sending_when_it_was_killed_is_closed(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = task.context.tracker
    study = optuna.load_study(study_name=task.study, storage=connection.connect(task.storage))
    of_study = task.context.home / "records" / task.study
    record = Record.create(of_study / "trial-0000", Run(name="trial 0", role="trial", experiment="pneumonia"))
    run_id = tracker.send(record)

    def killed(*rest: Any, **more: Any) -> None:
        record.finish("INTERRUPTED", "SIGTERM while training")
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(run.pool, "run", killed)
    monkeypatch.setattr(run, "TIDY_SECONDS", 60.0)
    with pytest.raises(Interrupted):
        run._run_trials(study, task, 1, SILENT)
    assert tracker.client.get_run(run_id).info.status == "KILLED"
