"""A real tracking server that is killed or hangs while a training runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from pneumonia.data.cache import Decoded
from pneumonia.data.index import Index
from pneumonia.runs.context import RunContext, data_tags, dataset_of
from pneumonia.runs.train import run_training
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.sync import sent, unsent
from pneumonia.training.loop import Epoch
from tests.conftest import ROOT, TINY, Told, TrackingServer
from tests.tracking.conftest import NewRecord, files


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


@pytest.mark.slow
def test_json_is_alone_on_standard_output(server: TrackingServer, films: Path, home: Path) -> None:
    """MLflow prints a line for each run that ends on a server."""
    words = ["train", "--data", str(films), "--epochs", "1", "--size", "32", "--json"]
    environment = {**os.environ, "PNEUMONIA_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pneumonia", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["val/auc"] >= 0
