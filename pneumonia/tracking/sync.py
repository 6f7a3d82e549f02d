"""Sends a record to MLflow step by step, and remembers in the record what the store has."""

import getpass
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, Unpack

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    RunStatus,
    RunTag,
)
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_USER,
)
from PIL import Image

from pneumonia.runtime.messages import shortened
from pneumonia.runtime.secrets import masked
from pneumonia.tracking import tags, views
from pneumonia.tracking.logged_models import send_model
from pneumonia.tracking.record import KILLED, SENT, SUMMARY, Record, Run, Sent, read_json, write_json

OPEN = ("auto", "none", "")  # words for "decide it yourself" in an MLproject parameter
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "INTERRUPTED": "KILLED"}
REASON_LETTERS = 500
TRAININGS = ("trial", "final", "train")  # roles of runs that have a trial's state
DIGEST_LENGTH = 36  # MLflow's bound on a dataset's digest

T = TypeVar("T")


def none_if_missing(call: Callable[[], T]) -> T | None:
    """What `call` returns; None where the store has no such run, model, version or file."""
    try:
        return call()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def active_run(client: MlflowClient, run_id: str) -> MlflowRun | None:
    """The run; None where the store has none of that id, or somebody deleted it."""
    run = none_if_missing(lambda: client.get_run(run_id))
    return run if run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def _retry_on_race(call: Callable[[], T]) -> T:
    """What `call` returns, on a second try where another process inserted the same row first."""
    try:
        return call()
    except MlflowException as error:
        # MLflow has no code of its own for a row that a database's unique constraint refused
        if error.error_code not in ("BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"):
            raise
        return call()


def get_or_create_experiment(client: MlflowClient, name: str) -> Experiment:
    """The experiment called `name`, made when it is not there; it may be a deleted one.

    It gets the tags of `views` for MLflow's UI, except those that it has.
    """

    def look_or_make() -> Experiment:
        found = client.get_experiment_by_name(name)
        return found or client.get_experiment(client.create_experiment(name))

    found = _retry_on_race(look_or_make)
    if found.lifecycle_stage == LifecycleStage.ACTIVE:
        for key, value in views.experiment_tags().items():
            if key not in found.tags:
                _retry_on_race(partial(client.set_experiment_tag, found.experiment_id, key, value))
    return found


def sent(record: Record) -> Sent:
    """What the store has of the record; empty before it is first sent."""
    path = record.folder / SENT
    have: Sent = read_json(path) if path.exists() else {}
    return have


def remember(record: Record, **news: Unpack[Sent]) -> Sent:
    """Notes what the store has got, and returns all that it has."""
    have = sent(record)
    have.update(news)
    write_json(record.folder / SENT, have)
    return have


def sent_to(record: Record) -> str | None:
    """The tracking store that has the record, or None when none has."""
    return sent(record).get("uri")


def unsent(record: Record) -> bool:
    """Whether an ended record still has something to send."""
    have = sent(record)
    return record.status is not None and not have.get("closed", False) and not have.get("deleted", False)


def send(record: Record, client: MlflowClient, uri: str) -> str:
    """Sends the record to its MLflow run, and returns the run's id.

    Each step is remembered when the store has taken it, so that the next call continues from there. A run that somebody
    deleted is left alone.
    """
    try:
        return _send(record, client, uri)
    except MlflowException:
        have = sent(record)
        if "run_id" not in have:
            raise
        if active_run(client, have["run_id"]) is not None:
            raise
        return remember(record, deleted=True)["run_id"]


def _send(record: Record, client: MlflowClient, uri: str) -> str:
    run = record.run
    have = sent(record)

    if "run_id" not in have:
        experiment_id = get_or_create_experiment(client, run.experiment).experiment_id
        run_id = _open(run, experiment_id, client)
        have = remember(record, run_id=run_id, experiment_id=experiment_id, uri=masked(uri))
    run_id = have["run_id"]
    if run.parent is not None and (parent := heir(run.parent, client)) != have.get("parent"):
        # asked after the run was opened: who takes over meanwhile finds the run, or is found here
        client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
        have = remember(record, parent=parent)

    params = record.params
    if missing := sorted(params.keys() - set(have.get("params", []))):
        # MLflow refuses a parameter that it has already as another text, as `mlflow run` logs it (1e-3 for 0.001).
        there = client.get_run(run_id).data.params
        fresh = [Param(name, str(params[name])) for name in missing if name not in there]
        # What `mlflow run` logged as left open, and this program decided.
        fresh += [Param(f"used/{name}", str(params[name])) for name in missing if there.get(name) in OPEN]
        if fresh:
            client.log_batch(run_id, params=fresh)
        remember(record, params=sorted(params))

    lines = record.metrics
    if fresh_lines := lines[have.get("metrics", 0) :]:
        client.log_batch(run_id, metrics=[m for line in fresh_lines for m in _metrics(line)])
        remember(record, metrics=len(lines))

    files = have.get("artifacts", {})
    for path in sorted(p for p in record.artifacts.rglob("*") if p.is_file() and not p.name.endswith(".part")):
        name = path.relative_to(record.artifacts).as_posix()
        stamp = [path.stat().st_size, path.stat().st_mtime_ns]
        if files.get(name) != stamp:
            client.log_artifact(run_id, str(path), os.path.dirname(name) or None)
            files[name] = stamp
            remember(record, artifacts=files)

    shown = have.get("images", [])
    for path in sorted(record.images.rglob("*.png")):
        name = path.relative_to(record.images).with_suffix("").as_posix()
        if name not in shown:
            key, _, step = name.partition("@")
            with Image.open(path) as picture:
                client.log_image(run_id, picture, key=key, step=int(step or 0), synchronous=True)
            shown.append(name)
            remember(record, images=shown)

    status = record.status
    if status is not None and not have.get("closed", False):
        if status["state"] in ("COMPLETE", "PRUNED") and record.model.exists() and "model_id" not in have:
            have = remember(record, model_id=send_model(record, run_id, client, uri), dropped=False)
        if (record.folder / SUMMARY).exists():
            summary = read_json(record.folder / SUMMARY)
            client.log_batch(run_id, metrics=list(_metrics(summary, have.get("model_id") or run.model_id, run)))
        _close(run, status, run_id, client)
        remember(record, closed=True)
        shutil.rmtree(record.model, ignore_errors=True)  # MLflow has it now; a folder of models fills a disk
    return run_id


