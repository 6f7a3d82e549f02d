import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.models import Model

from pneumonia.data.cache import Decoded
from pneumonia.data.index import Index
from pneumonia.runs.context import RunContext, data_tags, dataset_of
from pneumonia.runs.train import run_training
from pneumonia.runtime.signals import Interrupted
from pneumonia.tracking import sync as sending
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.sync import STATUS, sent, unsent
from pneumonia.training.loop import Diverged, Epoch
from tests.conftest import NO_SERVER, TINY, Told, TrackingServer

NewRecord = Callable[..., Record]


class Flaky:
    """A client whose `fault`-th call fails, before the store does it, or after it did but the answer is lost."""

    def __init__(self, client: MlflowClient, fault: int, *, before: bool) -> None:
        self._client, self._left, self._before = client, fault, before
        self.failed = ""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left != 0:
                return method(*args, **kwargs)
            self.failed = name
            if not self._before:
                method(*args, **kwargs)
            raise ConnectionError(f"{name}: connection reset by peer")

        return call


def stub_model(record: Record) -> None:
    """An MLflow model of two files that nobody loads."""
    record.model.mkdir()
    Model().save(str(record.model / "MLmodel"))
    (record.model / "weights.bin").write_bytes(b"weights")


def small(new_record: NewRecord, name: str, **fields: Any) -> Record:
    """An ended record with a bit of everything."""
    dataset = {"name": "films", "digest": "ab" * 32, "source": "/films", "profile": {"train": 3}}
    record = new_record(name, **{"dataset": dataset, "tags": {"a": "b"}, "description": "words", **fields})
    record.add_params({"lr": 1e-3, "width": 8})
    for step in (1, 2, 3):
        record.add_metrics({"val/auc": step / 4, "val/loss": 1 / step}, step=step)
    record.summarise({"val/auc": 0.75, "val/threshold": 0.4}, step=3)
    record.add_json("confusion_matrix.json", [[1, 0], [0, 1]])
    record.add_json("figures/figure.json", {})
    stub_model(record)
    record.finish("COMPLETE")
    return record


def state_of(tracker: Tracker, record: Record) -> dict[str, Any]:
    """All that the store says of a record: for comparisons, without what differs from run to run."""
    client, run_id = tracker.client, sent(record)["run_id"]
    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    ours = client.search_runs([experiment_id], f"tags.record = '{record.run.key}'")
    outputs = run.outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id for model in models]
    return {
        "runs": len(ours),
        "status": run.info.status,
        "params": run.data.params,
        "tags": {name: value for name, value in run.data.tags.items() if name not in ("record", "mlflow.runName")},
        "metrics": {
            # A set: at the last step stand the epoch's value and the summary's, one if they fell into one millisecond.
            name: sorted({(m.step, m.value) for m in client.get_metric_history(run_id, name)})
            for name in run.data.metrics
        },
        "artifacts": files(client, run_id),
        "datasets": [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs],
        "models": [(str(m.status), m.name, m.params, {x.key: (x.value, x.step) for x in m.metrics}) for m in models],
        "files": [sorted(p.name for p in Path(m.artifact_location).iterdir()) for m in models],
        "outputs": [output.step for output in outputs],
    }


