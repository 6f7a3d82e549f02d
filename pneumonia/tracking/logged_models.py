"""A record's model as one of MLflow's logged models."""

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pneumonia.tracking import tags
from pneumonia.tracking.record import Record


def send_model(record: Record, run_id: str, client: MlflowClient, uri: str) -> str:
    """Uploads record.model as a logged model of the run, unless it is there; a half-sent one is deleted."""
    run, there = record.run, client.get_run(run_id)
    experiment_id = there.info.experiment_id
    model_id: str | None = None
    for old in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if old.status == LoggedModelStatus.READY:
            model_id = str(old.model_id)
        else:
            delete_model(old, client, uri)
    if model_id is None:
        params = {name: str(value) for name, value in record.params.items()}
        named = {tags.ROLE: run.role, tags.RECORD: run.key, **run.tags}
        made = client.create_logged_model(experiment_id, "model", run_id, named, params, "classifier")
        model_id = str(made.model_id)
        model = Model.load(str(record.model))
        model.run_id, model.model_id, model.model_uuid = run_id, model_id, model_id
        model.artifact_path = made.artifact_location
        model.save(str(record.model / "MLmodel"))
        client.log_model_artifacts(model_id, str(record.model))
        client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    outputs = there.outputs.model_outputs if there.outputs else []
    if model_id not in [output.model_id for output in outputs]:  # MLflow refuses to be told twice
        last_step = record.metrics[-1]["step"] if record.metrics else 0
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=last_step)])
    return model_id


def delete_model(model: LoggedModel, client: MlflowClient, uri: str) -> None:
    """Deletes a model, its files first: for a deleted model MLflow no longer says where they are."""
    get_artifact_repository(model.artifact_location, tracking_uri=uri).delete_artifacts()  # type: ignore[no-untyped-call]
    client.delete_logged_model(model.model_id)
