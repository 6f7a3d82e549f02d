"""Checkpoints: a training that was killed and goes on gives the network of one that was not, bit for bit."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pneumonia.config import TrainConfig
from pneumonia.metrics import objective as objectives
from pneumonia.runtime.disk import DiskFullError
from pneumonia.training import checkpoint
from pneumonia.training.checkpoint import CheckpointError, State
from pneumonia.training.loop import Epoch, FitData, Fitted, fit
from tests.conftest import ROOT
from tests.training.conftest import TINY, blobs

RECIPES = {
    "default": TINY,
    "none": replace(TINY, sampler="none", augment=0.0, disturb=0.0, opacity=0.0, ema_decay=0.0, dropout=0.0),
    "two replicas, and films of half the size": replace(TINY, batch_size=64, half_size=0.5, epochs=4),
    "a network of torchvision": replace(TINY, network="shufflenet_v2_x0_5", size=64, epochs=2),
}


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "state.safetensors"


def films(config: TrainConfig) -> FitData:
    (train, labels), (val, val_labels) = blobs(96, size=config.size), blobs(40, seed=1, size=config.size)
    return FitData(train_films=train, train_labels=labels, val_films=val, val_labels=val_labels, opacities=True)


def killed_after(epoch: int, config: TrainConfig, data: FitData, path: Path) -> None:
    """A training that leaves a checkpoint after each epoch, and dies in the epoch after `epoch`."""

    def kill(step: Any) -> None:
        if step.step == step.steps * epoch // config.epochs + 2:
            raise Killed

    with pytest.raises(Killed):
        fit(config, data, on_state=lambda state: checkpoint.write(path, state), on_step=kill)


def assert_same(one: Fitted, other: Fitted) -> None:
    """The same network, predictions and curves, but for the pace."""
    mine, others = one.network.state_dict(), other.network.state_dict()
    assert mine.keys() == others.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, others[name]), name
    assert np.array_equal(one.val_logits, other.val_logits)
    assert np.array_equal(one.changed_logits, other.changed_logits)
    assert (one.best_epoch, one.objective, one.loss) == (other.best_epoch, other.objective, other.loss)
    curves = [
        [{name: repr(value) for name, value in epoch.items() if "second" not in name} for epoch in fitted.history]
        for fitted in (one, other)
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow if "torchvision" in name else ()) for name in RECIPES]
)
def test_a_training_that_goes_on_gives_the_network_of_one_that_was_not_killed(recipe: str, path: Path) -> None:
    config = RECIPES[recipe]
    data, heard = films(config), list[int]()
    whole = fit(config, data)
    for epoch in range(1, config.epochs):
        killed_after(epoch, config, data, path)
        state = checkpoint.read(path)
        heard.clear()
        again = fit(config, data, resume=state, on_epoch=lambda epoch: heard.append(epoch.number))
        assert heard == list(range(epoch + 1, config.epochs + 1))
        assert_same(again, whole)


def test_one_that_was_killed_again_and_again_goes_on(data: FitData, path: Path) -> None:
    for epoch in range(1, TINY.epochs + 1):
        state = checkpoint.read(path)

        def stop(done: Epoch, epoch: int = epoch) -> None:
            if done.number > epoch:
                raise Killed

        def keep(state: State) -> None:
            checkpoint.write(path, state)

        try:
            fitted = fit(TINY, data, resume=state, on_epoch=stop, on_state=keep)
        except Killed:
            continue
    assert_same(fitted, fit(TINY, data))
    assert fitted.seconds > 0


def test_one_that_was_killed_after_its_last_epoch_trains_no_more(data: FitData, path: Path) -> None:
    fit(TINY, data, on_state=lambda state: checkpoint.write(path, state))

    def trains(_: object) -> None:
        raise AssertionError("it trains")

    assert_same(fit(TINY, data, resume=checkpoint.read(path), on_step=trains), fit(TINY, data))


def test_an_early_end_and_an_earlier_best_epoch_are_remembered(
    data: FitData, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, epochs=6, patience=2)
    real, losses = objectives.epoch_scores, [0.5, 0.4, 0.6, 0.6]

    def judged(values: Iterator[float]) -> None:
        monkeypatch.setattr(objectives, "epoch_scores", lambda *of: {**real(*of), "val/objective": next(values)})

    judged(iter(losses))
    whole = fit(config, data)
    assert (len(whole.history), whole.best_epoch) == (4, 2)
    for epoch in (1, 2, 3):
        judged(iter(losses))
        killed_after(epoch, config, data, path)
        judged(iter(losses[epoch:]))
        assert_same(fit(config, data, resume=checkpoint.read(path)), whole)
    judged(iter(losses))
    fit(config, data, on_state=lambda state: checkpoint.write(path, state))
    judged(iter([]))
    assert_same(fit(config, data, resume=checkpoint.read(path)), whole)
    judged(iter(losses))
    stopped = fit(config, data, on_epoch=lambda epoch: epoch.number == 3, on_state=lambda s: checkpoint.write(path, s))
    judged(iter([]))
    assert_same(fit(config, data, resume=checkpoint.read(path)), stopped)


STATE = State(
    tensors={
        "a": torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "b": torch.tensor(3.0),
        "c": torch.arange(5),
    },
    facts={"history": [{"val/auc": float("nan"), "val/loss": 0.1 + 0.2}], "best": [0, float("inf")]},
)


def test_what_is_read_is_what_was_written(path: Path) -> None:
    assert checkpoint.read(path) is None
    checkpoint.write(path, STATE)
    state = checkpoint.read(path)
    assert state.tensors.keys() == STATE.tensors.keys()
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in STATE.tensors.items())
    assert repr(state.facts) == repr(STATE.facts)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_writing_that_is_broken_off_leaves_the_one_before(
    where: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(path, STATE)
    before = path.read_bytes()

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint.os if where == "fsync" else Path, where, die)
        with pytest.raises(Killed):
            checkpoint.write(path, State(tensors={}, facts={}))
    assert path.read_bytes() == before
    (path.parent / f"{path.name}{checkpoint.PART}").write_bytes(before[:100])  # a kill leaves it
    assert checkpoint.read(path).facts["best"] == [0, float("inf")]
    checkpoint.write(path, State(tensors={}, facts={"later": True}))
    assert checkpoint.read(path).facts == {"later": True}


@pytest.mark.parametrize("damage", ["cut", "bit of a tensor", "bit of the facts", "empty", "another file"])
def test_a_damaged_file_is_refused(damage: str, path: Path) -> None:
    checkpoint.write(path, STATE)
    content = bytearray(path.read_bytes())
    place = {"bit of a tensor": len(content) - 1, "bit of the facts": content.index(b"history")}
    if damage in place:
        content[place[damage]] ^= 1
    others = {"cut": bytes(content[:-7]), "empty": b"", "another file": b'{"facts": {}}'}
    path.write_bytes(others.get(damage, bytes(content)))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(path)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_is_said_and_leaves_the_one_before(
    foreseen: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = path.parent
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    try:
        checkpoint.write(path, STATE)
        if not foreseen:
            usage = namedtuple("usage", "total used free")
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, 1 << 40))
        large = State(tensors={"large": torch.zeros(1 << 18)}, facts={})
        with pytest.raises(DiskFullError, match=r"the disk is full: 1,0\d\d,\d{3} bytes are needed at .*state"):
            checkpoint.write(path, large)
        assert checkpoint.read(path).facts["best"] == [0, float("inf")]
        assert [file.name for file in place.iterdir()] == [path.name]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_trainings_are_told_apart_by_all_that_decides_them(data: FitData, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    changed_film = data.train_films.copy()
    changed_film[0, 0, 0] ^= 1
    from_file = replace(TINY, weights=str(weights))
    weights.write_bytes(b"one")
    keys = [checkpoint.key(config, data) for config in (TINY, replace(TINY, seed=1), replace(TINY, lr=1e-3), from_file)]
    weights.write_bytes(b"other")
    keys.append(checkpoint.key(from_file, data))
    others: list[dict[str, Any]] = [
        {"train_films": changed_film},
        {"train_films": data.train_films[::-1]},
        {"train_labels": 1 - data.train_labels},
        {"val_films": data.val_films[:-1], "val_labels": data.val_labels[:-1]},
        {"opacities": False},
        {"changed": True},
        {"strata": data.train_labels},
        {"val_films": data.val_films[:0], "val_labels": data.val_labels[:0]},
    ]
    keys += [checkpoint.key(TINY, replace(data, **changes)) for changes in others]
    assert len(set(keys)) == len(keys)
    assert checkpoint.key(TINY, replace(data, train_films=data.train_films.copy())) == keys[0]


def test_the_program_the_libraries_and_the_device_must_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made_by = checkpoint.made_by(TINY)
    assert (made_by["torch"], made_by["device"]) == (torch.__version__, "cpu")
    assert checkpoint.made_by(TINY) == made_by
    assert checkpoint.made_by(replace(TINY, network="resnet18")).keys() - made_by.keys() == {"torchvision", "timm"}
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda of: real(of) + b"#" * (of.name == "augment.py"))
    assert checkpoint.made_by(TINY)["program"] != made_by["program"]


def test_one_thread_and_two_are_the_same_processor_for_two_parts_of_a_batch() -> None:
    before, told = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            told.append(checkpoint.processor(replace(TINY, batch_size=64)))
    finally:
        torch.set_num_threads(before)
    assert told[0] == told[1] != told[2]


PROCESS = """
import os, signal, sys
from pathlib import Path

