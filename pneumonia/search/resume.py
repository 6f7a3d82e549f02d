"""Resumes a search whose leader is gone: closes what was left open, and makes every run of the study a child of its
newest leader's.
"""

import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import optuna
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from pneumonia.registry import versions
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import Listener
from pneumonia.search import attributes, connection, lost_trials
from pneumonia.search import study as studies
from pneumonia.search.leader import Lead
from pneumonia.search.lost_trials import requeue_lost_trials
from pneumonia.search.worker import Task
from pneumonia.tracking import kept_models
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record, State, records
from pneumonia.tracking.store import tracker_errors
from pneumonia.tracking.sync import close_run, sent
from pneumonia.tracking.tags import ANSWERED, ROLE, STUDY, TRIAL_NUMBER

ENDED: dict[TrialState, State] = {
    TrialState.COMPLETE: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAIL: "FAIL",
}
ABANDONED: tuple[State, str] = ("INTERRUPTED", "the search that trained it died")


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


def end_superseded(study: optuna.Study, context: RunContext) -> None:
    """Ends the runs of this home's final trainings in whose place the registry has another's model."""
    for record in records(context.home / "records" / study.study_name):
        if record.run.role == "final" and versions.is_waiting(record):
            with suppress(TrackingError):  # `pneumonia sync` does the same
                versions.supersede(context.tracker, record)


def _end(trial: FrozenTrial) -> tuple[State, str]:
    """An ended trial's state and reason, as its record says them."""
    return ENDED[trial.state], str(trial.user_attrs.get(attributes.REASON, ""))


def answer_dead_searches(home: Path, study: str) -> bool:
    """Whether a search of this home that led a study died, and its command was not typed again since; notes that it is
    now.
    """
    dead = [record for record in records(home / "records" / study) if is_unanswered(record)]
    for record in dead:
        record.update(tags={**record.run.tags, ANSWERED: "true"})
    return bool(dead)


def is_unanswered(record: Record) -> bool:
    """Whether a record is of a search that led and died, and whose command was not typed again since."""
    run, status = record.run, record.status
    died = status is not None and status["state"] == "INTERRUPTED"
    return run.role == "search" and STUDY in run.tags and died and ANSWERED not in run.tags


def take_over(
    study: optuna.Study, lead: Lead, parent_id: str, task: Task, experiment_id: str, listener: Listener
) -> bool:
    """Makes `parent_id` the parent of the study's trials, and of those of the searches that led it before; whether
    there were any.

    Raises:
        LeadLost: another leads by now.
        TrackingError: the tracking store has not answered for a minute.
    """
    earlier = lead.begin(parent_id)
    if not earlier:
        return False
    done = len(studies.trials(study, *studies.DONE))
    listener.say(f"resumes study {study.study_name}: {done} of {task.goal} trials are done")
    requeue_lost_trials(study, task.context)
    _gather(earlier, parent_id, task, experiment_id)
    _close_open_runs(study, parent_id, task, experiment_id)
    return True


def settle(study: optuna.Study, lead: Lead, parent_id: str, task: Task, experiment_id: str) -> None:
    """What is to be done when a search has its model: sends what its machine has, takes the runs of earlier leaders
    that came late, closes those whose worker is dead, waits for those whose worker still sends, and gives up the models
    that are too many.

    Raises:
        LeadLost: another leads by now.
        TrackingError: the tracking store has not answered for a minute.
    """
    tracker, end = task.context.tracker, time.monotonic() + task.grace + 2 * task.heartbeat
    earlier = connection.user_attributes(study).get(attributes.PARENTS, [])
    while True:
        lead.check()
        close_ended_records(study, task.context.home)
        kept_models.sync(tracker, task.context.home)
        _gather(earlier, parent_id, task, experiment_id)
        if not _close_open_runs(study, parent_id, task, experiment_id) or time.monotonic() > end:
            break
        time.sleep(1)
    tracker.patiently(lambda: kept_models.keep_best(tracker, experiment_id, parent_id, task.keep_models))


def _gather(earlier: Sequence[str], parent_id: str, task: Task, experiment_id: str) -> None:
    """Brings the runs under earlier leaders' under `parent_id`."""
    tracker = task.context.tracker
    for record in records(task.context.home / "records"):
        if record.run.parent in earlier:
            record.update(parent=parent_id)
    # each is the heir of the one before; a run that begins under any of them follows that chain
    for old, new in itertools.pairwise([*earlier, parent_id]):
        tracker.patiently(partial(tracker.hand_over, experiment_id, old, new))


def _close_open_runs(study: optuna.Study, parent_id: str, task: Task, experiment_id: str) -> int:
    """Closes the runs whose trial has ended and whose worker is dead or silent, and final trainings of dead leaders;
    their own machine may still send what it has. Returns how many are left whose worker lives, or that this machine is
    to send.
    """
    tracker, left = task.context.tracker, 0
    still_open = tracker.patiently(lambda: tracker.children(experiment_id, parent_id, running=True))
    every = {trial.number: trial for trial in studies.trials(study)}
    waiting = {sent(record).get("run_id") for record in tracker.waiting(task.context.home)}
    for run in still_open:
        end = None if run.info.run_id in waiting else _end_of(run, study, every)
        if end is None:
            left += 1
            continue
        with suppress(TrackingError), tracker_errors(tracker.uri):  # tried again at the end of the search
            close_run(tracker.client, run.info.run_id, *end)
    return left


def _end_of(run: Run, study: optuna.Study, every: dict[int, FrozenTrial]) -> tuple[State, str] | None:
    """How a run that is open must have ended; None where its process may live."""
    if run.data.tags.get(ROLE) != "trial":
        return ABANDONED
    trial = every.get(int(run.data.tags.get(TRIAL_NUMBER, -1)))
    if trial is None or trial.state not in ENDED or lost_trials.heard_of(study, trial):
        return None
    return _end(trial)
