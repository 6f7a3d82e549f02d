"""Trials whose worker is gone: they are found, queued again and given up in the end."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from pneumonia.runs.context import RunContext
from pneumonia.runtime.signals import identity
from pneumonia.search import connection, lost_trials
from pneumonia.search import study as studies
from pneumonia.search.lost_trials import requeue_lost_trials
from pneumonia.tracking.store import Tracker
from tests.conftest import gone
from tests.search.conftest import BASE, SPACE, claim


def test_retry_keeps_parameters_and_forgets_the_dead_worker(study: optuna.Study) -> None:
    trial = claim(study)
    for tries in range(lost_trials.MAX_RETRIES + 1):
        trial.set_user_attr("worker", {"pid": 1})
        studies.fail(study, trial.number, "lost", fault=False)
        lost_trials.retry(study, studies.trials(study)[trial.number])
        queued = studies.trials(study, TrialState.WAITING)
        if tries == lost_trials.MAX_RETRIES:
            assert queued == []  # what kills every worker that touches it is given up
            return
        assert [t.user_attrs for t in queued] == [{}]
        again = claim(study)
        assert again.number == queued[0].number
        assert again.params == trial.params
        trial = again


def test_what_ended_for_no_fault_of_its_own_is_always_tried_again(study: optuna.Study) -> None:
    trial = claim(study)
    for _ in range(2 * lost_trials.MAX_RETRIES):
        studies.fail(study, trial.number, "SIGTERM while training", fault=False)
        lost_trials.retry(study, studies.trials(study)[trial.number], innocent=True)
        again = claim(study)
        assert again.params == trial.params
        trial = again
    studies.fail(study, trial.number, "the worker was killed", fault=False)
    lost_trials.retry(study, studies.trials(study)[trial.number])
    assert len(studies.trials(study, TrialState.WAITING)) > 0


def test_a_trial_of_a_dead_process_is_lost(study: optuna.Study) -> None:
    dead, alive, elsewhere = claim(study), claim(study), claim(study)
    dead.set_user_attr("worker", gone())
    alive.set_user_attr("worker", identity())
    elsewhere.set_user_attr("worker", {**gone(), "host": "another-machine"})
    assert list(lost_trials.lost(study)) == [dead.number]


def test_a_process_number_used_again_is_another_process(study: optuna.Study) -> None:
    trial = claim(study)
    trial.set_user_attr("worker", {**identity(), "started": float(identity()["started"]) - 100})
    assert lost_trials.lost(study) == {trial.number: "the worker was killed"}


@pytest.mark.parametrize("hours", [-9, 0, 8])
def test_a_trial_without_a_worker_is_lost_after_a_while(study: optuna.Study, hours: int) -> None:
    """Counted by the database's clock, whatever the time zone of the machine that began it."""
    trial = claim(study)

    def turn_back(model: Any, column: str, by: timedelta) -> None:
        with Session(connection.database(study).engine) as session:
            row = session.scalars(sqlalchemy.select(model).where(model.trial_id == trial._trial_id)).one()
            setattr(row, column, getattr(row, column) - by)
            session.commit()

    turn_back(TrialModel, "datetime_start", timedelta(hours=hours))
    assert lost_trials.lost(study) == lost_trials.lost(study) == {}
    turn_back(TrialHeartbeatModel, "heartbeat", timedelta(seconds=lost_trials.GRACE_SECONDS + 1))
    assert lost_trials.lost(study) == {trial.number: lost_trials.UNCLAIMED}


@pytest.mark.slow
def test_a_silent_worker_loses_its_trial(url: str, tracker: Tracker, home: Path) -> None:
    """After the grace period the trial fails, says why, and its parameters are queued again."""
    storage = connection.connect(url, heartbeat=1, grace=1)
    study = studies.create_or_resume(storage, "films", BASE, SPACE, changed=True)
    silent = claim(study)
    silent.set_user_attr("worker", {**identity(), "host": "another-machine"})
    storage.record_heartbeat(silent._trial_id)
    assert lost_trials.lost(study) == {}
    assert lost_trials.heard_of(study, studies.trials(study)[silent.number])
    time.sleep(2.5)  # the database counts whole seconds
    assert lost_trials.lost(study) == {silent.number: "the worker stopped responding"}
    assert not lost_trials.heard_of(study, studies.trials(study)[silent.number])
    requeue_lost_trials(study, RunContext(home=home, tracker=tracker))
    again = claim(study)
    assert studies.trials(study)[silent.number].state == TrialState.FAIL
    assert again.params == silent.params
    with pytest.raises(studies.LeaseLost):
        studies.finish(study, silent.number, 0.1, TrialState.COMPLETE)
    assert not studies.fail(study, silent.number, "late", fault=True)
    assert studies.trials(study)[silent.number].user_attrs["reason"] == "the worker stopped responding"
    assert "reason" not in studies.trials(study)[again.number].user_attrs
