"""A training that is killed and started again: one record with all that the training without a break has."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pneumonia.config import TrainConfig
from pneumonia.data.cache import Decoded
from pneumonia.runs import checkpointing
from pneumonia.runs.context import RunContext
from pneumonia.runs.train import run_training
from pneumonia.runtime.disk import DiskFullError
from pneumonia.tracking.record import VAL_PREDICTIONS, Record
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.sync import sent
from pneumonia.training import checkpoint
from pneumonia.training.loop import Epoch
from tests.conftest import NO_SERVER, TINY, Told
from tests.tracking.conftest import NewRecord


class Killed(BaseException):
    """The process ends here; its record says nothing of it."""


def kill_in(number: int) -> Told:
    def kill(epoch: Epoch) -> None:
        if epoch.number == number:
            raise Killed

    return Told(kill)


@pytest.fixture
def train(
    decoded: Decoded, context: RunContext, new_record: NewRecord, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Record, list[str]]]:
    """Trains in the home, `train("name", killed=2)` to be killed at the end of epoch 2; the record, what was said. Only
    with `whole` are results written, and sent to a store."""

    def one(
        name: str, config: TrainConfig = TINY, *, killed: int = 0, role: str = "train", whole: bool = False, **more: Any
    ) -> Any:
        record, listener = new_record(name, role=role), kill_in(killed)
        quickly: dict[str, Any] = {"tracker": Tracker(NO_SERVER), "pictures": False}
        where = replace(context, **more, **({} if whole else quickly))
        with monkeypatch.context() as quick, suppress(Killed):
            if not whole:
                quick.setattr("pneumonia.runs.train.write_results", lambda *_, **__: None)
            with finished(record, where.tracker) if whole else nullcontext():
                run_training(config, decoded, record, where, listener=listener)
        return record, listener.said

    return one


def checkpoints(home: Path) -> list[Path]:
    return sorted(home.glob("checkpoints/*/*"))


def weights(record: Record, tracker: Tracker, folder: Path) -> dict[str, torch.Tensor]:
    """Of the model that was logged."""
    model = tracker.fetch_model(sent(record)["run_id"], folder)
    return safetensors.torch.load_file(next(model.rglob("*.safetensors")))


def assert_same(one: Record, other: Record) -> None:
    def told(record: Record) -> tuple[list[Any], dict[str, float]]:
        lines = [(line["step"], line["metrics"]) for line in record.metrics]
        paced = {"train/images_per_second", "train/seconds", "data/seconds", "record/seconds"}
        curves = [(step, {name: v for name, v in metrics.items() if name not in paced}) for step, metrics in lines]
        return curves, {name: v for name, v in record.summary.items() if name not in paced}

    assert told(one) == told(other)
    assert (one.artifacts / VAL_PREDICTIONS).read_bytes() == (other.artifacts / VAL_PREDICTIONS).read_bytes()
    pictures = [{path.name: path.read_bytes() for path in record.images.rglob("*.png")} for record in (one, other)]
    assert pictures[0] == pictures[1] != {}


def test_it_goes_on_where_it_was_and_leaves_what_one_without_a_break_leaves(
    train: Callable[..., Any], tracker: Tracker, home: Path, tmp_path: Path
) -> None:
    whole, said = train("whole", whole=True)
    assert (said, checkpoints(home)) == ([], [])
    dead, _ = train("dead", killed=3, whole=True)
    assert dead.status is None
    assert [path.name for path in checkpoints(home)] == ["lock", "state.safetensors"]
    again, said = train("again", whole=True)
    run_id = sent(dead)["run_id"]
    assert said == [f"goes on after epoch 2 of run {run_id}"]
    assert checkpoints(home) == []
    assert_same(again, whole)
    one, other = (weights(record, tracker, tmp_path / record.run.name) for record in (again, whole))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    run = tracker.client.get_run(sent(again)["run_id"])
    assert (run.info.status, run.data.tags["resumed_from"]) == ("FINISHED", run_id)
    points = tracker.client.get_metric_history(run.info.run_id, "val/auc")
    before = tracker.client.get_metric_history(run_id, "val/auc")
    assert [point.step for point in points] == [1, 2, 3, 3]  # the last one is the model's
    assert [point.timestamp for point in points[:2]] == [point.timestamp for point in before[:2]]
    assert again.summary["train/seconds"] > 0


def test_a_final_training_goes_on_and_a_trial_begins_again(train: Callable[..., Any], home: Path) -> None:
    train("trial", killed=2, role="trial")
    assert checkpoints(home) == []
    train("final", killed=2, role="final")
    assert len(checkpoints(home)) == 2
    record, said = train("another trial", role="trial")
    assert (said, record.status) == ([], None)  # the search ends it
    record, said = train("another final", role="final")
    assert len(said) == 1
    assert [line["step"] for line in record.metrics] == [1, 2, 3]


def test_another_configuration_has_a_checkpoint_of_its_own(train: Callable[..., Any], home: Path) -> None:
    train("one", killed=2)
    kept = checkpoints(home)
    record, said = train("other", replace(TINY, seed=1))
    assert (said, [line["step"] for line in record.metrics]) == ([], [1, 2, 3])
    assert "resumed_from" not in record.run.tags
    assert checkpoints(home) == kept


def test_one_of_another_version_is_not_used_which_is_said(
    train: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(torch, "__version__", "2.0.0")
        train("before", killed=3)
    record, said = train("now")
    assert said == [f"the checkpoint of an earlier training is not used: torch was 2.0.0 and is {torch.__version__}"]
    assert [line["step"] for line in record.metrics] == [1, 2, 3]
    assert checkpoints(home) == []


def test_a_damaged_one_is_not_used_which_is_said(train: Callable[..., Any], home: Path) -> None:
    train("before", killed=3)
    path = checkpoints(home)[1]
    path.write_bytes(path.read_bytes()[:-1])
    record, said = train("now")
    assert said == ["the checkpoint of an earlier training is not used: it is damaged"]
    assert [line["step"] for line in record.metrics] == [1, 2, 3]


def test_another_processor_is_said(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setattr(checkpoint, "processor", lambda config: "z80, 1 thread an operation")
        train("there", killed=2)
    _, (line,) = train("here")
    assert "that was on z80, 1 thread an operation, this is" in line


def test_a_new_one_can_be_asked_for(train: Callable[..., Any], home: Path) -> None:
    train("before", killed=3)
    record, said = train("new", killed=2, resume=False)
    assert said == []
    _, said = train("again")
    assert said == [f"goes on after epoch 1 of run {record.run.key}"]


def test_what_is_complete_is_not_gone_on_with(
    train: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the end of the record and that of its checkpoint."""

    def die(_: object) -> None:
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(checkpointing.Checkpoint, "remove", die)
        record, _ = train("done")
    assert record.status["state"] == "COMPLETE"
    assert len(checkpoints(home)) == 2
    record, said = train("another")
    assert said == []
    assert [line["step"] for line in record.metrics] == [1, 2, 3]
    assert checkpoints(home) == []


