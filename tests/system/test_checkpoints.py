"""Trainings that are killed, as commands: the same command goes on, and gives what one without a break gives."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pneumonia.tracking.record import VAL_PREDICTIONS, Record, records
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.command import Lab, until

pytestmark = pytest.mark.slow

EPOCHS = 30


@pytest.fixture
def labs(tracker: Tracker, films: Path, tmp_path: Path) -> Iterator[tuple[Lab, Lab]]:
    """Two homes of one tracking store and the same films: in the first nothing is killed."""
    pair = (Lab(tmp_path / "quiet", films, tracking=tracker.uri), Lab(tmp_path / "harsh", films, tracking=tracker.uri))
    yield pair
    for lab in pair:
        lab.stop()


def running(lab: Lab, role: str, *, epochs: int) -> Record | None:
    """A training of that role that has not ended, and has done so many epochs."""
    found = [record for record in records(lab.home / "records") if record.run.role == role and record.status is None]
    return next((record for record in found if len(record.metrics) >= epochs), None)


def complete(lab: Lab, role: str) -> Record:
    every = [record for record in records(lab.home / "records") if record.run.role == role]
    (record,) = [record for record in every if record.status["state"] == "COMPLETE"]
    return record


def assert_same(one: Record, other: Record, tracker: Tracker, folder: Path) -> None:
    assert (one.artifacts / VAL_PREDICTIONS).read_bytes() == (other.artifacts / VAL_PREDICTIONS).read_bytes()
    networks = []
    for record in (one, other):
        model = tracker.fetch_model(sent(record)["run_id"], folder / sent(record)["run_id"])
        networks.append(safetensors.torch.load_file(next(model.rglob("*.safetensors"))))
    assert all(torch.equal(tensor, networks[1][name]) for name, tensor in networks[0].items())
    curves = [[(line["step"], line["metrics"]["val/loss"]) for line in record.metrics] for record in (one, other)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == list(range(1, len(curves[0]) + 1))


def test_a_killed_train_goes_on(labs: tuple[Lab, Lab], tracker: Tracker, tmp_path: Path) -> None:
    quiet, harsh = labs
    words = ["train", "--data", str(quiet.films), "--size", "32", "--epochs", str(EPOCHS), "--patience", str(EPOCHS)]
    first = harsh.start(*words)
    dead = until(lambda: running(harsh, "train", epochs=3), "three epochs")
    first.kill()
    done = len(dead.metrics)
    second = harsh.start(*words)
    stopped = until(lambda: running(harsh, "train", epochs=done + 3), "three epochs more")
    second.signal(signal.SIGTERM)
    assert second.end() == 128 + signal.SIGTERM, second.text()
    assert "the same command resumes from here" in second.text()
    assert re.search(rf"goes on after epoch \d+ of run {sent(dead)['run_id']}\n", second.text())
    third = harsh.start(*words)
    assert third.end() == 0, third.text()
    assert re.search(rf"goes on after epoch \d+ of run {sent(stopped)['run_id']}\n", third.text())
    assert list((harsh.home / "checkpoints").iterdir()) == []

    whole = quiet.start(*words)
    assert whole.end() == 0, whole.text()
    assert_same(complete(quiet, "train"), complete(harsh, "train"), tracker, tmp_path)
    states = [harsh.client.get_run(sent(record)["run_id"]).info.status for record in (dead, stopped)]
    assert states == ["FAILED", "KILLED"]
    run = harsh.client.get_run(sent(complete(harsh, "train"))["run_id"])
    assert run.data.tags["resumed_from"] == sent(stopped)["run_id"]


def test_a_search_that_is_killed_in_its_final_training_goes_on(
    labs: tuple[Lab, Lab], tracker: Tracker, tmp_path: Path
) -> None:
    quiet, harsh = labs
    first = harsh.search(trials=1, workers=1, final_epochs=EPOCHS)
    dead = until(lambda: running(harsh, "final", epochs=3), "three epochs")
    os.kill(first.process.pid, signal.SIGKILL)
    first.end()
    until(lambda: not harsh.processes(), "the end of every process")
    second = harsh.search(trials=1, workers=1, final_epochs=EPOCHS)
    assert second.end() == 0, second.text()
    assert f"of run {sent(dead)['run_id']}" in second.text()
    assert list((harsh.home / "checkpoints").iterdir()) == []

    whole = quiet.search(trials=1, workers=1, final_epochs=EPOCHS)
    assert whole.end() == 0, whole.text()
    assert_same(complete(quiet, "final"), complete(harsh, "final"), tracker, tmp_path)
    assert [run.info.status for run in harsh.runs("final")].count("RUNNING") == 0
