"""The study: the search's memory in a database, which survives its workers and is shared between machines."""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pneumonia import config
from pneumonia.augmentation import stress_tests
from pneumonia.config import TrainConfig
from pneumonia.runs.train import OBJECTIVE
from pneumonia.search import attributes, study_space
from pneumonia.search.connection import connect, database, once_it_answers, put, user_attributes, with_retries
from pneumonia.search.sampler import Sampler
from pneumonia.search.storage import StudyError, holds_a_study
from pneumonia.search_space import Range

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
LIVE = (*DONE, TrialState.RUNNING, TrialState.WAITING)


class LeaseLost(RuntimeError):
    """The trial was given to another worker while this one slept."""


def check(url: str, name: str | None) -> None:
    """Checks a study's database before a search begins; writes nothing.

    Args:
        name: the study's, where it is named.

    Raises:
        StudyError: the study cannot be kept there.
    """
    holds = once_it_answers(lambda: holds_a_study(url), url)
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
        make = partial(optuna.create_study, study_name=full, storage=storage, direction="minimize", load_if_exists=True)
        study = with_retries(make)
        stored = user_attributes(study)
        if attributes.FINISHED not in stored:
            break
        last = study
    require_search_study(study)

    def begin() -> None:
        study.set_user_attr(attributes.OBJECTIVE, judged)
        study_space.write(study, ranges)
        for params in study_space.beginnings(base, study_space.read(study), long=long)[:goal]:
            study.enqueue_trial(params, skip_if_exists=True)

    if not trials(study):
        with_retries(begin)
    elif stored.get(attributes.OBJECTIVE) != judged:
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
        searched = set(with_retries(lambda: study_space.read(study)))
    except Exception as error:  # whatever an attribute of that name may hold
        raise StudyError(
            f"the attribute {attributes.SPACE!r} of study {name} was not written by a search: name another study"
        ) from error
    tried = {one for trial in trials(study) for one in (*trial.distributions, *_queued(trial))}
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


def trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return with_retries(lambda: study.get_trials(deepcopy=False, states=states or None))


def counts(study: optuna.Study, *, before: int | None = None) -> Counter[TrialState]:
    """How many trials are in each state, of all or of those with a number below `before`; Optuna would read each of
    them whole, in seven statements.
    """
    query = sqlalchemy.select(TrialModel.state, sqlalchemy.func.count()).where(TrialModel.study_id == study._study_id)
    if before is not None:
        query = query.where(TrialModel.number < before)

    def read() -> Counter[TrialState]:
        with Session(database(study).engine) as session:
            return Counter({row[0]: row[1] for row in session.execute(query.group_by(TrialModel.state))})

    return with_retries(read)


def value(trial: FrozenTrial) -> float:
    """The objective of a trial that is done, of its best epoch; Optuna's own, for a pruned trial, is of the last."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    reported = min(trial.intermediate_values.values(), default=math.inf)
    return float(trial.user_attrs.get(OBJECTIVE, reported))  # trials pruned before 0.2 have no attribute


def failures(study: optuna.Study, *, since: int = 0) -> list[FrozenTrial]:
    """Trials from number `since` on that failed by themselves, not those interrupted, killed or surplus."""
    return [t for t in trials(study, TrialState.FAIL) if t.number >= since and t.user_attrs.get(attributes.FAULT)]


def claim(study: optuna.Study, goal: int, *, wait: Callable[[], bool]) -> optuna.Trial | None:
    """The next trial to run, or None when `goal` trials are done, or `wait` gave up.

    Workers on all machines agree without a lock: the database numbers the trials, and of those that are not failed the
    first `goal` by number count. A worker whose trial is behind them gives it up.

    Args:
        wait: called, for about a second, while others' trials fill the goal but are not done: whether to go on; may
            raise to stop.
    """
    while True:
        count = counts(study)
        done = sum(count[state] for state in DONE)
        if done >= goal:
            return None
        if done + count[TrialState.RUNNING] >= goal:
            if not wait():
                return None
            continue
        trial = with_retries(lambda: study.ask(study_space.read(study)))
        earlier = counts(study, before=trial.number)
        if sum(earlier[state] for state in LIVE) < goal:
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
        set_attributes(trial, {attributes.REASON: reason, attributes.FAULT: fault})
        finish(study, number, None, TrialState.FAIL)
    except LeaseLost:
        return False
    return True


def set_attributes(trial: optuna.Trial, values: Mapping[str, Any]) -> None:
    """Writes attributes on a trial in one transaction, where Optuna's own call takes one for each of them.

    Raises:
        LeaseLost: the trial has been ended by another.
    """
    number, storage = trial._trial_id, database(trial.study)

    def step() -> bool:
        with Session(storage.engine) as session, session.begin():
            mine = sqlalchemy.select(TrialModel.state).where(TrialModel.trial_id == number)
            # until the end of the transaction nobody else ends the trial or writes on it; others may refer to it
            if session.scalars(mine.with_for_update(key_share=True)).one().is_finished():
                return False
            stored = sqlalchemy.select(TrialUserAttributeModel).where(TrialUserAttributeModel.trial_id == number)
            rows = {str(row.key): row for row in session.scalars(stored)}
            put(session, rows, values, partial(TrialUserAttributeModel, trial_id=number))
            return True

    if not with_retries(step):
        raise LeaseLost(f"trial {trial.number} was given to another worker")
    trial._cached_frozen_trial.user_attrs.update(values)  # as Optuna's own call does
