"""Where a training is after an epoch, as a file: a killed one goes on from there, and gives the same network.

The file is safetensors, so that reading it runs no code; what is no tensor stands in its header as JSON.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pneumonia.config import TrainConfig
from pneumonia.runtime.disk import room
from pneumonia.training import data_parallel
from pneumonia.training.device import pick_device

if TYPE_CHECKING:
    from pneumonia.training.loop import FitData

PART = ".part"  # of the name of a file that is being written
# The modules that decide what configuration and films give, and what is in a checkpoint.
CODE = ("augmentation/*.py", "metrics/*.py", "training/*.py", "runs/checkpointing.py")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; a few words say why."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A training after an epoch: the tensors that it changes, by name, and what is none, for JSON.

    The tensors may be the training's own, on its device, which its next step changes.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def write(path: Path, state: State) -> None:
    """Writes the file whole or not at all, also where the power fails; an earlier one is replaced.

    Raises:
        DiskFullError: there is no room for it; an earlier file stays.
    """
    # A copy: the format has no strides, and no two tensors in the same memory.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.tensors.items()
    }
    facts = json.dumps(state.facts)
    content = safetensors.torch.save(tensors, {"facts": facts, "sha256": _digest(tensors, facts)})
    partial = path.with_name(path.name + PART)
    with room(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system syncs a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(path: Path) -> State | None:
    """What `write` wrote; None where there is no file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        facts = json.loads(header["facts"])
        whole = header["sha256"] == _digest(tensors, header["facts"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError("it is damaged") from error
    if not whole:
        raise CheckpointError("it is damaged")
    return State(tensors=tensors, facts=facts)


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def key(config: TrainConfig, data: "FitData") -> str:
    """What tells trainings apart, 32 hexadecimal digits: of configuration, films, labels, and weights to start from."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name, value in sorted(vars(data).items()):
        if isinstance(value, np.ndarray):
            digest.update(f"{name} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data.cast("B") if value.size else b"")
        else:
            digest.update(f"{name} {value}".encode())
    if config.weights not in ("none", "default") and Path(config.weights).is_file():
        digest.update(Path(config.weights).read_bytes())
    return digest.hexdigest()[:32]


def made_by(config: TrainConfig) -> dict[str, str]:
    """What else decides the network, and so must be the same for a training to go on.

    Raises:
        ValueError: as `pick_device`.
    """
    code, folder = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(path for pattern in CODE for path in folder.glob(pattern)):
        code.update(path.read_bytes())
    libraries = {"torch": torch.__version__, "NumPy": np.__version__, "OpenCV": cv2.__version__}
    if config.network != "cnn":
        libraries |= {name: _version(name) for name in ("torchvision", "timm")}
    return {"program": code.hexdigest()[:12], **libraries, "device": pick_device(config.device).type}


def processor(config: TrainConfig) -> str:
    """What may change the last bits of a network: the instructions and threads of each operation."""
    threads = data_parallel.threads_of_each(data_parallel.parts(config.batch_size, pick_device(config.device)))
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{cpu}, {threads} thread{'s' * (threads > 1)} an operation"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
