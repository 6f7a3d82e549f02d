"""What becomes of a trial, and of its run, whose worker is dead."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from pneumonia.runs.context import RunContext
from pneumonia.search import attributes
from pneumonia.search import study as studies
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import tracker_errors
from pneumonia.tracking.sync import close_run


def requeue_lost_trials(study: optuna.Study, context: RunContext) -> None:
    """Ends the trials whose worker is dead or silent, and queues them again."""
    for number, reason in studies.lost(study).items():
        if studies.fail(study, number, reason, fault=False):
            trial = studies.trials(study)[number]
            close_lost(trial, context, reason)
            studies.with_retries(partial(studies.retry, study, trial))


def close_lost(trial: FrozenTrial, context: RunContext, reason: str) -> None:
    """Ends the MLflow run of a lost trial: through its record, or directly when that is on another machine."""
    tracker, folder = context.tracker, Path(trial.user_attrs.get(attributes.FOLDER, "/nonexistent"))
    if folder.is_relative_to(context.home) and folder.exists():
        record = Record(folder)
        record.finish("FAIL", reason)
        tracker.try_send(record)
    elif attributes.RUN_ID in trial.user_attrs:
        with suppress(TrackingError), tracker_errors(tracker.uri):  # its own machine closes it when it starts again
            close_run(tracker.client, trial.user_attrs[attributes.RUN_ID], "FAIL", reason)
