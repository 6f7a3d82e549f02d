"""Does a heatmap point at what is ill?

    python -m experiments.pointing --data DIR --models MODEL [MODEL ...] [--json FILE]

The pointing game (Zhang et al. 2016): normal validation films, each with an opacity painted at a known place (not the
ones that judged a training), and for each kind of map the share whose hottest point lies inside of it. Inside is where
the opacity is at least half as dense as where it is densest; for `near`, 2 px of 64 beside that will do, too. By kind:

chance           any point; and the one point that is right most often
CAM              class-activation maps (Zhou et al. 2016); of a film enlarged twice; with the last stage's stride taken
                 out; of copies shifted by up to 8 px
LayerCAM         of an inner stage (Jiang et al. 2021), and of two, one times the other: activations times gradients,
                 where these are positive
gradient         of the logit by the film, smoothed, signed: where brighter is more ill
occlusion        by how much the logit falls where a soft spot is turned to the film's mean, to its mirror image, or
                 darkened (what is served; also with a finer grid, of both directions, and with random weights, which
                 must fall to chance: Adebayo et al. 2018)

No test film is opened. Cost: two minutes a model on a core. Result: what is served points into .78 of the opacities,
CAM into .30; see LOG.md.
"""

import copy
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import mlflow
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments import bench
from pneumonia.augmentation.augment import standardise
from pneumonia.augmentation.opacity import paint_where
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.runtime.environment import mlflow_defaults
from pneumonia.served import heatmap
from pneumonia.serving.export import read_network
from pneumonia.training.network import Cnn, Network

Films = np.ndarray  # uint8 [N, S, S]
Maps = np.ndarray  # float [N, h, w]
FIRST = 10_000  # seed of the first film's opacity: `stress_tests` has those from 0 on
INSIDE = 0.5  # of the opacity's greatest density
NEAR = 2 / 64  # of the film's side


def painted(films: Films) -> tuple[Films, np.ndarray]:
    """Films with an opacity each, and where it is: bool [N, S, S]."""
    found = [
        paint_where(film[None], torch.Generator().manual_seed(FIRST + number))
        for number, film in enumerate(torch.from_numpy(films))
    ]
    shown, dense = (torch.cat(part) for part in zip(*found, strict=True))
    inside = dense >= INSIDE * dense.amax(dim=(1, 2), keepdim=True)
    return shown.round().to(torch.uint8).numpy(), inside.numpy()


def near(inside: np.ndarray) -> np.ndarray:
    """Places bool [N, S, S] and what is beside them."""
    reach = round(NEAR * inside.shape[-1])
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.stack([cv2.dilate(place.astype(np.uint8), disc) for place in inside]) > 0


def hits(maps: Maps, inside: np.ndarray) -> np.ndarray:
    """Whether the hottest point of each map, enlarged as the served ones are, lies inside: bool [N]."""
    large = [cv2.resize(np.asarray(of, np.float32), inside.shape[:0:-1], interpolation=cv2.INTER_CUBIC) for of in maps]
    at = [int(of.argmax()) for of in large]
    return np.asarray(inside.reshape(len(inside), -1)[np.arange(len(at)), at])


# From the standardised films, [B, 1, S, S], to maps [B, h, w].
Look = Callable[[Cnn, Tensor], Tensor]


def cam(network: Cnn, x: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", network.maps(x), network.head.weight[0]).detach()


def enlarged(network: Cnn, x: Tensor) -> Tensor:
    return cam(network, functional.interpolate(x, scale_factor=2, mode="bilinear"))


def unstrided(network: Cnn, x: Tensor) -> Tensor:
    """With the same weights: the second convolution's taps lie twice as far apart, so that what stood at every other
    place of the maps stands there still.
    """
    other = copy.deepcopy(network)
    block: Any = other.stages[3]
    block.first.stride, block.second.dilation, block.second.padding = (1, 1), (2, 2), (2, 2)
    block.shortcut[0] = nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride=1))
    return cam(other, x)


