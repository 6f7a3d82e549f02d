"""The final candidate: the best trial's configuration, trained in full and taken through the gate."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import optuna
from optuna.trial import FrozenTrial, TrialState

from pneumonia import cache, registry
from pneumonia.gate import Verdict
from pneumonia.record import Record, Run, records
from pneumonia.search import study as studies
from pneumonia.search.worker import Task, describe
from pneumonia.sending import sent
from pneumonia.tracking import Tracker, finished
from pneumonia.train import Epoch, Step
from pneumonia.trial import dataset_of, run_training


class SearchError(RuntimeError):
    """The search cannot go on; the sentence says why and what to do."""


def best(study: optuna.Study) -> FrozenTrial:
    """The trial with the lowest objective, the earliest of equal ones.

    Raises:
        SearchError: no trial came to an end.
    """
    complete = studies.trials(study, TrialState.COMPLETE)
    if not complete:
        failed = studies.failures(study)
        why = f"; the last failure said: {failed[-1].user_attrs['reason']}" if failed else ""
        raise SearchError(f"no trial of study {study.study_name} came to an end{why}")
    return min(complete, key=lambda trial: (trial.value, trial.number))


def train_in_full(
    best: FrozenTrial,
    task: Task,
    epochs: int,
    data: cache.Decoded,
    tracker: Tracker,
    model_name: str,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
    say: Callable[[str], None],
) -> tuple[Record, Verdict | None]:
    """Trains the best configuration in full, and takes the model through the gate; what a killed search had done of
    that is not done again.
    """
    full = replace(task.base, **best.params, epochs=epochs)
    for record in records(task.home / "records" / task.study):
        if record.run.role == "final" and record.run.register == model_name and record.params == asdict(full):
            if (verdict := sent(record).get("verdict")) is not None:
                return record, Verdict(**verdict)
            if registry.is_waiting(record):
                record.update(dataset=dataset_of(task.index))  # the folder of films may have moved since
                return record, registry.enter(tracker, record)
    say(f"final training: {describe(best.params, task.base)} {full.epochs} epochs")
    record = Record.create(
        task.home / "records" / task.study / f"final-{time.time_ns()}",
        Run(
            name="final",
            role="final",
            experiment=task.experiment,
            parent=task.parent,
            tags={**task.tags, "study": task.study, "best.trial": str(best.number)},
            description=f"Trial {best.number}'s configuration trained in full. {describe(best.params, task.base)}",
            dataset=dataset_of(task.index),
            register=model_name,
        ),
    )
    with finished(record, tracker):
        run_training(full, data, record, tracker=tracker, on_step=on_step, on_epoch=on_epoch, changed=task.changed)
    return record, registry.enter(tracker, record) if registry.is_waiting(record) else None