def heir(parent: str, client: MlflowClient) -> str:
    """The search that a run belongs to which began under `parent`: the last one that went on with that."""
    seen = [parent]
    while (there := none_if_missing(partial(client.get_run, seen[-1]))) is not None:
        heir = there.data.tags.get(tags.RESUMED_BY)
        if heir is None or heir in seen:
            break
        seen.append(heir)
    return seen[-1]


def _open(run: Run, experiment_id: str, client: MlflowClient) -> str:
    """Adopts the given run, or finds the one that an interrupted call made, or creates it."""
    named = {
        tags.ROLE: run.role,
        tags.RECORD: run.key,
        MLFLOW_RUN_NAME: run.name,
        MLFLOW_USER: user(),
        **({MLFLOW_RUN_NOTE: run.description} if run.description else {}),
        **({MLFLOW_PARENT_RUN_ID: run.parent} if run.parent else {}),
        **run.tags,
    }
    run_id = run.run_id
    if run_id is None:
        found = client.search_runs([experiment_id], f"tags.{tags.RECORD} = '{run.key}'", max_results=1)
        run_id = found[0].info.run_id if found else None
    if run_id is None:
        source = {MLFLOW_SOURCE_NAME: f"pneumonia {run.role}"}
        run_id = client.create_run(experiment_id, start_time=run.began, tags={**named, **source}).info.run_id
    else:
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in named.items()])
        client.update_run(run_id, status="RUNNING", name=run.name)
    if run.dataset:
        data = run.dataset
        dataset = Dataset(
            name=data["name"],
            digest=data["digest"][:DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": data["source"]}),
            profile=json.dumps(data.get("profile", {})),
        )
        context = InputTag(MLFLOW_DATASET_CONTEXT, data.get("context", "training"))
        _retry_on_race(lambda: client.log_inputs(run_id, [DatasetInput(dataset, [context])]))
    return str(run_id)


def user() -> str:
    """Who types the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return "unknown"


def _metrics(line: dict[str, Any], model_id: str | None = None, run: Run | None = None) -> Iterator[Metric]:
    tied = {}
    if model_id is not None:
        tied["model_id"] = model_id
        if run is not None and run.dataset:
            tied |= {"dataset_name": run.dataset["name"], "dataset_digest": run.dataset["digest"][:DIGEST_LENGTH]}
    for name, value in line["metrics"].items():
        yield Metric(name, value, line["time"], line["step"], **tied)


def _close(run: Run, status: dict[str, Any], run_id: str, client: MlflowClient) -> None:
    # by now they hold the results of the run
    said = {**run.tags, **({MLFLOW_RUN_NOTE: run.description} if run.description else {})}
    if said:
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in said.items()])
    if status["reason"] == KILLED and _has_ended(client, run_id):
        return  # the process told the store how it ended, and could not write that down: its disk was full
    trial = run.role in TRAININGS
    close_run(client, run_id, status["state"], status["reason"], trial=trial, time=status.get("time"))


def _has_ended(client: MlflowClient, run_id: str) -> bool:
    """Whether this program ended a run, and not MLflow, which gives no reason."""
    run = client.get_run(run_id)
    return RunStatus.is_terminated(RunStatus.from_string(run.info.status)) and tags.REASON in run.data.tags


def close_run(
    client: MlflowClient, run_id: str, state: str, reason: str, *, trial: bool = True, time: int | None = None
) -> None:
    """Ends an MLflow run as a record's state says, at the `time` (milliseconds since 1970) or now; also for a run whose
    record is on another machine.
    """
    said = {
        **({tags.TRIAL_STATE: state} if trial else {}),
        **({tags.REASON: shortened(reason, REASON_LETTERS)} if reason else {}),
    }
    if said:
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in said.items()])
    client.set_terminated(run_id, STATUS[state], time)
