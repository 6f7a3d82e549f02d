"""What a training leaves: all that is promised, also where it diverges or is stopped."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.models import Model

from pneumonia.data.cache import Decoded
from pneumonia.data.index import Index
from pneumonia.runs.context import RunContext, data_tags, dataset_of
from pneumonia.runs.train import run_training, suited
from pneumonia.runtime.signals import Interrupted
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.sync import sent
from pneumonia.training.loop import Diverged, Epoch, fit_data
from tests.conftest import TINY, Told
from tests.tracking.conftest import NewRecord, files


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


PER_EPOCH = {
    *("train/loss", "val/loss", "val/auc", "val/average_precision", "val/accuracy", "val/balanced_accuracy"),
    *("val/sensitivity", "val/specificity", "val/precision", "val/f1", "val/brier", "val/ece"),
    "train/images_per_second",
}


ONCE = {"train/seconds", "data/seconds"}


@pytest.mark.figures
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
    outputs = ["probability", "label", "threshold", "familiarity", "familiar", "warning", "error"]
    assert [column.name for column in model.signature.outputs] == outputs
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


@pytest.mark.parametrize(("classes", "told"), [(("NORMAL", "PNEUMONIA"), True), (("NORMAL", "FRACTURE"), False)])
def test_opacities_are_for_classes_that_they_tell_apart(decoded, classes: tuple[str, str], told: bool) -> None:  # type: ignore[no-untyped-def]
    index, listener = replace(decoded.index, classes=classes), Told()
    assert fit_data(replace(decoded, index=index)).opacities is told
    config = suited(replace(TINY, opacity=0.3), index, listener=listener)
    assert config.opacity == (0.3 if told else 0.0)
    assert listener.said == [] if told else "FRACTURE" in listener.said[0]
    assert suited(replace(TINY, opacity=0.0), index, listener=listener).opacity == 0
    assert len(listener.said) == (not told)