import torch

from pneumonia.config import TrainConfig
from pneumonia.training import checkpoint
from pneumonia.training.loop import fit
from tests.training.test_checkpoint import KILLED, films

folder, moment, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
path, written = folder / "state.safetensors", []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def on_step(step):
    if moment == "in an epoch" and step.step == step.steps // 2 + 1:
        die()

def on_state(state):
    written.append(state)
    if moment == "while writing" and len(written) == 2:
        os.fsync = lambda file: die()
    if moment == "before renaming" and len(written) == 3:
        Path.replace = lambda *names: die()
    checkpoint.write(path, state)
    if moment == "after the last epoch" and len(written) == KILLED.epochs:
        die()

fitted = fit(KILLED, films(KILLED), on_step=on_step, on_state=on_state, resume=checkpoint.read(path))
tensors = {**fitted.network.state_dict(), "logits": torch.from_numpy(fitted.val_logits)}
checkpoint.write(folder / f"{moment or 'whole'}.safetensors", checkpoint.State(tensors=tensors, facts={}))
path.unlink()
"""
KILLED = replace(TrainConfig(), size=64, width=8, epochs=4, batch_size=64, device="cpu")  # the default recipe


@pytest.mark.slow
def test_sigkill_at_any_moment_and_then_on_gives_the_same_network(tmp_path: Path) -> None:
    """Real processes: each is killed once, and started again with the other number of threads."""

    def start(moment: str, threads: int) -> int:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path), moment, str(threads)], env=environment, check=False
        ).returncode

    def result(moment: str) -> State:
        return checkpoint.read(tmp_path / f"{moment}.safetensors")

    assert start("", 2) == 0
    whole = result("whole")
    for moment in ("in an epoch", "while writing", "before renaming", "after the last epoch"):
        assert start(moment, 2) == -9
        torn = [file.suffix for file in tmp_path.iterdir() if file.name.startswith("state")]
        assert (checkpoint.PART in torn) == (moment in ("while writing", "before renaming"))
        assert start("", 1) == 0
        again = result("whole")
        assert again.tensors.keys() == whole.tensors.keys()
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items()), moment
