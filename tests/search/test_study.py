"""The study: who gets which trial, and exactly as many as wanted."""

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from pneumonia import config
from pneumonia.augmentation import stress_tests as stress
from pneumonia.search import connection, lost_trials
from pneumonia.search import study as studies
from pneumonia.search.storage import StudyError
from pneumonia.search_space import search_space
from tests.search.conftest import BASE, PRUNER, SPACE, claim


def state(study: optuna.Study, number: int) -> TrialState:
    return studies.trials(study)[number].state


def run_trials(url: str, goal: int, threads: int, first: int) -> None:
    """The workers of one process: of the trials of each, every third fails and every fourth is pruned."""
    broken = threading.Event()

    def wait() -> None:
        assert not broken.wait(0.02), "another worker broke"

    def work(number: int) -> None:
        try:
            study = studies.load(connection.connect(url), "films", seed=0, pruner=PRUNER)
            turn = number
            while (trial := studies.claim(study, goal, wait=wait)) is not None:
                turn += 1
                if turn % 3 == 0:
                    assert studies.fail(study, trial.number, "unlucky", fault=True)
                elif turn % 4 == 0:
                    studies.finish(study, trial.number, None, TrialState.PRUNED)
                else:
                    studies.finish(study, trial.number, trial.params["lr"], TrialState.COMPLETE)
        except BaseException:
            broken.set()
            raise

    with ThreadPoolExecutor(threads) as crew:
        list(crew.map(work, range(first, first + threads)))


def assert_exact(study: optuna.Study, goal: int) -> None:
    """The goal is reached and not exceeded, nothing is left open, and what stepped back is no failure."""
    count = Counter(trial.state for trial in studies.trials(study))
    assert count[TrialState.COMPLETE] + count[TrialState.PRUNED] == goal
    assert count[TrialState.RUNNING] == 0
    reasons = {trial.user_attrs["reason"] for trial in studies.trials(study, TrialState.FAIL)}
    assert reasons <= {"unlucky", "surplus"}
    assert {trial.user_attrs["reason"] for trial in studies.failures(study)} <= {"unlucky"}


@pytest.mark.slow
@pytest.mark.parametrize("goal", [1, 7])
def test_threads_reach_the_goal_exactly(study: optuna.Study, url: str, goal: int) -> None:
    run_trials(url, goal, threads=6, first=0)
    assert_exact(study, goal)


@pytest.mark.slow
def test_processes_reach_the_goal_exactly(study: optuna.Study, url: str) -> None:
    context = multiprocessing.get_context("spawn")
    crew = [context.Process(target=run_trials, args=(url, 8, 3, first)) for first in (0, 100)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(60)
    assert [process.exitcode for process in crew] == [0, 0]
    assert_exact(study, 8)


def test_a_study_of_another_objective_is_not_taken_up(study: optuna.Study, url: str) -> None:
    claim(study)
    name = studies.default_name("ab" * 32, BASE, SPACE, changed=True)
    assert studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True).study_name == "films"
    with pytest.raises(StudyError, match=r"have another objective than .* as they are: name another"):
        studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stress, "VERSION", stress.VERSION + 1)
        assert studies.default_name("ab" * 32, BASE, SPACE, changed=True) != name
        with pytest.raises(StudyError, match="have another objective than"):
            studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True)
    study.set_user_attr("objective", "val/log_loss")
    with pytest.raises(StudyError, match="the trials of study films have another objective"):
        studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True)


def test_nobody_starts_what_others_are_doing(study: optuna.Study) -> None:
    """With as many running as wanted a worker waits; it takes over when one of them fails."""
    first, second = claim(study, 2), claim(study, 2)
    waits = []

    def wait() -> bool:
        waits.append(1)
        if len(waits) == 2:
            studies.fail(study, first.number, "unlucky", fault=True)
        return True

    third = studies.claim(study, 2, wait=wait)
    assert third is not None
    assert third.number > second.number
    assert len(waits) == 2
    for trial in (second, third):
        studies.finish(study, trial.number, 0.5, TrialState.COMPLETE)
    assert studies.claim(study, 2, wait=wait) is None


def test_who_does_not_wait_any_longer_starts_nothing(study: optuna.Study) -> None:
    first = claim(study, 1)

    def too_late() -> bool:
        studies.fail(study, first.number, "the worker was killed", fault=False)
        return False

    assert studies.claim(study, 1, wait=too_late) is None
    assert len(studies.trials(study, TrialState.RUNNING, TrialState.COMPLETE)) == 0


