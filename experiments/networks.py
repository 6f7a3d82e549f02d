"""Which network and recipe knows ill films of another hospital, trained on home films alone?

    python -m experiments.networks --data DIR --other FILMS.csv --models FOLDER [--recipe cnn lite0 ...] [--seeds 5]
                                   [--json FILE]

Trains each recipe with each seed, or takes its model from FOLDER where it is there already. FILMS.csv is a manifest
with the columns path, label, patient and view, read by the same model: AUC, AUC within a view (see `adapting`), and
specificity at the threshold of the model. The recipes are compared with the first one, seed by seed on the same films;
the interval of the difference is the 95% bootstrap interval over patients of its mean over seeds.

Result: see LOG.md. On 2 quiet cores four minutes a seed of cnn, ten of lite0.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from experiments import bench
from experiments.adapting import read_model, within_view
from pneumonia.augmentation import opacity
from pneumonia.augmentation.augment import augment
from pneumonia.config import TrainConfig
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.metrics import scores as metrics
from pneumonia.metrics.calibration import operating_point
from pneumonia.metrics.scores import auc
from pneumonia.served import read_film
from pneumonia.serving import export
from pneumonia.training import familiarity, loop
from pneumonia.training.adaptation import Model
from pneumonia.training.loop import fit_data

_LITE0 = TrainConfig(network="tf_efficientnet_lite0", weights="default", size=128, epochs=10, lr=1e-3)
_SHORT = TrainConfig(epochs=24)
RECIPES = {  # with the way in which the training differs otherwise
    "cnn": (TrainConfig(), ""),
    "lite0": (_LITE0, ""),
    "lite0-96": (replace(_LITE0, size=96, epochs=12), ""),
    "lite0-random": (replace(_LITE0, size=96, epochs=12, weights="none"), ""),
    # From home films alone, each against "short".
    "short": (_SHORT, ""),
    "disturb": (replace(_SHORT, disturb=1.0), ""),
    "opacity": (replace(_SHORT, opacity=0.4), ""),
    "inner": (_SHORT, "inner"),
    "views": (replace(_SHORT, epochs=12), "views"),  # in the same time
}
AGREEMENT = 4.0  # weight of the squared difference of the two views' probabilities
MARGIN = 0.1  # share of a film's side that `inner` cuts off all around
DRAWS = 2000  # samples of patients


class TwoViews(loop._Training):
    """Two augmented views of each film, whose probabilities are to agree (as in FixMatch's kin; Xie et al. 2020)."""

    def _gradient(self, part: Any, seed: int, *, films: Tensor, batch: int) -> Tensor:
        config, (replica, picked) = self.config, part
        draws = torch.Generator().manual_seed(seed)
        shown, target = opacity.paint_share(films[picked], self.targets[picked], share=config.opacity, generator=draws)
        views = [augment(shown, strength=config.augment, disturbance=config.disturb, generator=draws) for _ in range(2)]
        logits = replica(torch.cat(views).contiguous(memory_format=torch.channels_last), draws)
        loss = functional.binary_cross_entropy_with_logits(logits, target.repeat(2), reduction="sum") / 2
        first, second = logits.sigmoid().chunk(2)
        loss = (loss + AGREEMENT * (first - second).square().sum()) / batch
        loss.backward()
        told: Tensor = loss.detach()
        return told


def trimmed(film: np.ndarray) -> np.ndarray:
    """A film uint8 [S, S] without its margin, at the same size."""
    size = len(film)
    cut = round(MARGIN * size)
    return np.asarray(cv2.resize(film[cut:-cut, cut:-cut], (size, size), interpolation=cv2.INTER_LINEAR))


def inner(decoded: cache.Decoded) -> cache.Decoded:
    return replace(decoded, films=np.stack([trimmed(film) for film in decoded.films]))


def train(config: TrainConfig, films: Path, folder: Path, way: str) -> float:
    """Trains a model and writes its package to `folder`; seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="networks-") as home:
        decoded = cache.decode(data.scan(films).keep("train", "val"), size=config.size, home=Path(home))
        given = fit_data(inner(decoded) if way == "inner" else decoded)
        with patch.object(loop, "_Training", TwoViews if way == "views" else loop._Training):
            fitted = loop.fit(config, given, on_epoch=lambda epoch: print(f"{folder.name} {epoch.number}", flush=True))
        calibration, threshold = operating_point(*fitted.calibration_data(given.val_labels))
        seconds = time.perf_counter() - began
        export.write(
            folder,
            fitted.network,
            size=config.size,
            classes=decoded.index.classes,
            threshold=threshold,
            calibration=calibration,
            familiarity=familiarity.fit(fitted.network, config, given.train_films, given.val_films),
        )
    return seconds


def at_home(model: Model, films: Path, size: int, way: str) -> dict[str, float]:
    """A model's figures on the validation films; test films are for `evaluate` alone."""
    index = data.scan(films)
    with tempfile.TemporaryDirectory(prefix="networks-") as home:
        decoded = cache.decode(index.keep("val"), size=size, home=Path(home))
        shown = (inner(decoded) if way == "inner" else decoded).films
        labels, logits = decoded.index.table["label"].to_numpy(), model.logits(np.array(shown))
    scores = metrics.score(labels, model.calibration.apply(logits), model.threshold)
    return {f"val_{name}": scores[name] for name in ("auc", "accuracy", "balanced_accuracy")}


def elsewhere(model: Model, films: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, dict[str, float]]:
    """A model's logits of the other hospital's films uint8 [N, S, S], and its figures there."""
    labels, logits = table["label"].to_numpy(), model.logits(films)
    called = model.calibration.apply(logits) >= model.threshold
    return logits, {
        "other_auc": auc(labels, logits),
        "other_within_view": within_view(labels, logits, table["view"].to_numpy()),
        "other_sensitivity": float(called[labels == 1].mean()),
        "other_specificity": float(1 - called[labels == 0].mean()),
    }


def difference(first: np.ndarray, second: np.ndarray, table: pd.DataFrame) -> tuple[float, float, float]:
    """How much higher the AUC within view is of `second` than of `first` (logits [seeds, N]), mean over seeds, with
    the ends of its 95% interval over patients.
    """

    labels, views, patients = (table[name].to_numpy() for name in ("label", "view", "patient"))

    def gain(rows: np.ndarray) -> float:
        before, after = ([within_view(labels[rows], one, views[rows]) for one in of[:, rows]] for of in (first, second))
        return float(np.mean(after) - np.mean(before))

    rng, names = np.random.default_rng(0), np.unique(patients)
    rows_of = {name: np.flatnonzero(patients == name) for name in names}
    gains = [gain(np.concatenate([rows_of[name] for name in rng.choice(names, len(names))])) for _ in range(DRAWS)]
    low, high = np.quantile(gains, (0.025, 0.975))
    return gain(np.arange(len(labels))), float(low), float(high)


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train")
    parser.add_argument("--other", type=Path, required=True, help="manifest with path, label, patient, view")
    parser.add_argument("--models", type=Path, required=True, help="folder that the models are kept in")
    parser.add_argument("--recipe", choices=tuple(RECIPES), nargs="+", default=["cnn", "lite0"], help="[cnn lite0]")
    parser.add_argument("--seeds", type=int, default=5, help="how many [5]")
    parser.add_argument("--first", type=int, default=0, help="the first seed [0]")
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.other, dtype=str)
    table["label"] = (table["label"].str.casefold() == "pneumonia").astype(int)
    logits: dict[str, np.ndarray] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.recipe:
        rows[name], of_seeds = [], []
        config, way = RECIPES[name]
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            folder = arguments.models / f"{name}-{seed}"
            if not (folder / "package.json").exists():
                seconds = train(replace(config, seed=seed), arguments.data, folder, way)
                print(f"{folder}: {seconds:.0f} s", flush=True)
            model, size, _ = read_model(folder)
            films = [read_film((arguments.other.parent / path).read_bytes(), size) for path in table["path"]]
            shown = np.stack([trimmed(film) for film in films] if way == "inner" else films)
            found, there = elsewhere(model, shown, table)
            of_seeds.append(found)
            rows[name].append({"seed": seed, **at_home(model, arguments.data, size, way), **there})
            print(f"{name}  {bench.line(rows[name][-1])}", flush=True)
        logits[name] = np.stack(of_seeds)
    for name, seeds in rows.items():
        print(f"\n{name}")
        for figure, value in bench.summary(seeds).items():
            print(f"{figure:>24}  {bench.spread(value)}")
    first, *others = arguments.recipe
    for name in others:
        gain, low, high = difference(logits[first], logits[name], table)
        print(f"\nwithin view, {name} - {first}: {gain:+.4f} [{low:+.4f}, {high:+.4f}]")
    bench.write(bench.report({"recipes": rows}), arguments.json)


if __name__ == "__main__":
    main()
