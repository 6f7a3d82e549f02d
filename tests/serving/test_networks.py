"""The networks that a package was made of are read back, whatever their width and number."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pneumonia.metrics.calibration import Calibration
from pneumonia.serving import export
from pneumonia.training.loop import predict
from pneumonia.training.network import Ensemble, Network, build
from tests.known import known

FILMS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8))


def written(folder: Path, network: torch.nn.Module) -> Path:
    plain = Calibration(slope=1.0, intercept=0.0)
    settings = {"size": 32, "classes": ("a", "b"), "threshold": 0.5, "calibration": plain}
    export.write(folder, network, familiarity=known(network), **settings)  # type: ignore[arg-type]
    return folder


def networks(*widths: int) -> list[Network]:
    return [build(width, 0.3, seed=seed).eval() for seed, width in enumerate(widths)]


@pytest.mark.parametrize("width", [4, 9])
def test_a_network_alone(tmp_path: Path, width: int) -> None:
    (network,) = networks(width)
    (read,) = export.read_networks(written(tmp_path, network), 0.2)
    assert predict(read, FILMS) == pytest.approx(predict(network, FILMS), abs=1e-6)
    assert read.dropout == 0.2


def test_the_members_of_an_ensemble(tmp_path: Path) -> None:
    members = networks(*range(4, 15))  # more than ten, since "10" comes before "2" by the alphabet
    read = export.read_networks(written(tmp_path, Ensemble(members).eval()), 0.3)
    assert len(read) == len(members)
    for one, other in zip(read, members, strict=True):
        assert predict(one, FILMS) == pytest.approx(predict(other, FILMS), abs=1e-6)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, networks(4)[0])
    settings = json.loads((folder / "package.json").read_text())
    del settings["sha256"]  # as in packages of before: else the change would be found
    (folder / "package.json").write_text(json.dumps(settings))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(safetensors.torch.save({"conv_stem.weight": weights["stem.0.weight"]}))
    with pytest.raises(export.PackageError, match="those of another kind of network"):
        export.read_networks(folder, 0.3)
    (folder / "model.safetensors").unlink()
    with pytest.raises(export.PackageError, match="not beside its graph"):
        export.read_networks(folder, 0.3)
