"""The model package: a folder with the ONNX graph, the weights and the settings that `served.Predictor` reads."""

import base64
import copy
import io
import json
import math
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from torch import nn

from pneumonia import served
from pneumonia.metrics.calibration import Calibration
from pneumonia.served.package_files import MANIFEST, check_files, read_manifest, with_sums
from pneumonia.serving import bundle, example_film
from pneumonia.training import backbones
from pneumonia.training.familiarity import Familiarity, features
from pneumonia.training.network import Ensemble, Network, build

GRAPH, WEIGHTS = "model.onnx", "model.safetensors"  # of a package
TOLERANCE = 1e-4  # largest difference in probability between ONNX Runtime and torch
ROUNDING = 1e-5  # difference in logit, as a share of the logit where that is above 1, that is but float32's
FAR_TOLERANCE = 1e-3  # the same of a film's distance from the training films, as a share of it


class PackageError(ValueError):
    """A network that cannot become a package; the message is one sentence."""


class Graph(nn.Module):
    """films float32 [B, 1, S, S] to logit [B] and class-activation map [B, h, w] (Zhou et al. 2016), whose mean the
    logit is; with a familiarity also to the film's standing [B, K], whose squares' sum is its distance from the
    training films. Heatmaps are not made of the map: see `served.heatmap`.
    """

    def __init__(self, network: nn.Module, familiarity: Familiarity | None = None) -> None:
        super().__init__()
        self.network, self.standing = network, None
        if familiarity is not None:
            self.standing = nn.Linear(*familiarity.weight.shape[::-1])
            self.standing.weight.data = torch.from_numpy(familiarity.weight)
            self.standing.bias.data = torch.from_numpy(familiarity.bias)

    def forward(self, films: torch.Tensor) -> tuple[torch.Tensor, ...]:
        head: Any = self.network.head
        maps = self.network.maps(films)  # type: ignore[operator]
        cam = torch.einsum("bchw,c->bhw", maps, head.weight[0]) + head.bias
        logit = cam.mean((1, 2))
        return (logit, cam) if self.standing is None else (logit, cam, self.standing(features(maps, films)))


def write(
    folder: Path,
    network: nn.Module,
    *,
    size: int,
    classes: tuple[str, str],
    threshold: float,
    calibration: Calibration,
    familiarity: Familiarity,
) -> None:
    """Writes `model.onnx`, `model.safetensors`, `served.py` and `package.json`; the same arguments give the same bytes.

    Films are scored by the mean logit of themselves and their mirror images.

    Args:
        folder: made if missing; files of these names are replaced.
        network: called as `network(films) -> logit [B]`, with `.maps(films) -> [B, C, h, w]` and the linear `.head`
            that follows their global average. Left as it was (device, mode).
        size: side of the films that it takes, pixels.
        classes: negative, positive.
        threshold: the probability from which a film is called positive.
        calibration: of the logit.
        familiarity: fitted to the network.

    Raises:
        PackageError: the graph and the network differ by more than `TOLERANCE` in probability or familiarity on the
            same films, or a number is not finite. Nothing is written.
    """
    if not all(map(math.isfinite, (threshold, calibration.slope, calibration.intercept))):
        raise PackageError(f"the threshold {threshold} and the {calibration} must be finite")
    if not all(np.isfinite(part).all() for part in vars(familiarity).values()):
        raise PackageError("the familiarity must be finite")
    network = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format).eval()
    graph = Graph(network, familiarity).eval()
    model = _export(graph, size)
    _check_parity(model, graph, size=size, calibration=calibration)
    settings = {
        "format": served.FORMAT,
        "decode_version": served.DECODE_VERSION,
        **_origin(network),
        "size": size,
        "classes": list(classes),
        "threshold": float(threshold),
        "calibration": {"slope": float(calibration.slope), "intercept": float(calibration.intercept)},
        "familiarity": {"distances": [float(distance) for distance in familiarity.distances]},
    }
    files = {
        GRAPH: model,
        WEIGHTS: safetensors.torch.save(network.state_dict()),
        bundle.FILE: bundle.code().encode("utf-8"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_text(json.dumps(with_sums(settings, files), indent=2) + "\n", encoding="utf-8")


def read_network(folder: Path, dropout: float = 0.0) -> Network:
    """The network of a package that `write` made, of this version or of one before, on the CPU, in eval mode.

    Raises:
        PackageError: as `read_networks`.
        BackboneError: likewise.
    """
    networks = read_networks(folder, dropout)
    return Ensemble(networks).eval() if len(networks) > 1 else networks[0]


def read_networks(folder: Path, dropout: float) -> list[Network]:
    """The networks of a package: several where it is an ensemble's.

    Raises:
        PackageError: its weights are not there, or of another kind of network; or a file of it is not the one that was
            written.
        BackboneError: it is of a library that is not installed.
    """
    try:
        settings = read_manifest(folder)
        check_files(folder, settings)
    except ValueError as error:
        raise PackageError(str(error)) from error
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except OSError as error:
        raise PackageError("its weights, model.safetensors, are not beside its graph") from error
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in weights.items():
        if name.startswith("members."):  # beside them an ensemble has a head, which is made of theirs
            number, _, inner = name.removeprefix("members.").partition(".")
            states.setdefault(int(number), {})[inner] = value
    kind, networks = settings.get("network", "cnn"), []
    for _, state in sorted(states.items()) or [(0, weights)]:
        try:
            network = (
                build(len(state["stem.0.weight"]), dropout, seed=0)
                if kind == "cnn"
                else backbones.rebuild(kind, settings["size"], dropout)
            )
            network.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise PackageError("its weights are those of another kind of network") from error
        network.weights = settings.get("weights", "")
        networks.append(network.to(memory_format=torch.channels_last).eval())
    return networks


def _origin(network: nn.Module) -> dict[str, str]:
    """Which network it is and where its weights came from, as far as it says so."""
    said = {"network": getattr(network, "name", ""), "weights": getattr(network, "weights", "")}
    return {key: value for key, value in said.items() if value}


def _export(graph: Graph, size: int) -> bytes:
    buffer = io.BytesIO()
    names = ("films", *served.OUTPUTS)
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, but takes 0.2 s where its successor takes 12 s the first time.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            graph,
            (torch.zeros(2, 1, size, size),),
            buffer,  # type: ignore[arg-type]
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=17,
            dynamo=False,
        )
    return buffer.getvalue()


def _check_parity(model: bytes, graph: Graph, *, size: int, calibration: Calibration) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, size, size), dtype=np.uint8)
    ramp = np.tile(np.linspace(0, 255, size).astype(np.uint8), (size, 1))
    blobs = [cv2.GaussianBlur(film, (0, 0), size / 8) for film in noise]  # standardised, as contrasty as a film
    films = served.standardise(np.stack((*noise, ramp, ramp.T, *blobs)))
    with torch.inference_mode():
        shown = torch.from_numpy(films)
        expected, standing = (part.numpy().astype(np.float64) for part in (graph.network(shown), graph(shown)[2]))
    logits, _, found = served.session(model).run(served.OUTPUTS, {"films": films})
    difference = np.abs(calibration.apply(logits) - calibration.apply(expected)).max()
    if not difference <= TOLERANCE:  # NaN too
        apart = np.abs(logits - expected)
        said = f"ONNX and torch differ by {difference:.2g} in probability, more than {TOLERANCE:g}"
        if (apart <= ROUNDING * np.maximum(1, np.abs(expected))).all():
            raise PackageError(
                f"the network tells films apart by so little that rounding shows: {said}, since the calibration's line "
                f"of slope {calibration.slope:.3g} stretches a difference of {apart.max():.1g} in the logit; train it "
                "for longer, or at another learning rate"
            )
        raise PackageError(said)
    ours, theirs = (np.square(part.astype(np.float64)).sum(axis=1) for part in (found, standing))
    difference = np.abs(ours / theirs - 1).max()
    if not difference <= FAR_TOLERANCE:
        raise PackageError(
            f"ONNX and torch differ by {difference:.2g} of a film's distance, more than {FAR_TOLERANCE:g}: rounding "
            "shows where a network's features hardly vary from film to film; train it for longer, or at another "
            "learning rate"
        )