def files(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """Every artifact of a run."""
    found = []
    for item in client.list_artifacts(run_id, folder):
        found += files(client, run_id, item.path) if item.is_dir else [item.path]
    return found


# --- sending


def test_sending_twice_changes_nothing(tracker: Tracker, new_record: NewRecord) -> None:
    record = small(new_record, "one")
    run_id = tracker.send(record)
    once = state_of(tracker, record)
    assert once["runs"] == len(once["models"]) == 1
    assert once["metrics"]["val/auc"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert once["metrics"]["val/loss"] == [(1, 1), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert once["models"][0][0] == "READY"
    assert once["models"][0][3] == {"val/auc": (0.75, 3), "val/threshold": (0.4, 3)}
    assert not unsent(record)
    assert tracker.send(record) == run_id
    assert state_of(tracker, record) == once


def test_the_local_model_is_given_away_not_copied(tracker: Tracker, new_record: NewRecord) -> None:
    record = small(new_record, "one")
    tracker.send(record)
    assert not record.model.exists()


def test_only_what_is_new_is_sent(tracker: Tracker, new_record: NewRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    record = new_record()
    record.add_params({"lr": 1e-3})
    record.add_metrics({"val/auc": 0.5}, step=1)
    record.add_json("a.json", 1)
    tracker.send(record)
    record.add_metrics({"val/auc": 0.6}, step=2)
    record.add_json("b.json", 1)
    calls: list[tuple[str, Any]] = []
    for name in ("log_batch", "log_artifact"):
        method = getattr(MlflowClient, name)
        monkeypatch.setattr(
            MlflowClient, name, lambda *a, _m=method, _n=name, **k: (calls.append((_n, (a[1:], k))), _m(*a, **k))[1]
        )
    tracker.send(record)
    assert [name for name, _ in calls] == ["log_batch", "log_artifact"]
    assert [metric.step for metric in calls[0][1][1]["metrics"]] == [2]
    assert calls[1][1][0][1].endswith("b.json")
    run = tracker.client.get_run(sent(record)["run_id"])
    assert run.info.status == "RUNNING"
    record.add_json("b.json", 22)  # a file that changed is sent again
    tracker.send(record)
    assert json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/b.json")) == 22


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["request lost", "answer lost"])
def test_sending_goes_on_after_any_call_that_failed(tracker: Tracker, new_record: NewRecord, before: bool) -> None:
    sound = small(new_record, "sound")
    tracker.send(sound)
    wanted = state_of(tracker, sound)
    client, failed = tracker.client, []
    for fault in count(1):
        record = small(new_record, f"fault-{fault}")
        flaky = Flaky(client, fault, before=before)
        tracker._client = flaky  # type: ignore[assignment]
        if tracker.try_send(record, force=True):
            assert not flaky.failed
            break
        tracker._client = client
        failed.append(flaky.failed)
        assert unsent(record)
        assert record.model.exists()
        assert tracker.try_send(record, force=True), flaky.failed
        assert state_of(tracker, record) == wanted, f"after {flaky.failed} failed"
    assert {"create_run", "log_inputs", "log_artifact", "create_logged_model", "finalize_logged_model"} <= set(failed)
    assert {"log_batch", "log_model_artifacts", "log_outputs", "set_terminated"} <= set(failed)
    running = client.search_runs(["1"], "attributes.status = 'RUNNING'")
    assert running == []


def test_two_that_record_the_same_films_at_once_both_succeed(tracker: Tracker, new_record: NewRecord) -> None:
    """MLflow looks whether a dataset or an experiment is there, and then adds it: another may be quicker."""
    for attempt in range(5):
        dataset = {"name": f"films{attempt}", "digest": "ab" * 32, "source": "/films"}
        pair = [new_record(f"{attempt}-{i}", dataset=dataset, experiment=f"new {attempt}") for i in range(4)]
        together = Barrier(len(pair))

        def send(record: Record, together: Barrier = together) -> str:
            client = MlflowClient(tracker.uri)
            client.search_experiments()  # the store is open
            together.wait()
            return sending.send(record, client, tracker.uri)

        with ThreadPoolExecutor(len(pair)) as pool:
            run_ids = list(pool.map(send, pair))
        runs = [tracker.client.get_run(run_id) for run_id in run_ids]
        assert len({run.info.run_id for run in runs}) == len(pair)
        assert len({run.info.experiment_id for run in runs}) == 1
        assert [len(run.inputs.dataset_inputs) for run in runs] == [1] * len(pair)


def test_a_long_training_kept_back_by_an_outage_is_sent_whole(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record()
    for step in range(150):
        record.add_metrics({f"val/m{i}": i * step for i in range(16)}, step=step)
    record.add_params({f"p{i}": i for i in range(250)})
    record.finish("COMPLETE")
    run_id = tracker.send(record)
    assert len(tracker.client.get_metric_history(run_id, "val/m15")) == 150
    assert len(tracker.client.get_run(run_id).data.params) == 250


def test_params_that_are_there_in_other_words_are_left_alone(tracker: Tracker, new_record: NewRecord) -> None:
    """`mlflow run -P lr=1e-3` logs the text itself, and MLflow refuses another text for the same parameter."""
    made = tracker.client.create_run("1")
    tracker.client.log_param(made.info.run_id, "lr", "1e-3")
    record = new_record(run_id=made.info.run_id)
    record.add_params({"lr": 0.001, "width": 8})
    record.finish("COMPLETE")
    assert tracker.send(record) == made.info.run_id
    assert tracker.client.get_run(made.info.run_id).data.params == {"lr": "1e-3", "width": "8"}


def test_an_adopted_run_gets_name_description_and_tags(tracker: Tracker, new_record: NewRecord) -> None:
    made = tracker.client.create_run("1", tags={"mlflow.source.name": "mlflow run", "mlflow.project.env": "local"})
    record = new_record("mine", run_id=made.info.run_id, description="words", tags={"a": "b"})
    tracker.send(record)
    run = tracker.client.get_run(made.info.run_id)
    assert run.info.run_name == "mine"
    tags = run.data.tags
    assert (tags["mlflow.note.content"], tags["a"], tags["role"]) == ("words", "b", "train")
    assert (tags["mlflow.source.name"], tags["mlflow.project.env"]) == ("mlflow run", "local")
    assert len(tracker.client.search_runs(["1"])) == 1


@pytest.mark.parametrize(("state", "status"), STATUS.items())
def test_a_state_has_its_status_tag_and_reason(
    tracker: Tracker, new_record: NewRecord, state: Any, status: str
) -> None:
    assert STATUS == {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "INTERRUPTED": "KILLED"}
    for role in ("trial", "search"):
        record = new_record(f"{state}-{role}", role=role)
        record.finish(state, "" if state == "COMPLETE" else "because")
        run = tracker.client.get_run(tracker.send(record))
        assert run.info.status == status
        assert run.data.tags.get("trial.state") == (state if role == "trial" else None)
        assert run.data.tags.get("reason") == (None if state == "COMPLETE" else "because")


def test_start_and_end_of_a_run_are_the_record_s_however_late_it_is_sent(
    tracker: Tracker, new_record: NewRecord, home: Path
) -> None:
    before = time.time_ns() // 1_000_000
    record = new_record(role="evaluate")
    record.finish("COMPLETE")
    after = time.time_ns() // 1_000_000
    time.sleep(0.2)
    tracker.sync(home)
    info = tracker.client.get_run(sent(record)["run_id"]).info
    assert record.status is not None
    assert before <= record.run.began == info.start_time <= info.end_time == record.status["time"] <= after


def test_a_record_that_does_not_know_when_it_began_is_read_and_sent(tracker: Tracker, new_record: NewRecord) -> None:
    """As versions before 0.2 wrote them."""
    record = new_record()
    path = record.folder / "run.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "began"}))
    record.finish("FAIL", "too large")
    assert record.run.began is None
    run = tracker.client.get_run(tracker.send(record))
    assert run.info.status == "FAILED"
    assert run.info.start_time > 0


def test_a_run_is_seen_while_it_lasts(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record(role="compare")
    with finished(record, tracker):
        assert tracker.client.get_run(sent(record)["run_id"]).info.status == "RUNNING"
    assert tracker.client.get_run(sent(record)["run_id"]).info.status == "FINISHED"


def test_a_child_names_its_parent(tracker: Tracker, new_record: NewRecord) -> None:
    parent = tracker.send(new_record("parent", role="search"))
    child = tracker.send(new_record("child", role="trial", parent=parent))
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_hand_over(tracker: Tracker, new_record: NewRecord) -> None:
    old, new = (tracker.send(new_record(name, role="search")) for name in ("old", "new"))
    child = tracker.send(new_record("child", role="trial", parent=old))
    (ended := new_record("ended", role="final", parent=old)).finish("COMPLETE")
    tracker.send(ended)
    assert tracker.hand_over("1", old, new) == {child: "trial"}  # what is still open
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == new
    run = tracker.client.get_run(old)
    assert (run.info.status, run.data.tags["resumed_by"]) == ("KILLED", new)


def test_a_run_that_was_deleted_waits_for_nothing(tracker: Tracker, new_record: NewRecord, home: Path) -> None:
    record = new_record()
    run_id = tracker.send(record)
    tracker.client.delete_run(run_id)
    record.finish("FAIL", "its process was killed")
    assert unsent(record)
    tracker.sync(home)
    assert not unsent(record)
    assert tracker.client.get_run(run_id).info.lifecycle_stage == "deleted"
    assert tracker.sync(home)[1] == []


def test_a_record_goes_to_one_store(tracker: Tracker, new_record: NewRecord, empty_database: Path) -> None:
    record = new_record()
    tracker.send(record)
    other = Path("other.db").absolute()
    shutil.copy(empty_database, other)
    with pytest.raises(TrackingError, match="belongs to the tracking store"):
        Tracker(f"sqlite:///{other}").send(record)


# --- how a run ends


def test_finished_ends_a_run_as_its_block_ends(tracker: Tracker, new_record: NewRecord) -> None:
    def run(name: str, error: BaseException | None) -> MlflowRun:
        record = new_record(name)
        with nullcontext() if error is None else pytest.raises(type(error)), finished(record, tracker):
            if error is not None:
                raise error
        return tracker.client.get_run(sent(record)["run_id"])

    ends = {
        "good": (None, "FINISHED", None),
        "bad": (ValueError("too large"), "FAILED", "ValueError: too large"),
        "memory": (MemoryError(), "FAILED", "MemoryError"),
        "stopped": (Interrupted(15), "KILLED", "SIGTERM"),
        "notebook": (KeyboardInterrupt(), "KILLED", "SIGINT"),
    }
    for name, (error, status, reason) in ends.items():
        ended = run(name, error)
        assert (ended.info.status, ended.data.tags.get("reason")) == (status, reason)


def test_a_training_that_diverges_or_is_stopped_keeps_its_curves(
    tracker: Tracker, new_record: NewRecord, decoded: Decoded
) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Interrupted(2)

    stopped = new_record("stopped")
    with pytest.raises(Interrupted), finished(stopped, tracker):
        run_training(TINY, decoded, stopped, RunContext(home=stopped.folder, tracker=tracker), listener=Told(stop))
    run = tracker.client.get_run(sent(stopped)["run_id"])
    assert (run.info.status, run.data.tags["trial.state"]) == ("KILLED", "INTERRUPTED")
    assert [m.step for m in tracker.client.get_metric_history(run.info.run_id, "val/loss")] == [1, 2]
    assert run.data.params["lr"] == str(TINY.lr)

    broken = new_record("broken")
    with pytest.raises(Diverged), finished(broken, tracker):
        raise Diverged("the loss is not finite at step 3")
    run = tracker.client.get_run(sent(broken)["run_id"])
    assert (run.info.status, run.data.tags["trial.state"]) == ("FAILED", "FAIL")
    assert "step 3" in run.data.tags["reason"]


# --- what a COMPLETE trial holds

PER_EPOCH = {
    *("train/loss", "val/loss", "val/auc", "val/average_precision", "val/accuracy", "val/balanced_accuracy"),
    *("val/sensitivity", "val/specificity", "val/precision", "val/f1", "val/brier", "val/ece"),
    "train/images_per_second",
}
ONCE = {"train/seconds", "data/seconds"}


def test_a_complete_trial_holds_all_that_is_promised(
    tracker: Tracker, new_record: NewRecord, decoded: Decoded, index: Index, films: Path
) -> None:
    parent = tracker.send(new_record("search", role="search"))
    record = new_record(
        "trial",
        role="trial",
        parent=parent,
        tags=data_tags(index),
        dataset=dataset_of(decoded.index),
        description="It.",
    )
    tracker.try_send(record)
    with finished(record, tracker):
        value = run_training(TINY, decoded, record, RunContext(home=record.folder, tracker=tracker))
    client, run_id = tracker.client, sent(record)["run_id"]
    run = client.get_run(run_id)

    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert (tags["trial.state"], tags["role"], tags["mlflow.parentRunId"]) == ("COMPLETE", "trial", parent)
    assert tags["data.fingerprint"] == index.fingerprint
    assert tags["mlflow.note.content"].startswith("It.")

    assert {name: run.data.params[name] for name in ("lr", "width", "sampler", "seed")} == {
        "lr": "0.003",
        "width": "4",
        "sampler": "weighted",
        "seed": "0",
    }
    assert set(vars(TINY)) <= set(run.data.params)

    assert set(run.data.metrics) >= PER_EPOCH | ONCE
    for name in PER_EPOCH:
        steps = {metric.step for metric in client.get_metric_history(run_id, name)}
        assert steps == {1, 2, 3} or (name == "val/precision" and steps), name  # nothing called positive has none
    assert not [name for name in run.data.metrics if name.startswith("test/")]
    losses = [m.value for m in client.get_metric_history(run_id, "val/objective")]
    assert value == pytest.approx(min(losses[:3]))
    assert run.data.metrics["val/objective"] == pytest.approx(value)

    there = files(client, run_id)
    pictures = [f"figures/{name}.png" for name in ("confusion_matrix", "roc", "precision_recall", "reliability")]
    assert set(there) >= {*pictures, "confusion_matrix.json", "predictions/val.csv"}
    root = Path(run.info.artifact_uri)
    for name in pictures:
        assert cv2.imread(str(root / name)).shape == (500, 600, 3)
    slides = [name.split("+") for name in there if name.startswith("images/") and name.endswith(".png")]
    assert Counter(int(name[name.index("step") + 1]) for name in slides) == {0: 8, 1: 8, 2: 8, 3: 8}
    assert tags["mlflow.loggedImages"] == "True"
    (tn, fp), (fn, tp) = json.loads((root / "confusion_matrix.json").read_text())
    val = index.only("val")
    assert (tn + fp, fn + tp) == ((val["label"] == 0).sum(), (val["label"] == 1).sum())
    assert run.data.metrics["val/sensitivity"] == pytest.approx(tp / (tp + fn))

    table = pd.read_csv(root / "predictions" / "val.csv")
    assert list(table.columns) == ["path", "patient", "label", "probability"]
    assert table["path"].tolist() == val["path"].tolist()
    assert table["patient"].tolist() == val["patient"].tolist()
    assert set(table["label"]) == {"NORMAL", "PNEUMONIA"}

    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == index.fingerprint[:36]
    assert json.loads(dataset.dataset.profile)["val"] == len(val)
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "training"}

    (output,) = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (str(logged.status), logged.source_run_id) == ("READY", run_id)
    assert {m.key: m.value for m in logged.metrics}["val/auc"] == run.data.metrics["val/auc"]
    assert logged.params["lr"] == "0.003"
    model = Model.load(str(Path(logged.artifact_location)))
    assert (model.run_id, model.model_id) == (run_id, output.model_id)
    assert [column.name for column in model.signature.inputs] == ["image"]
    assert [column.name for column in model.signature.outputs] == ["probability", "label", "threshold", "warning"]
    assert model.signature.params is not None
    example = model.load_input_example(logged.artifact_location)
    assert list(example.columns) == ["image"]
    pins = Path(logged.artifact_location, "requirements.txt").read_text().split()
    assert pins
    assert all("==" in pin for pin in pins)
    assert not [pin for pin in pins if pin.startswith(("torch", "optuna"))]
    environment = yaml.safe_load(Path(logged.artifact_location, "conda.yaml").read_text())
    assert environment["dependencies"][-1]["pip"] == pins
    assert not Path(logged.artifact_location, "uv.lock").exists()

    # What is logged predicts what was in memory, for the bytes of the films.
    pyfunc = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    images = [(films / "chest_xray" / path).read_bytes() for path in table["path"]]
    served = pyfunc.predict(pd.DataFrame({"image": images}))
    np.testing.assert_allclose(served["probability"], table["probability"], atol=1e-4)
    assert served["threshold"].iloc[0] == run.data.metrics["val/threshold"]


# --- models that are not kept


def test_a_dropped_model_is_gone_from_the_disk(tracker: Tracker, new_record: NewRecord) -> None:
    record, other = small(new_record, "one"), small(new_record, "other")
    for each in (record, other):
        tracker.send(each)
    location, kept = (
        Path(tracker.client.get_logged_model(sent(r)["model_id"]).artifact_location) for r in (record, other)
    )
    assert (location / "weights.bin").exists()
    client = tracker.client
    for fault in (1, 2, 3):  # whatever fails, the next call brings it to its end
        flaky = Flaky(client, fault, before=fault != 3)
        tracker._client = flaky  # type: ignore[assignment]
        with pytest.raises(TrackingError, match="connection reset"):
            tracker.drop_model(record)
        tracker._client = client
    tracker.drop_model(record)
    tracker.drop_model(record)
    assert not location.exists()
    assert (kept / "weights.bin").exists()
    assert tracker.known_model(sent(record)["model_id"]) is None
    assert tracker.known_model(sent(other)["model_id"]) == sent(other)["model_id"]
    assert tracker.client.get_run(sent(record)["run_id"]).data.metrics["val/auc"] == 0.75


def test_a_record_without_a_model_has_none_to_drop(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record()
    record.finish("COMPLETE")
    tracker.send(record)
    tracker.drop_model(record)
    assert "model_id" not in sent(record)


# --- a store that is away


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(TrackingError) as caught:
        Tracker(NO_SERVER).experiment_id("pneumonia")
    said = str(caught.value)
    assert "\n" not in said
    assert NO_SERVER in said
    assert "MLFLOW_TRACKING_URI" in said


@pytest.mark.slow
def test_a_server_that_is_not_there_is_known_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError):
        Tracker(NO_SERVER).experiment_id("pneumonia")
    assert time.monotonic() - started < 10


def test_training_goes_on_without_a_store_and_its_record_is_whole(trained: Record) -> None:
    assert sent(trained) == {}
    assert [line["step"] for line in trained.metrics] == [1, 2, 3]
    assert trained.summary["val/auc"] >= 0
    assert (trained.model / "MLmodel").exists()


def test_what_was_kept_back_is_sent_later(tracker: Tracker, new_record: NewRecord, home: Path) -> None:
    away = Tracker(NO_SERVER)
    done = small(new_record, "done")
    failed, running = new_record("failed"), new_record("running")
    failed.finish("FAIL", "too large")
    for record in (done, failed, running):
        assert not away.try_send(record)
        assert sent(record) == {}
    assert away.sync(home)[0] == []
    assert [r.run.name for r in away.sync(home)[1]] == ["done", "failed"]
    synced, left = tracker.sync(home)
    assert (sorted(r.run.name for r in synced), left) == (["done", "failed"], [])
    assert tracker.sync(home) == ([], [])
    status = {r.data.tags["mlflow.runName"]: r.info.status for r in tracker.client.search_runs(["1"])}
    assert status == {"done": "FINISHED", "failed": "FAILED"}


def test_a_silent_store_is_asked_again_only_after_a_while(
    new_record: NewRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def reach(uri: str, *, seconds: float = 5) -> None:
        asked.append(uri)
        raise TrackingError("no answer")

    monkeypatch.setattr("pneumonia.tracking.store.reach", reach)
    tracker, record = Tracker(NO_SERVER), new_record()
    for _ in range(5):
        assert not tracker.try_send(record)
    assert len(asked) == 1
    assert not tracker.try_send(record, force=True)
    assert len(asked) == 2


@pytest.mark.slow
def test_a_server_killed_in_the_middle_loses_nothing(
    server: TrackingServer, new_record: NewRecord, decoded: Decoded, index: Index, home: Path
) -> None:
    tracker = Tracker(server.uri)
    tracker.experiment_id("pneumonia")
    record = new_record("mid", role="train", tags=data_tags(index), dataset=dataset_of(index))
    tracker.send(record)
    waits = []

    def kill(epoch: Epoch) -> None:
        if epoch.number == 1:
            server.kill()
        started = time.monotonic()
        tracker.try_send(record, force=True)
        waits.append(time.monotonic() - started)

    with finished(record, tracker):
        run_training(TINY, decoded, record, RunContext(home=record.folder, tracker=tracker), listener=Told(kill))
    assert max(waits) < 6
    assert len(record.metrics) == 3
    assert unsent(record)
    with pytest.raises(TrackingError):
        tracker.experiment_id("pneumonia")

    server.start()
    assert [r.run.name for r in tracker.sync(home)[0]] == ["mid"]
    run = tracker.client.get_run(sent(record)["run_id"])
    assert run.info.status == "FINISHED"
    assert [m.step for m in tracker.client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3]
    assert "predictions/val.csv" in files(tracker.client, run.info.run_id)
    assert len(tracker.client.search_runs([run.info.experiment_id])) == 1
    # Through the server as from the disk: the model predicts what was in memory.
    (output,) = run.outputs.model_outputs
    pyfunc = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    table = pd.read_csv(record.artifacts / "predictions" / "val.csv")
    images = [(index.root / path).read_bytes() for path in table["path"]]
    served = pyfunc.predict(pd.DataFrame({"image": images}))
    np.testing.assert_allclose(served["probability"], table["probability"], atol=1e-4)
    stored = list((server.folder / "artifacts").rglob("MLmodel"))
    assert len(stored) == 1
    tracker.drop_model(record)
    assert not list((server.folder / "artifacts").rglob("MLmodel"))


@pytest.mark.slow
def test_a_server_that_hangs_holds_training_up_for_seconds(server: TrackingServer, new_record: NewRecord) -> None:
    tracker, record = Tracker(server.uri), new_record()
    tracker.send(record)
    server.freeze()
    record.add_metrics({"val/auc": 0.5}, step=1)
    started = time.monotonic()
    assert not tracker.try_send(record)
    assert time.monotonic() - started < 7
    started = time.monotonic()
    assert not tracker.try_send(record)
    assert time.monotonic() - started < 0.1
