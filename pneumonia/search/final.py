"""The final candidate, from the best trials, taken through the gate."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from pneumonia.config import TrainConfig
from pneumonia.data import cache
from pneumonia.registry import versions
from pneumonia.registry.gate import Verdict
from pneumonia.runs.context import dataset_of
from pneumonia.runs.listener import Listener
from pneumonia.runs.train import run_training, write_results
from pneumonia.search import attributes
from pneumonia.search import study as studies
from pneumonia.search.storage import StudyError
from pneumonia.search.worker import Task, describe
from pneumonia.serving import export
from pneumonia.tracking import tags
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.fetched_record import complete_runs, fetch_record
from pneumonia.tracking.record import Record, Run, records
from pneumonia.tracking.store import finished
from pneumonia.tracking.sync import sent
from pneumonia.training import ensemble
from pneumonia.training.loop import Epoch, Step, fit_data
from pneumonia.training.network import Network


class SearchError(RuntimeError):
    """The search cannot go on; the sentence says why and what to do."""


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials by their objective, the earlier of equal ones first.

    Raises:
        SearchError: no trial came to an end.
    """
    complete = studies.trials(study, TrialState.COMPLETE)
    if not complete:
        failed = studies.failures(study)
        why = f"; the last failure said: {failed[-1].user_attrs[attributes.REASON]}" if failed else ""
        raise SearchError(f"no trial of study {study.study_name} came to an end{why}")
    return sorted(complete, key=lambda trial: (trial.value, trial.number))


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the final training is to be: of so many epochs, its model a version of `model_name`. `key` tells its study
    from all others, `resumed` says whether a search led it that died, `check` raises once it is known that another
    leads it, and `confirm` asks the database about that.
    """

    epochs: int
    model_name: str
    key: str
    resumed: bool = False
    check: Callable[[], None] = lambda: None
    confirm: Callable[[], None] = lambda: None


def finish(
    trials: Sequence[FrozenTrial], task: Task, goal: Goal, data: cache.Decoded, listener: Listener
) -> tuple[Record, Verdict | None]:
    """Makes the final model and takes it through the gate. What a killed search did of that, on whatever machine, is
    not repeated.

    Where trials are shorter than `epochs`, the best one's configuration is trained in full. Where they are as long,
    that would give the best trial's network again: instead the networks of the best trials become an
    ensemble.

    Args:
        trials: the complete ones, the best first.

    Raises:
        LeadLost: another leads by now; a final training that has begun is KILLED.
    """
    context, best = task.context, trials[0]
    full = replace(task.base, **best.params, epochs=goal.epochs)
    members = _members(trials[: ensemble.MOST], task) if task.long else []
    joined = {tags.BEST_TRIALS: " ".join(str(trial.number) for trial, _ in members)} if members else {}
    before = _finished_here(task, full, joined, goal)
    if before is None and goal.resumed:
        with suppress(TrackingError):  # a store that is away: the registry takes one model of a search
            before = _finished_elsewhere(task, full, joined, goal)
    if before is not None:
        return before, _registered(before, task, goal)
    what = describe(best.params, task.base)
    if members:
        listener.say(
            f"final model: ensemble of trials {joined[tags.BEST_TRIALS]}, which were trained in full; the best: {what}"
        )
        description = f"Ensemble of the best trials, {joined[tags.BEST_TRIALS]}. The best: {what}"
    else:
        listener.say(f"final training: {what} {full.epochs} epochs")
        description = f"Trial {best.number}'s configuration trained in full. {what}"
    record = context.begin(
        Run(
            name="final",
            role="final",
            tags={tags.STUDY: task.study, tags.STUDY_KEY: goal.key, tags.BEST_TRIAL: str(best.number), **joined},
            description=description,
            register=goal.model_name,
        ),
        task.index,
        context.home / "records" / task.study / f"final-{time.time_ns()}",
    )
    watched = _Watched(listener, goal)
    with finished(record, context.tracker):
        if members:
            networks, trained = [network for _, network in members], [trial.user_attrs for trial, _ in members]
            fitted = ensemble.join(networks, full, fit_data(data, changed=task.changed), trained=trained)
            record.add_params({**asdict(full), "members": fitted.members})
            write_results(record, fitted, data, keep_model=True, looks={} if context.pictures else None)
            watched.on_results()
        else:
            run_training(full, data, record, context, listener=watched, changed=task.changed)
    return record, _registered(record, task, goal)


def _registered(record: Record, task: Task, goal: Goal) -> Verdict | None:
    """Takes a finished final training through the gate, unless it was; None where the tracker is away."""
    if (verdict := sent(record).get("verdict")) is not None:
        return Verdict(**verdict)
    tracker = task.context.tracker
    with suppress(TrackingError):  # it is registered by `pneumonia sync`
        tracker.patiently(lambda: tracker.send(record))
        goal.check()
        if versions.is_waiting(record):
            return tracker.patiently(lambda: versions.enter(tracker, record))
    return None


class _Watched(Listener):
    """Passes on what it is told of a training, and ends it where another search leads by then."""

    def __init__(self, listener: Listener, goal: Goal) -> None:
        self.listener, self.goal = listener, goal

    def say(self, line: str) -> None:
        self.listener.say(line)

    def on_step(self, step: Step) -> None:
        self.goal.check()
        self.listener.on_step(step)

    def on_epoch(self, epoch: Epoch) -> bool | None:
        self.goal.check()
        return self.listener.on_epoch(epoch)

    def on_results(self) -> None:
        with suppress(StudyError):  # of two that are complete, the registry takes the first
            self.goal.confirm()


def _finished_here(task: Task, full: TrainConfig, joined: dict[str, str], goal: Goal) -> Record | None:
    """The final record of this home that a killed search had finished."""
    for record in records(task.context.home / "records" / task.study):
        run = record.run
        same = (
            asdict(full).items() <= {**asdict(TrainConfig()), **record.params}.items()
            and joined.items() <= run.tags.items()
        )
        if run.role == "final" and run.register == goal.model_name and same:
            if "verdict" in sent(record):
                return record
            if versions.is_waiting(record):
                record.update(dataset=dataset_of(task.index))  # the folder of films may have moved since
                return record
    return None


def _finished_elsewhere(task: Task, full: TrainConfig, joined: dict[str, str], goal: Goal) -> Record | None:
    """The final training that another machine's search had finished and sent before it died, as a record here."""
    context, tracker = task.context, task.context.tracker
    wanted = {name: str(value) for name, value in asdict(full).items()}
    for run in tracker.patiently(partial(complete_runs, tracker, context.experiment, "final", goal.key)):
        if wanted.items() <= run.data.params.items() and joined.items() <= run.data.tags.items():
            folder = context.home / "records" / task.study / f"final-{time.time_ns()}"
            like = context.filled_in(Run(name="final", role="final", register=goal.model_name), task.index)
            return tracker.patiently(partial(fetch_record, tracker, run, like, folder))
    return None


def _members(trials: Sequence[FrozenTrial], task: Task) -> list[tuple[FrozenTrial, Network]]:
    """The trials that kept their models, with their networks; none if the best has not."""
    found: list[tuple[FrozenTrial, Network]] = []
    for trial in trials:
        record = Record(Path(trial.user_attrs[attributes.FOLDER]))
        run_id = trial.user_attrs.get(attributes.RUN_ID) or sent(record).get("run_id")
        with tempfile.TemporaryDirectory(prefix="pneumonia-trial-") as scratch:
            # a record that is sent has given its model to the store
            model = record.model if record.model.exists() else task.context.tracker.fetch_model(run_id, Path(scratch))
            if model is not None:
                network = export.read_network(model / "artifacts" / "package")
                found.append((trial, network))
        if not found:
            return []
    return found