def signature() -> ModelSignature:
    """The served schema.

    The column is of text, which MLflow neither checks nor converts, and optional, so that bytes reach the model, and so
    does what is wrong, which the model answers with one sentence that names the record; with a binary column MLflow
    itself would answer and echo the data. With any type it would not read CSV. `heatmap` is not among the
    outputs, since Spark fails on a column that is only sometimes there.
    """
    outputs = (
        *(("double", "probability"), ("string", "label"), ("double", "threshold"), ("double", "familiarity")),
        *(("boolean", "familiar"), ("string", "warning"), ("string", "error")),
    )
    return ModelSignature(
        inputs=Schema([ColSpec("string", "image", required=False)]),
        outputs=Schema([ColSpec(kind, name) for kind, name in outputs]),
        params=ParamSchema(
            [
                *(ParamSpec(name, DataType.boolean, False) for name in ("explain", "any_dicom")),
                ParamSpec("errors", DataType.string, "raise"),
            ]
        ),
    )


def input_example() -> pd.DataFrame:
    """One record: a drawn film as base64."""
    return pd.DataFrame({"image": [base64.b64encode(example_film.jpeg()).decode("ascii")]})


def requirements() -> list[str]:
    """What `served` and MLflow's server import, pinned to what is installed here. `mlflow-skinny` with the server's two
    takes half of the room of `mlflow`, which brings what a tracking server needs.
    """
    names = (
        "mlflow-skinny",
        "fastapi",
        "uvicorn",
        "numpy",
        "onnxruntime",
        "opencv-python-headless",
        "pandas",
        "prometheus-client",
        "pydicom",
        "python-gdcm",
        "simplejpeg",
    )
    return [f"{name}=={version(name)}" for name in names]


def save(folder: Path, path: Path) -> None:
    """Writes the package in `folder` as the MLflow model `path`, of two flavours: pyfunc, which is served, and onnx, by
    which `mlflow.onnx.load_model` and programs in other languages find the graph. It stands there once.
    """
    graph = f"artifacts/{folder.name}/{GRAPH}"
    model = Model()
    model.add_flavor("onnx", onnx_version=version("onnx"), data=graph, providers=["CPUExecutionProvider"], code=None)
    mlflow.pyfunc.save_model(str(path), mlflow_model=model, **pyfunc_arguments(folder))


def pyfunc_arguments(folder: Path) -> dict[str, Any]:
    """Arguments for `mlflow.pyfunc.log_model` and `save_model` that make the package in `folder` a served model."""
    return {
        "python_model": str(folder / bundle.FILE),
        "artifacts": {"package": str(folder)},
        "signature": signature(),
        "input_example": input_example(),
        "pip_requirements": requirements(),
    }
