"""Trials whose worker is dead or silent: how they are found, and what becomes of them and of their runs."""

import copy
from contextlib import suppress
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pneumonia.runs.context import RunContext
from pneumonia.runtime.signals import is_gone
from pneumonia.search import attributes
from pneumonia.search import study as studies
from pneumonia.search.connection import GRACE_SECONDS, database, with_retries
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import tracker_errors
from pneumonia.tracking.sync import close_run

MAX_RETRIES = 3
UNCLAIMED = "it has no worker: the database's answer was lost, or the worker was killed, as the trial began"


def requeue_lost_trials(study: optuna.Study, context: RunContext) -> None:
    """Ends the trials whose worker is dead or silent, and queues them again."""
    for number, reason in lost(study).items():
        if studies.fail(study, number, reason, fault=False):
            trial = studies.trials(study)[number]
            close_lost(trial, context, reason)
            with_retries(partial(retry, study, trial))


def close_lost(trial: FrozenTrial, context: RunContext, reason: str) -> None:
    """Ends the MLflow run of a lost trial: through its record, or directly when that is on another machine."""
    tracker, folder = context.tracker, Path(trial.user_attrs.get(attributes.FOLDER, "/nonexistent"))
    if folder.is_relative_to(context.home) and folder.exists():
        tracker.end(Record(folder), "FAIL", reason)
    elif attributes.RUN_ID in trial.user_attrs:
        with suppress(TrackingError), tracker_errors(tracker.uri):  # its own machine closes it when it starts again
            close_run(tracker.client, trial.user_attrs[attributes.RUN_ID], "FAIL", reason)


def retry(study: optuna.Study, trial: FrozenTrial, *, innocent: bool = False) -> None:
    """Queues a lost trial again, up to `MAX_RETRIES` times, without its dead worker's attributes. One that ended for no
    fault of its own is `innocent`: it is always queued, and its retries count from 0.
    """
    clean = copy.deepcopy(trial)
    clean.user_attrs = {}
    if innocent:
        clean.system_attrs.pop("retry_history", None)  # Optuna's
    RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)(study, clean)


def lost(study: optuna.Study) -> dict[int, str]:
    """The numbers of running trials without a living worker, and what is known of it: dead, on this machine; or silent
    for longer than the grace period. A trial that has no worker is given a first heartbeat here, so that its silence is
    counted by the database's clock: when it began is told by its machine's, in its time zone.
    """
    found, storage = {}, database(study)
    silent = set(with_retries(lambda: storage._get_stale_trial_ids(study._study_id)))
    for trial in studies.trials(study, TrialState.RUNNING):
        worker = trial.user_attrs.get(attributes.WORKER)
        if trial._trial_id in silent:
            found[trial.number] = UNCLAIMED if worker is None else "the worker stopped responding"
        elif worker is None and _silence(storage, trial) is None:
            with_retries(partial(storage.record_heartbeat, trial._trial_id))
        elif worker is not None and is_gone(worker):
            found[trial.number] = "the worker was killed"
    return found


def heard_of(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial's worker, which may be sending what it has, showed within the grace period that it lives."""
    if (worker := trial.user_attrs.get(attributes.WORKER)) is not None and is_gone(worker):
        return False
    storage = database(study)
    silence = _silence(storage, trial)
    return silence is not None and silence <= (storage.grace_period or GRACE_SECONDS)


def _silence(storage: RDBStorage, trial: FrozenTrial) -> float | None:
    """Seconds since the last heartbeat of a trial, by the database's clock; None where there was none."""

    def seconds() -> float | None:
        with Session(storage.engine) as session:
            query = sqlalchemy.select(TrialHeartbeatModel.heartbeat, sqlalchemy.func.now())
            row = session.execute(query.where(TrialHeartbeatModel.trial_id == trial._trial_id)).one_or_none()
        return None if row is None else float((row[1].replace(tzinfo=None) - row[0]).total_seconds())

    return with_retries(seconds)