def shifted(network: Cnn, x: Tensor) -> Tensor:
    """Copies moved by up to half a cell either way, their maps moved back."""
    total, side = torch.zeros(x[:, 0].shape), x.shape[-1]
    steps = [step * side // 64 for step in (-6, -2, 2, 6)]
    most = max(steps)
    padded = functional.pad(x, (most,) * 4, mode="replicate")
    for down in steps:
        for across in steps:
            copies = padded[..., most + down : most + down + side, most + across : most + across + side]
            maps = functional.interpolate(cam(network, copies)[:, None], side, mode="bilinear")
            total += functional.pad(maps, (most,) * 4, mode="replicate")[
                :, 0, most - down : most - down + side, most - across : most - across + side
            ]
    return total


def layer_cam(*stages: int) -> Look:
    def look(network: Cnn, x: Tensor) -> Tensor:
        seen, inner = network.stem(x).detach().requires_grad_(), []
        for number, stage in enumerate(network.stages, start=1):
            seen = stage(seen)
            if number in stages:
                inner.append(seen)
        gradients = torch.autograd.grad(network.head(seen.mean((2, 3))).sum(), inner)
        found = torch.ones(x[:, 0].shape)
        for value, gradient in zip(inner, gradients, strict=True):
            of = (value.detach() * gradient.clamp(min=0)).sum(dim=1, keepdim=True)
            found *= functional.interpolate(of, x.shape[-1], mode="bilinear")[:, 0]
        return found

    return look


def gradient(network: Cnn, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(network(x).sum(), x)
    spread = heatmap.SPREAD * x.shape[-1]
    return torch.from_numpy(np.stack([cv2.GaussianBlur(of, (0, 0), spread) for of in found[:, 0].numpy()]))


def asked(look: Look, network: Cnn, films: Films) -> Maps:
    """The mean of each film's map and its mirror image's."""
    parts = torch.split(standardise(torch.from_numpy(films)), 64)
    return torch.cat([(look(network, x) + look(network, x.flip(3)).flip(2)) / 2 for x in parts]).numpy()


def occluded(network: Network, films: Films, fill: Callable[[Tensor], Tensor], spread: float) -> Maps:
    """By how much the logit falls where a soft spot is filled: [N, 8, 8]."""
    side = films.shape[-1]
    middles, pixels = (torch.arange(heatmap.GRID) + 0.5) / heatmap.GRID, (torch.arange(side) + 0.5) / side
    bells = torch.exp(-((pixels - middles[:, None]) ** 2) / (2 * spread**2))
    spots = torch.einsum("ay,bx->abyx", bells, bells).reshape(-1, 1, side, side)
    with torch.inference_mode():
        shown = standardise(torch.from_numpy(films))
        falls = [network(x[None]) - network(torch.lerp(x, fill(x), spots)) for x in shown]
    return torch.stack(falls).reshape(-1, heatmap.GRID, heatmap.GRID).numpy()


def served(network: Network, films: Films, slope: float, *, brighter: bool = False) -> Maps:
    """The map as it is shown, but for the factor of the film's probability."""

    @torch.inference_mode()
    def score(x: np.ndarray) -> np.ndarray:
        return np.asarray(network(torch.from_numpy(x)).numpy())

    falls = np.stack([heatmap.evidence(score, film) for film in films])
    if brighter:
        with patch.object(heatmap, "DARKER", -heatmap.DARKER):
            falls = np.maximum(falls, np.stack([heatmap.evidence(score, film) for film in films]))
    return 1 - np.exp(-np.clip(slope * falls, 0, None))


def randomised(network: Cnn, seed: int) -> Cnn:
    torch.manual_seed(seed)
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()
    return other


def game(network: Cnn, slope: float, films: Films, seed: int) -> Iterator[tuple[str, Maps]]:
    """Maps of painted films, by kind."""
    looks: dict[str, Look] = {
        "CAM": cam,
        "CAM, film enlarged": enlarged,
        "CAM, no last stride": unstrided,
        "CAM, 16 shifts": shifted,
        "LayerCAM, stage 3": layer_cam(3),
        "LayerCAM, stages 2 and 3": layer_cam(2, 3),
        "gradient": gradient,
    }
    other = randomised(network, seed)
    yield "darkened (served)", served(network, films, slope)
    yield "random weights: darkened", served(other, films, slope)
    yield "random weights: CAM", asked(cam, other, films)
    for name, look in looks.items():
        yield name, asked(look, network, films)
    yield "occlusion, mean grey", occluded(network, films, torch.zeros_like, 4 / 64)
    yield "occlusion, mirror image", occluded(network, films, lambda x: x.flip(2), 4 / 64)
    yield "darkened or brightened", served(network, films, slope, brighter=True)
    with patch.multiple(heatmap, GRID=12, SPREAD=4 / 64):
        yield "darkened, 12 by 12", served(network, films, slope)


def package(uri: str) -> Path:
    """The folder of a model's package: a model's URI, its folder, or the package's own."""
    folder = Path(mlflow.artifacts.download_artifacts(uri) if ":/" in uri else uri)
    inner = folder / "artifacts" / "package"
    return inner if inner.exists() else folder


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train")
    parser.add_argument("--models", nargs="+", required=True, help="model URIs or folders, networks of the kind cnn")
    arguments = parser.parse_args()
    mlflow_defaults()
    index = data.scan(arguments.data).keep("train", "val")
    rows: dict[str, list[dict[str, float]]] = {}
    for seed, folder in enumerate(map(package, arguments.models)):
        settings = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        network = read_network(folder).float()
        assert isinstance(network, Cnn)
        with tempfile.TemporaryDirectory(prefix="pointing-") as home:
            decoded = cache.decode(index, size=settings["size"], home=Path(home))
            table = decoded.index.table
            normal = (table["split"] == "val") & (table["label"] == 0)
            films, inside = painted(np.array(decoded.films[normal.to_numpy()]))
        places = {"inside": inside, "near": near(inside)}
        rows.setdefault("chance: any point", []).append({name: of.mean() for name, of in places.items()})
        best = {name: of.mean(axis=0).max() for name, of in places.items()}
        rows.setdefault("chance: the best one point", []).append(best)
        for kind, maps in game(network, settings["calibration"]["slope"], films, seed):
            rows.setdefault(kind, []).append({name: hits(maps, of).mean() for name, of in places.items()})
            print(f"{folder}, {kind}: {rows[kind][-1]['inside']:.3f}", file=sys.stderr, flush=True)
    means = {kind: pd.DataFrame(of).mean() for kind, of in rows.items()}
    print(f"{len(films)} films, {len(arguments.models)} models, %\n")
    print((100 * pd.DataFrame(means).T).round(1).to_string())
    bench.write(bench.report({kind: bench.summary(of) for kind, of in rows.items()}), arguments.json)


if __name__ == "__main__":
    main()
