"""The study: the search's memory in a database, which survives its workers and is shared between machines."""

import copy
import hashlib
import itertools
import json
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import optuna
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pneumonia import config
from pneumonia.augmentation import stress_tests
from pneumonia.config import TrainConfig
from pneumonia.runs.train import OBJECTIVE
from pneumonia.runtime.messages import first_line
from pneumonia.runtime.signals import delay_signals, is_gone
from pneumonia.search import attributes, study_space
from pneumonia.search.sampler import Sampler
from pneumonia.search.storage import StudyError, holds_a_study, unusable
from pneumonia.search_space import Range

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # silence after which a worker on another machine counts as dead
PATIENCE_SECONDS = 120.0  # how long a database may be away before a worker gives up
START_SECONDS = 8.0  # and before a command that begins does
UNBORN_SECONDS = 15.0  # a trial without a worker's name after so long was lost when it began
MAX_RETRIES = 3
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
LIVE = (*DONE, TrialState.RUNNING, TrialState.WAITING)

T = TypeVar("T")


class LeaseLost(RuntimeError):
    """The trial was given to another worker while this one slept."""


def connect(
    url: str,
    *,
    heartbeat: int = HEARTBEAT_SECONDS,
    grace: int = GRACE_SECONDS,
    seconds: float | None = None,
) -> RDBStorage:
    """Opens the study's database and makes its tables when they are not there.

    Args:
        url: SQLAlchemy's, the driver named: `sqlite:///file`, `postgresql+psycopg2://user@host/base`.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds of silence after which its trial is given to another.
        seconds: how long a database that does not answer is asked again; `START_SECONDS` if None.

    Raises:
        StudyError: the URL holds a password, the database cannot be reached, or it is another program's.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search reports what happens
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats, since 2020
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")  # `worker.heartbeat` beats instead
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        arguments["connect_args"] = {"timeout": 60}  # seconds that a writer waits for another

    def open_it() -> RDBStorage:
        holds_a_study(url)
        try:
            return RDBStorage(url, engine_kwargs=arguments, heartbeat_interval=heartbeat, grace_period=grace)
        except RuntimeError as error:  # Optuna's, of tables that another version of it made
            raise unusable(url, str(error)) from error

    # two processes that make the tables of an empty database at once collide
    storage = _once_it_answers(open_it, url, START_SECONDS if seconds is None else seconds)
    if url.startswith("sqlite"):
        # Optuna reads a trial's state and then writes it, relying on SELECT FOR UPDATE, which sqlite does not have: two
        # workers would take the same queued trial. A lock from the start of each transaction does the same.
        sqlalchemy.event.listen(storage.engine, "begin", lambda on: on.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def check(url: str, name: str | None) -> None:
    """Checks a study's database before a search begins; writes nothing.

    Args:
        name: the study's, where it is named.

    Raises:
        StudyError: the study cannot be kept there.
    """
    holds = _once_it_answers(lambda: holds_a_study(url), url, START_SECONDS)
    if holds and name is not None:
        storage = connect(url)
        there = set(optuna.get_all_study_names(storage))
        for full in _names(name):
            if full not in there:
                return
            study = optuna.load_study(study_name=full, storage=storage)
            if attributes.FINISHED not in study.user_attrs:
                require_search_study(study)
                return


def _once_it_answers(call: Callable[[], T], url: str, seconds: float) -> T:
    """Repeats a call while the database at `url` does not answer.

    Raises:
        StudyError: it has not for so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            if time.monotonic() > end:
                raise unusable(url, first_line(error.__cause__ or error)) from error
            time.sleep(1)


