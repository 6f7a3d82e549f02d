"""A run that another machine sent, as a record on this one, so that this machine can go on with it."""

from dataclasses import replace
from pathlib import Path

from mlflow.entities import LoggedModelStatus
from mlflow.entities import Run as MlflowRun

from pneumonia.runtime.secrets import masked
from pneumonia.tracking import tags
from pneumonia.tracking.record import CARD, VAL_PREDICTIONS, Record, Run
from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.sync import remember

STORES_OWN = (tags.ROLE, tags.RECORD, tags.REASON, tags.TRIAL_STATE)  # beside MLflow's; a record has them elsewhere


def complete_runs(tracker: Tracker, experiment: str, role: str, study_key: str) -> list[MlflowRun]:
    """The runs of one role that a study's searches sent and that are COMPLETE, the earliest first.

    Raises:
        TrackingError: the store cannot be reached.
    """
    words = f"tags.`{tags.STUDY_KEY}` = '{study_key}' and tags.{tags.ROLE} = '{role}'"
    with tracker_errors(tracker.uri):
        there = tracker.client.get_experiment_by_name(experiment)
        if there is None:
            return []
        runs = tracker.client.search_runs([there.experiment_id], words, order_by=["attributes.start_time ASC"])
    return [run for run in runs if run.data.tags.get(tags.TRIAL_STATE) == "COMPLETE"]


def fetch_record(tracker: Tracker, run: MlflowRun, like: Run, folder: Path) -> Record | None:
    """A record in `folder` of a run that was sent in full, with what the registry needs of it; None where the run has
    no model.

    Args:
        like: its role, its films and the model that it becomes a version of.

    Raises:
        TrackingError: the store cannot be reached; nothing was written.
    """
    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    with tracker_errors(tracker.uri):
        models = tracker.client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        ready = [model for model in models if model.status == LoggedModelStatus.READY]
    if not ready:
        return None
    texts = {name: tracker.text_of(run_id, name) for name in (VAL_PREDICTIONS, CARD)}
    if texts[VAL_PREDICTIONS] is None:
        return None
    own = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") and k not in STORES_OWN}
    key = run.data.tags[tags.RECORD]
    note = run.data.tags.get("mlflow.note.content", "")
    record = Record.create(folder, replace(like, run_id=run_id, key=key, tags=own, description=note))
    for name, text in texts.items():
        if text is not None:
            (record.artifacts / name).parent.mkdir(parents=True, exist_ok=True)
            (record.artifacts / name).write_text(text, encoding="utf-8")
    record.add_params(run.data.params)
    record.summarise(run.data.metrics, step=0)
    record.finish("COMPLETE")
    remember(
        record,
        uri=masked(tracker.uri),
        run_id=run_id,
        experiment_id=experiment_id,
        params=sorted(run.data.params),
        model_id=str(ready[0].model_id),
        dropped=False,
        closed=True,
    )
    return record
