"""A worker: one process that takes trials from the study until it has enough of them."""

import math
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from pneumonia.config import Pruner, TrainConfig
from pneumonia.data import cache
from pneumonia.data.index import Index
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import Listener
from pneumonia.runs.train import MODEL_BYTES, OBJECTIVE, run_training, warm_up
from pneumonia.runtime import disk
from pneumonia.runtime.disk import DiskFullError
from pneumonia.runtime.secrets import without_secrets
from pneumonia.runtime.signals import Interrupted, Stop, identity, leave_quickly
from pneumonia.search import attributes, connection, lost_trials, pruning
from pneumonia.search import study as studies
from pneumonia.search.lost_trials import requeue_lost_trials
from pneumonia.tracking import tags
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import RUN, Record, Run, State
from pneumonia.tracking.store import reason_of
from pneumonia.tracking.sync import sent
from pneumonia.training.loop import Epoch, Step

ROOM_BYTES = 2 * MODEL_BYTES  # free before a trial begins, or it would end without the room for its model


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker needs to know; it is sent to another process, so it holds no open connection and no film."""

    index: Index
    base: TrainConfig
    long: bool  # trials are as long as the final training
    changed: bool  # whether trials are scored on corrupted validation films too, see `training.FitData`
    context: RunContext  # its parent is the search's run
    storage: str
    study: str  # its name
    goal: int
    keep_models: int
    pruner: Pruner
    deadline: float | None = None  # time.time() after which no trial starts
    heartbeat: int = connection.HEARTBEAT_SECONDS
    grace: int = connection.GRACE_SECONDS


def main(task: Task) -> None:
    """The body of a worker process."""
    torch.set_num_threads(1)
    leave_quickly()
    stop = Stop()
    stop.note_sigterm()
    stop.follow_parent()
    try:
        work(task, stop)
    except Interrupted:
        raise SystemExit(128 + int(stop.signum or 15)) from None
    except DiskFullError as error:
        raise SystemExit(str(error)) from None
    except Exception:  # multiprocessing would print it with the secrets in it
        raise SystemExit(without_secrets(traceback.format_exc())) from None


def work(task: Task, stop: Stop) -> None:
    """Runs trials until the study has `task.goal` of them.

    Raises:
        DiskFullError: the disk was full for longer than the patience.
        Interrupted: a stop was requested; the trial at hand is recorded as such and queued again.
    """
    storage = open_storage(task, seconds=connection.PATIENCE_SECONDS)
    pruner = pruning.pruner(task.pruner, task.base.epochs, long=task.long)
    study = studies.load(storage, task.study, seed=task.base.seed, pruner=pruner)
    data = cache.decode(task.index.keep("train", "val"), size=task.base.size, home=task.context.home)
    warm_up()

    def in_time() -> bool:
        return task.deadline is None or time.time() < task.deadline

    def wait() -> bool:
        requeue_lost_trials(study, task.context)
        for _ in range(10):
            stop.check()
            time.sleep(0.1)
        return in_time()

    looked = -math.inf  # for lost trials: looking costs two questions to the database, and `wait` looks anyway
    while True:
        stop.check()
        if time.monotonic() > looked + task.heartbeat:
            requeue_lost_trials(study, task.context)
            looked = time.monotonic()
        wait_for_room(task, stop)
        if not in_time() or (trial := studies.claim(study, task.goal, wait=wait)) is None:
            return
        try:
            with heartbeat(storage, trial, task.heartbeat):
                run_trial(trial, study, task, data, stop)
        except studies.LeaseLost:
            continue


def wait_for_room(task: Task, stop: Stop) -> None:
    """Raises:
    DiskFullError: the disk of the home was too full for a trial, for two minutes.
    """
    seconds = connection.PATIENCE_SECONDS
    disk.wait_for_room(task.context.home, ROOM_BYTES, seconds=seconds, meanwhile=stop.check)


def open_storage(task: Task, *, seconds: float | None = None) -> RDBStorage:
    """The study's database; `seconds` is how long it may be away (see `connection.connect`)."""
    return connection.connect(task.storage, heartbeat=task.heartbeat, grace=task.grace, seconds=seconds)