@pytest.mark.slow
def test_one_that_ended_while_it_wrote_its_results_writes_them_again(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train("whole", whole=True)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr("pneumonia.runs.train.write_results", die)
        train("dead", whole=True)
    again, said = train("again", killed=1, whole=True)  # no epoch comes
    assert len(said) == 1
    assert_same(again, whole)


LOCK = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_equal_trainings_at_once_do_not_share_one(train: Callable[..., Any], home: Path) -> None:
    train("before", killed=2)
    lock, state = checkpoints(home)
    before = state.read_bytes()
    other = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        record, said = train("second")
    finally:
        other.kill()
        other.wait()
    assert len(said) == 1
    assert said[0].startswith("another process is at the same training")
    assert [line["step"] for line in record.metrics] == [1, 2, 3]
    assert state.read_bytes() == before
    assert len(train("third")[1]) == 1  # the other is gone: it goes on
    assert checkpoints(home) == []


@pytest.mark.slow
def test_a_full_disk_fails_the_run_and_the_next_goes_on(
    train: Callable[..., Any], tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train("whole", whole=True)
    real, written = checkpoint.write, []

    def fills(path: Path, state: checkpoint.State) -> None:
        written.append(path)
        if len(written) == 2:
            raise DiskFullError(path, 1000)
        real(path, state)

    with monkeypatch.context() as full:
        full.setattr(checkpoint, "write", fills)
        with pytest.raises(DiskFullError):
            train("full", whole=True)
    runs = tracker.client.search_runs([tracker.experiment_id("pneumonia")], "attributes.status = 'FAILED'")
    assert [run.data.tags["reason"] for run in runs] == [
        f"DiskFullError: the disk is full: 1,000 bytes are needed at {written[0]}"
    ]
    again, said = train("again", whole=True)
    assert "goes on after epoch 1" in said[0]
    assert_same(again, whole)
