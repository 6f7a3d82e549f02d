"""Which of a search's trials keep their models in the store: decided from what the store has, so that it is the same
rule on whatever machine a trial ran, and whenever it was sent.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mlflow.entities import Run

from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.logged_models import delete_model
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.sync import none_if_missing, sent
from pneumonia.tracking.tags import DROPPED, ROLE, TRIAL_NUMBER, TRIAL_STATE

OBJECTIVE, KEEP = "val/objective", "keep_models"


def keep_best(tracker: Tracker, experiment_id: str, parent: str, keep: int) -> int:
    """Deletes the models of all trials under `parent` but the `keep` best, pruned ones included; returns how many.

    Raises:
        TrackingError: the store did not answer; the same call goes on.
    """
    trials = [run for run in tracker.children(experiment_id, parent) if _is_done_trial(run)]
    trials.sort(key=lambda run: (run.data.metrics.get(OBJECTIVE, math.inf), int(run.data.tags.get(TRIAL_NUMBER, 0))))
    surplus = [run for run in trials[keep:] if DROPPED not in run.data.tags]
    return sum(_drop(tracker, experiment_id, run.info.run_id) for run in surplus)


def sync(tracker: Tracker, home: Path) -> tuple[list[Record], list[Record]]:
    """As `Tracker.sync`; where it sent trials, the searches that they are under keep no more models than they were
    started with.
    """
    done, left = tracker.sync(home)
    keep_best_of_sent(tracker, done)
    return done, left


def keep_best_of_sent(tracker: Tracker, done: Sequence[Record]) -> int:
    """As `keep_best`, of every search that one of these trials was sent under, with the number that it was started
    with; returns how many models were deleted. A store that is away is left alone.
    """
    trials = [sent(record) for record in done if record.run.role == "trial"]
    under = {(have["experiment_id"], have["parent"]) for have in trials if {"experiment_id", "parent"} <= have.keys()}
    deleted = 0
    with suppress(TrackingError), tracker_errors(tracker.uri):
        for experiment_id, parent in sorted(under):
            said = none_if_missing(partial(tracker.client.get_run, parent))
            params = {} if said is None else said.data.params
            keep = params.get(f"used/{KEEP}", params.get(KEEP, ""))
            if keep.isdigit():
                deleted += keep_best(tracker, experiment_id, parent, int(keep))
    return deleted


def _is_done_trial(run: Run) -> bool:
    return run.data.tags.get(ROLE) == "trial" and run.data.tags.get(TRIAL_STATE) in ("COMPLETE", "PRUNED")


def _drop(tracker: Tracker, experiment_id: str, run_id: str) -> bool:
    """Deletes a run's models with their files, and tags the run; whether there were any. One whose machine was away
    when its trial ended may still get its model, and is left as it is until then.
    """
    with tracker_errors(tracker.uri):
        models = tracker.client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        for model in models:
            delete_model(model, tracker.client, tracker.uri)
        if models:
            tracker.client.set_tag(run_id, DROPPED, "deleted")
    return bool(models)
