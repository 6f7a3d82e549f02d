"""The final candidate, from the best trials, taken through the gate."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
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
from pneumonia.search.worker import Task, describe
from pneumonia.serving import export
from pneumonia.tracking import tags
from pneumonia.tracking.record import Record, Run, records
from pneumonia.tracking.store import finished
from pneumonia.tracking.sync import sent
from pneumonia.training import ensemble
from pneumonia.training.loop import fit_data
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


def finish(
    trials: Sequence[FrozenTrial], task: Task, epochs: int, data: cache.Decoded, model_name: str, listener: Listener
) -> tuple[Record, Verdict | None]:
    """Makes the final model and takes it through the gate; what a killed search did of that is not repeated.

    Where trials are shorter than `epochs`, the best one's configuration is trained in full. Where they are as long,
    that would give the best trial's network again: instead the networks of the best trials become an
    ensemble.

    Args:
        trials: the complete ones, the best first.
    """
    context, best = task.context, trials[0]
    full = replace(task.base, **best.params, epochs=epochs)
    members = _members(trials[: ensemble.MOST], task) if task.long else []
    joined = {tags.BEST_TRIALS: " ".join(str(trial.number) for trial, _ in members)} if members else {}
    if (before := _already_finished(task, full, joined, model_name)) is not None:
        return before
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
            tags={tags.STUDY: task.study, tags.BEST_TRIAL: str(best.number), **joined},
            description=description,
            register=model_name,
        ),
        task.index,
        context.home / "records" / task.study / f"final-{time.time_ns()}",
    )
    with finished(record, context.tracker):
        if members:
            networks, trained = [network for _, network in members], [trial.user_attrs for trial, _ in members]
            fitted = ensemble.join(networks, full, fit_data(data, changed=task.changed), trained=trained)
            record.add_params({**asdict(full), "members": fitted.members})
            write_results(record, fitted, data, keep_model=True, looks={} if context.pictures else None)
        else:
            run_training(full, data, record, context, listener=listener, changed=task.changed)
    return record, versions.enter(context.tracker, record) if versions.is_waiting(record) else None


def _already_finished(
    task: Task, full: TrainConfig, joined: dict[str, str], model_name: str
) -> tuple[Record, Verdict] | None:
    """The final record that a killed search had finished, taken through the gate if it had not been."""
    for record in records(task.context.home / "records" / task.study):
        run = record.run
        same = (
            asdict(full).items() <= {**asdict(TrainConfig()), **record.params}.items()
            and joined.items() <= run.tags.items()
        )
        if run.role == "final" and run.register == model_name and same:
            if (verdict := sent(record).get("verdict")) is not None:
                return record, Verdict(**verdict)
            if versions.is_waiting(record):
                record.update(dataset=dataset_of(task.index))  # the folder of films may have moved since
                return record, versions.enter(task.context.tracker, record)
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