def test_a_study_is_begun_whole_when_the_database_is_away_meanwhile(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = studies.create_or_resume(connection.connect(url), "whole", BASE, SPACE, changed=True, long=True)
    enqueue, calls = optuna.Study.enqueue_trial, []

    def lossy(study: optuna.Study, *args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise StorageInternalError("the server closed the connection")
        enqueue(study, *args, **kwargs)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", lossy)
    monkeypatch.setattr(connection.time, "sleep", lambda seconds: None)
    study = studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True, long=True)
    queued = [[t.system_attrs["fixed_params"] for t in studies.trials(one)] for one in (whole, study)]
    assert len(queued[0]) > 2
    assert queued[0] == queued[1]


def test_a_queued_trial_counts_before_a_new_one(study: optuna.Study) -> None:
    """A lost trial that waits for a worker is taken first, with the parameters that it had."""
    lost = claim(study, 1)
    assert studies.fail(study, lost.number, "the worker was killed", fault=False)
    lost_trials.retry(study, studies.trials(study)[lost.number])
    again = claim(study, 1)
    assert again.params == lost.params
    assert again.number > lost.number


def test_fail_says_why_once(study: optuna.Study) -> None:
    own, stopped = claim(study), claim(study)
    assert studies.fail(study, own.number, "Diverged: no number", fault=True)
    assert studies.fail(study, stopped.number, "SIGTERM", fault=False)
    assert not studies.fail(study, own.number, "another reason", fault=False)
    assert [(t.number, t.user_attrs["reason"]) for t in studies.failures(study)] == [
        (own.number, "Diverged: no number")
    ]
    assert studies.failures(study, since=own.number + 1) == []


def test_finish_survives_an_answer_that_got_lost(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database took the value and went away before it said so: told again, the trial stays as it is."""
    trial, tell, calls = claim(study), study.tell, []

    def lossy(*args: Any) -> None:
        calls.append(args)
        tell(*args)
        raise StorageInternalError("the server closed the connection")

    monkeypatch.setattr(study, "tell", lossy)
    monkeypatch.setattr(connection.time, "sleep", lambda seconds: None)
    studies.finish(study, trial.number, 0.25, TrialState.COMPLETE)
    assert len(calls) == 1
    assert studies.trials(study)[trial.number].value == 0.25


@pytest.mark.parametrize(
    ("made", "word"),
    [
        ({"direction": "maximize"}, "to maximize its objective.*direction minimize"),
        ({"directions": ["minimize", "minimize"]}, "2 objectives"),
        ({"directions": ["maximize", "minimize", "minimize"]}, "3 objectives"),
    ],
)
def test_a_study_that_looks_for_something_else_is_refused(made: dict[str, Any], word: str, url: str) -> None:
    theirs = optuna.create_study(study_name="films", storage=url, **made)
    before = theirs.user_attrs, theirs.get_trials()
    with pytest.raises(StudyError, match=word):
        studies.check(url, "films")
    with pytest.raises(StudyError, match=word):
        studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True)
    assert (theirs.user_attrs, theirs.get_trials()) == before
    studies.check(url, "others")


def test_a_finished_study_is_followed_by_another(url: str) -> None:
    storage = connection.connect(url)
    names = []
    for number in range(3):
        study = studies.create_or_resume(storage, "films", BASE, SPACE, changed=True)
        assert (
            studies.create_or_resume(storage, "films", BASE, SPACE, changed=True).study_name == study.study_name
        )  # unfinished: resumes
        assert len(studies.trials(study, TrialState.WAITING)) == 1
        names.append(study.study_name)
        study.set_user_attr("finished", f"run {number}")
    assert names == ["films", "films-2", "films-3"]


def test_the_default_name_says_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(fingerprint: str = "f" * 64, **changes: Any) -> str:
        return studies.default_name(fingerprint, replace(BASE, **changes), SPACE, changed=True)

    assert name() == name(lr=9e-3, width=8, device="cpu")  # searched over, or without influence on what is found
    assert len({name(), name("e" * 64), name(size=64), name(epochs=4), name(seed=1), name(sampler="none")}) == 6
    before = name()
    short = search_space(long=False)
    assert len({before, *(studies.default_name("f" * 64, BASE, short, changed=c) for c in (True, False))}) == 3
    monkeypatch.setattr(config, "VERSION", config.VERSION + 1)
    assert name() != before


def test_a_pruned_trials_value_is_its_best_epochs_also_where_an_older_version_noted_none() -> None:
    def pruned(**attributes: Any) -> optuna.trial.FrozenTrial:
        return optuna.create_trial(
            state=TrialState.PRUNED, value=0.4, intermediate_values={1: 0.3, 2: 0.4}, user_attrs=attributes
        )

    assert studies.value(pruned()) == 0.3
    assert studies.value(pruned(**{"val/objective": 0.25})) == 0.25
    assert studies.value(optuna.create_trial(value=0.2)) == 0.2