def run_trial(trial: optuna.Trial, study: optuna.Study, task: Task, data: cache.Decoded, stop: Stop) -> None:
    """One trial from its parameters to its end in the study, in its record and in MLflow."""
    stored = connection.user_attributes(study)
    parent = stored.get(attributes.PARENT, task.context.parent)  # of the newest leader
    context = task.context.under(str(parent))
    folder = context.home / "records" / task.study / f"trial-{trial.number:04d}-{uuid.uuid4().hex[:8]}"
    try:
        record = _begin(trial, task, context, folder)
    except DiskFullError as error:
        _fail(trial, study, reason_of(error), again=True)
        wait_for_room(task, stop)
        if (folder / RUN).exists():
            context.tracker.end(Record(folder), "FAIL", reason_of(error))
        return
    config = replace(task.base, **trial.params)
    watch = _TrialListener(trial, study, task, stop)
    state: State = "FAIL"
    reason, value, full = "", math.nan, False
    try:
        value = run_training(
            config,
            data,
            record,
            context,
            listener=watch,
            keep_model=lambda value: worth_keeping(study, value, task.keep_models),
            changed=task.changed,
        )
        reason = watch.pruned
        state = "PRUNED" if reason else "COMPLETE"
    except Interrupted as event:
        state, reason = "INTERRUPTED", f"{event} while training"
    except studies.LeaseLost as event:
        reason = str(event)
    except Exception as error:  # one configuration's failure ends its trial, not the search
        reason, full = reason_of(error), disk.is_full(error)
        record.add_traceback()
    if state in ("COMPLETE", "PRUNED"):
        try:
            told = {**record.metrics[-1]["metrics"], **record.summary}
            studies.set_attributes(trial, {**told, **({attributes.REASON: reason} if reason else {})})
            studies.finish(study, trial.number, value if state == "COMPLETE" else None, TrialState[state])
        except studies.LeaseLost as event:
            state, reason = "FAIL", str(event)
    else:
        with suppress(DiskFullError):  # first, since the database may be away and there is little time to stop
            record.finish(state, reason)
        _fail(trial, study, reason, again=full or state == "INTERRUPTED")
    if not context.tracker.end(record, state, reason):
        wait_for_room(task, stop)
        context.tracker.end(record, state, reason)
    if "model_id" in sent(record):
        drop_models(study, task)
    if state == "INTERRUPTED":
        stop.check()


def _fail(trial: optuna.Trial, study: optuna.Study, reason: str, *, again: bool) -> None:
    """Ends a trial as failed in the study; `again` queues its parameters anew."""
    if studies.fail(study, trial.number, reason, fault=not again) and again:
        connection.with_retries(lambda: lost_trials.retry(study, studies.trials(study)[trial.number], innocent=True))


def _begin(trial: optuna.Trial, task: Task, context: RunContext, folder: Path) -> Record:
    """The trial's record, sent so that it is seen while it lasts."""
    studies.set_attributes(trial, {attributes.WORKER: identity(), attributes.FOLDER: str(folder)})
    record = context.begin(
        Run(
            name=f"trial {trial.number}",
            role="trial",
            tags={tags.STUDY: task.study, tags.TRIAL_NUMBER: str(trial.number)},
            description=describe(trial.params, task.base),
        ),
        task.index,
        folder,
    )
    context.tracker.try_send(record)
    if "run_id" in sent(record):
        studies.set_attributes(trial, {attributes.RUN_ID: sent(record)["run_id"]})
    return record


class _TrialListener(Listener):
    """Reports a trial's epochs to the study, and ends the trial where it is behind or a stop was requested. `pruned` is
    the reason for ending it early.
    """

    def __init__(self, trial: optuna.Trial, study: optuna.Study, task: Task, stop: Stop) -> None:
        self.trial, self.study, self.task, self.stop = trial, study, task, stop
        self.pruned = ""

    def on_step(self, step: Step) -> None:
        self.stop.check()

    def on_epoch(self, epoch: Epoch) -> bool:
        self.stop.check()
        trial, base = self.trial, self.task.base
        try:
            connection.with_retries(lambda: trial.report(epoch.metrics[OBJECTIVE], epoch.number))
            # the pruner is asked about the recipe too, since it stores there what others are compared with
            behind = epoch.number < epoch.epochs and connection.with_retries(trial.should_prune)
            behind = behind and replace(base, **trial.params) != base and pruning.one_remains(self.study, base)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise studies.LeaseLost(f"trial {trial.number} was given to another worker") from error
        if behind:
            where = "behind the median of" if self.task.long else "not in the best third of"
            when = f"after epoch {epoch.number} of {epoch.epochs}"
            self.pruned = f"{when} its val/objective was {where} the trials that came so far"
        return bool(behind)


@contextmanager
def heartbeat(storage: RDBStorage, trial: optuna.Trial, seconds: int) -> Iterator[None]:
    """Tells the database every `seconds` that the trial is alive, whenever the database answers.

    The first time is before the block starts: a trial without any heartbeat would never count as lost.
    """
    connection.with_retries(lambda: storage.record_heartbeat(trial._trial_id))
    with connection.repeating(lambda: storage.record_heartbeat(trial._trial_id), seconds):
        yield


def worth_keeping(study: optuna.Study, value: float, keep: int) -> bool:
    """Whether a trial of this value is among the `keep` best so far, pruned ones included."""
    return sum(studies.value(trial) < value for trial in studies.trials(study, *studies.DONE)) < keep


def drop_models(study: optuna.Study, task: Task) -> None:
    """Deletes the models of trials that are no longer among the best `task.keep_models`."""
    done = sorted(studies.trials(study, *studies.DONE), key=lambda trial: (studies.value(trial), trial.number))
    for trial in done[task.keep_models :]:
        record = Record(Path(trial.user_attrs[attributes.FOLDER]))
        with suppress(TrackingError):  # the next trial that ends tries again
            task.context.tracker.drop_model(record)


def describe(params: Mapping[str, Any], base: TrainConfig) -> str:
    """How a trial's parameters differ from the recipe, in words."""
    changed = {name: value for name, value in params.items() if value != getattr(base, name)}
    told = [f"{name} {value if isinstance(value, str) else format(value, '.3g')}" for name, value in changed.items()]
    return "The default recipe." if not told else "The default recipe with " + ", ".join(told) + "."