def with_retries(call: Callable[[], T], *, seconds: float = PATIENCE_SECONDS) -> T:
    """Repeats a call until the database answers; the call must be safe to repeat."""
    end = time.monotonic() + seconds
    while True:
        try:
            with delay_signals():
                return call()
        except (StorageInternalError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
            if time.monotonic() > end:
                raise StudyError(f"the study's database has not answered for {seconds:.0f} s") from error
            time.sleep(1)


@contextmanager
def repeating(beat: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls `beat` every `seconds`, in a thread, while the block runs."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            try:
                beat()
            except Exception:  # the database is away: the calls of the block itself wait for it and say so
                optuna.logging.get_logger(__name__).debug("no beat", exc_info=True)

    thread = threading.Thread(target=loop, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1)


def default_name(fingerprint: str, base: TrainConfig, ranges: Mapping[str, Range], *, changed: bool) -> str:
    """A name that searches of the same films with the same space, the same fixed settings and the same code of the
    training share.
    """
    space = {name: asdict(one) for name, one in ranges.items()}
    fixed = {name: value for name, value in asdict(base).items() if name not in space and _is_told(name, value)}
    searched = [space, fixed, judge(changed), config.VERSION]
    digest = hashlib.sha256(json.dumps(searched, sort_keys=True).encode()).hexdigest()
    return f"{fingerprint[:12]}-{digest[:8]}"


def _is_told(name: str, value: Any) -> bool:
    """Whether a setting that is not searched makes a difference to a study's default name."""
    setting = config.TRAINING[name]
    told = setting.metadata["in_name"]
    return bool(told == "always" or (told == "changed" and value != setting.default))


def judge(changed: bool) -> str:
    """The objective of the trials in words, as studies store it: trials of another one do not compare."""
    also = (
        f" and changed (changes {stress_tests.VERSION}, with painted normal ones where opacities tell)"
        if changed
        else ""
    )
    return f"{OBJECTIVE} of the films as they are{also}"


def create_or_resume(
    storage: RDBStorage,
    name: str,
    base: TrainConfig,
    ranges: Mapping[str, Range],
    *,
    changed: bool,
    long: bool = False,
    goal: int | None = None,
    new: Callable[[str], bool] = lambda finished: True,
) -> optuna.Study:
    """The first of `name`, `name-2`, `name-3`... that is not finished; the first trial of a new one is `base`.

    Args:
        new: whether to make a new one where all that are there are finished, asked with the name of the last of them;
            else it is that one.
        long: its trials are as long as the final training.
        goal: how many trials it is to have; no more are queued, or a lost trial would wait for ever behind them.
        ranges: what a new study varies; one that is there keeps its own.
        changed: whether trials are scored on corrupted validation films too.

    Raises:
        StudyError: it is not a search's study, or its trials have another objective.
    """
    judged, last = judge(changed), None
    there = set(with_retries(lambda: optuna.get_all_study_names(storage)))
    for full in _names(name):
        if full not in there and last is not None and not new(last.study_name):
            return last
        study = optuna.create_study(study_name=full, storage=storage, direction="minimize", load_if_exists=True)
        if attributes.FINISHED not in study.user_attrs:
            break
        last = study
    require_search_study(study)
    if not study.get_trials(deepcopy=False):
        study.set_user_attr(attributes.OBJECTIVE, judged)
        study_space.write(study, ranges)
        for params in study_space.beginnings(base, study_space.read(study), long=long)[:goal]:
            study.enqueue_trial(params, skip_if_exists=True)
    elif study.user_attrs.get(attributes.OBJECTIVE) != judged:
        raise StudyError(f"the trials of study {full} have another objective than {judged}: name another study")
    return study


def _names(name: str) -> Iterator[str]:
    """The names that a search tries: it resumes the first of these studies that is not finished."""
    yield name
    for number in itertools.count(2):
        yield f"{name}-{number}"


def require_search_study(study: optuna.Study) -> None:
    """Raises:
    StudyError: the study, which somebody may have made beforehand, is not a search's.
    """
    name, directions = study.study_name, study.directions
    if len(directions) > 1:
        raise StudyError(
            f"study {name} has {len(directions)} objectives, but a search minimizes one, {OBJECTIVE}: name another "
            "study, or make it with one objective, direction minimize"
        )
    if directions != [StudyDirection.MINIMIZE]:
        raise StudyError(
            f"study {name} is to {directions[0].name.lower()} its objective, but a search minimizes {OBJECTIVE}: name "
            "another study, or make it with direction minimize"
        )
    try:
        searched = set(study_space.read(study))
    except Exception as error:  # whatever an attribute of that name may hold
        raise StudyError(
            f"the attribute {attributes.SPACE!r} of study {name} was not written by a search: name another study"
        ) from error
    tried = {one for trial in study.get_trials(deepcopy=False) for one in (*trial.distributions, *_queued(trial))}
    foreign = (searched - config.TRAINING.keys()) | (tried - searched)
    if foreign:
        raise StudyError(
            f"the trials of study {name} have other parameters than a search's: {', '.join(sorted(foreign))}; name "
            "another study"
        )


def _queued(trial: FrozenTrial) -> dict[str, Any]:
    fixed: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return fixed


def left_behind(storage: RDBStorage, fingerprint: str) -> dict[str, str]:
    """Unfinished studies of these films that an earlier version began under the default name, with their objectives
    (see `judge`).
    """
    return {
        study.study_name: str(study.user_attrs.get(attributes.OBJECTIVE))
        for study in with_retries(lambda: optuna.get_all_study_summaries(storage))
        if study.study_name.startswith(f"{fingerprint[:12]}-")
        and study.n_trials
        and not {attributes.FINISHED, attributes.SPACE} & study.user_attrs.keys()
    }


def load(storage: RDBStorage, name: str, *, seed: int, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """An existing study, for a worker; `seed` is the search's, the same for all of its workers."""
    return with_retries(
        lambda: optuna.load_study(study_name=name, storage=storage, sampler=Sampler(seed), pruner=pruner)
    )


def database(study: optuna.Study) -> RDBStorage:
    """The connection below Optuna's cache."""
    storage = study._storage
    backend = getattr(storage, "_backend", storage)
    assert isinstance(backend, RDBStorage)
    return backend


def trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return with_retries(lambda: study.get_trials(deepcopy=False, states=states or None))


def value(trial: FrozenTrial) -> float:
    """The objective of a trial that is done, of its best epoch; Optuna's own, for a pruned trial, is of the last."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    reported = min(trial.intermediate_values.values(), default=math.inf)
    return float(trial.user_attrs.get(OBJECTIVE, reported))  # trials pruned before 0.2 have no attribute


def failures(study: optuna.Study, *, since: int = 0) -> list[FrozenTrial]:
    """Trials from number `since` on that failed by themselves, not those interrupted, killed or surplus."""
    return [t for t in trials(study, TrialState.FAIL) if t.number >= since and t.user_attrs.get(attributes.FAULT)]


def claim(study: optuna.Study, goal: int, *, wait: Callable[[], None]) -> optuna.Trial | None:
    """The next trial to run, or None when `goal` trials are done or being done.

    Workers on all machines agree without a lock: the database numbers the trials, and of those that are not failed the
    first `goal` by number count. A worker whose trial is behind them gives it up.

    Args:
        wait: called, for about a second, while others' trials fill the goal but are not done; may raise to stop.
    """
    while True:
        if len(trials(study, *DONE)) >= goal:
            return None
        if len(trials(study, *DONE, TrialState.RUNNING)) >= goal:
            wait()
            continue
        trial = with_retries(lambda: study.ask(study_space.read(study)))
        earlier = [t for t in trials(study, *LIVE) if t.number < trial.number]
        if len(earlier) < goal:
            return trial
        fail(study, trial.number, attributes.SURPLUS, fault=False)


def finish(study: optuna.Study, number: int, value: float | None, state: TrialState) -> None:
    """Ends a trial in the study.

    Raises:
        LeaseLost: it has been ended by another.
    """
    first = [True]

    def tell() -> None:
        if not first[0] and study.get_trials(deepcopy=False)[number].state == state:
            return  # the database took it, but its answer was lost
        first[0] = False
        study.tell(number, value, state)

    try:
        with_retries(tell)
    except (UpdateFinishedTrialError, ValueError) as error:
        raise LeaseLost(f"trial {number} was given to another worker") from error


def fail(study: optuna.Study, number: int, reason: str, *, fault: bool) -> bool:
    """Ends a trial as failed, `fault` saying that it was the trial's own; False when it had ended already."""
    trial = optuna.trial.Trial(study, trials(study)[number]._trial_id)
    try:
        for key, value in ((attributes.REASON, reason), (attributes.FAULT, fault)):
            with_retries(partial(trial.set_user_attr, key, value))
        finish(study, number, None, TrialState.FAIL)
    except (LeaseLost, UpdateFinishedTrialError):
        return False
    return True


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a lost trial again, up to `MAX_RETRIES` times, without its dead worker's attributes."""
    clean = copy.deepcopy(trial)
    clean.user_attrs = {}
    RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)(study, clean)


def lost(study: optuna.Study) -> dict[int, str]:
    """The numbers of running trials without a living worker, and what is known of it: dead, on this machine; or silent
    for longer than the grace period.
    """
    found, storage = {}, database(study)
    silent = set(with_retries(lambda: storage._get_stale_trial_ids(study._study_id)))
    for trial in trials(study, TrialState.RUNNING):
        worker, began = trial.user_attrs.get(attributes.WORKER), trial.datetime_start
        if trial._trial_id in silent:
            found[trial.number] = "the worker stopped responding"
            continue
        age = (datetime.now() - began).total_seconds() if began is not None else 0.0
        if is_gone(worker) if worker is not None else age > UNBORN_SECONDS:
            found[trial.number] = "the worker was killed"
    return found


def heard_of(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial's worker, which may be sending what it has, showed within the grace period that it lives."""
    if (worker := trial.user_attrs.get(attributes.WORKER)) is not None and is_gone(worker):
        return False
    storage = database(study)

    def seconds() -> float | None:
        with Session(storage.engine) as session:
            query = sqlalchemy.select(TrialHeartbeatModel.heartbeat, sqlalchemy.func.now())
            row = session.execute(query.where(TrialHeartbeatModel.trial_id == trial._trial_id)).one_or_none()
        return None if row is None else float((row[1].replace(tzinfo=None) - row[0]).total_seconds())

    silence = with_retries(seconds)
    return silence is not None and silence <= (storage.grace_period or GRACE_SECONDS)
