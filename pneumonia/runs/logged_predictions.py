"""The predictions that runs logged, which stand in for models that were not kept."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pneumonia.tracking.record import VAL_PREDICTIONS
from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.sync import none_if_missing
from pneumonia.tracking.tags import CLASSES, FINGERPRINT, NEGATIVE, POSITIVE, ROLE, TRIAL_STATE


@dataclass(frozen=True)
class Logged:
    """What there is of a run that kept no model: its classes, its threshold, the fingerprint of its films, and its
    probability of each validation film by path.
    """

    run_id: str
    classes: tuple[str, ...]
    threshold: float
    fingerprint: str | None
    probabilities: pd.Series

    def scores(self, paths: pd.Series) -> pd.DataFrame:
        """A row a path with `probability` and `error`, as `predict.predict` gives them."""
        found = self.probabilities.reindex(paths)
        missing = f"the run {self.run_id} has no prediction of it"
        return pd.DataFrame({"probability": found.to_numpy(), "error": np.where(found.isna(), missing, "")})


def logged_by(tracker: Tracker, run_id: str) -> Logged | None:
    """The predictions of the validation films that a training logged; None where the run has none."""
    text = tracker.text_of(run_id, VAL_PREDICTIONS)
    if text is None:
        return None
    with tracker_errors(tracker.uri):
        data = tracker.client.get_run(run_id).data
    table = pd.read_csv(io.StringIO(text), dtype={"path": str}, keep_default_na=False)
    if "val/threshold" not in data.metrics or "probability" not in table:  # not a training, or not one that ended
        return None
    return Logged(
        run_id=run_id,
        classes=classes_in(data.tags),
        threshold=data.metrics["val/threshold"],
        fingerprint=data.tags.get(FINGERPRINT),
        probabilities=table.drop_duplicates("path").set_index("path")["probability"],
    )


def classes_in(tags: Mapping[str, str]) -> tuple[str, ...]:
    """The classes, negative and positive, by the tags of a run (`context.data_tags`); before 0.2 there was only one
    tag.
    """
    both = tuple(tags[name] for name in (NEGATIVE, POSITIVE) if name in tags)
    return both if len(both) == 2 else tuple(tags.get(CLASSES, "").split("/"))


def is_of_seeds(tracker: Tracker, run_id: str) -> bool:
    """Whether a run is one of `train --seeds`; False where the store has no such run.

    Raises:
        TrackingError: the store cannot be reached.
    """
    with tracker_errors(tracker.uri):
        run = none_if_missing(lambda: tracker.client.get_run(run_id))
    return run is not None and run.data.tags.get(ROLE) == "seeds"


def by_seed(tracker: Tracker, run_id: str) -> tuple[dict[int, Logged], dict[str, str]]:
    """What the trainings under a run of several seeds logged, by seed, of those that came to an end; and the parameters
    that they have in common.

    Raises:
        TrackingError: the store cannot be reached.
    """
    with tracker_errors(tracker.uri):
        experiment = tracker.client.get_run(run_id).info.experiment_id
        ended = f"tags.{ROLE} = 'train' and tags.`{TRIAL_STATE}` = 'COMPLETE'"
        under = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}' and {ended}"
        runs = tracker.client.search_runs([experiment], under, max_results=50_000)
    found = {int(run.data.params["seed"]): logged_by(tracker, run.info.run_id) for run in runs}
    common = set.intersection(*(set(run.data.params.items()) for run in runs)) if runs else set()
    return {seed: logged for seed, logged in sorted(found.items()) if logged is not None}, dict(sorted(common))
