"""Resumes a killed search: closes what it left open, and gives its trials a new parent."""

from contextlib import suppress
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from pneumonia.runs.listener import Listener
from pneumonia.search import attributes
from pneumonia.search import study as studies
from pneumonia.search.lost_trials import requeue_lost_trials
from pneumonia.search.worker import Task
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import State, records
from pneumonia.tracking.store import tracker_errors
from pneumonia.tracking.sync import close_run
from pneumonia.tracking.tags import TRIAL_NUMBER


def close_ended_records(study: optuna.Study, home: Path) -> None:
    """Ends the records of trials that ended in the study a moment before their worker was killed."""
    every = {trial.number: trial for trial in studies.trials(study)}
    for record in records(home / "records" / study.study_name):
        if record.status is None and record.run.role == "trial":
            trial = every.get(int(record.run.tags[TRIAL_NUMBER]))  # none: the study's database was removed
            if (
                trial is not None
                and trial.state in studies.DONE
                and trial.user_attrs.get(attributes.FOLDER) == str(record.folder)
            ):
                record.finish(*_end(trial))


def _end(trial: FrozenTrial) -> tuple[State, str]:
    """A done trial's state and reason, as its record says them."""
    state: State = "COMPLETE" if trial.state == TrialState.COMPLETE else "PRUNED"
    return state, str(trial.user_attrs.get(attributes.REASON, ""))


def take_over(study: optuna.Study, parent_id: str, task: Task, experiment_id: str, listener: Listener) -> None:
    """Resuming: closes what a killed search left open and becomes the parent of its trials."""
    tracker = task.context.tracker
    old = studies.with_retries(lambda: study.user_attrs).get(attributes.PARENT)
    if old is None:
        studies.with_retries(lambda: study.set_user_attr(attributes.PARENT, parent_id))
        return
    done = len(studies.trials(study, *studies.DONE))
    listener.say(f"resumes study {study.study_name}: {done} of {task.goal} trials are done")
    requeue_lost_trials(study, task.context)
    for record in records(task.context.home / "records"):
        if record.run.parent == old:
            record.update(parent=parent_id)
    still_open = tracker.hand_over(experiment_id, old, parent_id) if old != parent_id else {}
    studies.with_retries(lambda: study.set_user_attr(attributes.PARENT, parent_id))
    # The runs of a machine that died before it could send them; it may still do so.
    ends = {trial.user_attrs.get(attributes.RUN_ID): _end(trial) for trial in studies.trials(study, *studies.DONE)}
    gone: tuple[State, str] = ("INTERRUPTED", "the search that trained it died")
    ends |= {run_id: gone for run_id, role in still_open.items() if role == "final"}
    for run_id in still_open.keys() & ends.keys():
        with suppress(TrackingError), tracker_errors(tracker.uri):
            close_run(tracker.client, run_id, *ends[run_id])
