"""Which network and recipe knows ill films of another hospital, trained on home films alone?

    python -m experiments.networks --data DIR --other FILMS.csv --models FOLDER [--recipe cnn lite0 ...] [--seeds 5]
                                   [--json FILE]

Trains each recipe with each seed, or takes its model from FOLDER where it is there already. FILMS.csv is a manifest
with the columns path, label, patient and view, read by the same model: AUC, AUC within a view (see `adapting`), and
specificity at the threshold of the model. The recipes are compared with the first one, seed by seed on the same films;
the interval of the difference is the 95% bootstrap interval over patients of its mean over seeds.

Result: see LOG.md. On 2 quiet cores four minutes a seed of cnn, ten of lite0.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments import bench
from experiments.adapting import read_model, within_view
from pneumonia.config import TrainConfig
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.metrics import scores as metrics
from pneumonia.metrics.calibration import operating_point
from pneumonia.metrics.scores import auc
from pneumonia.served import read_film
from pneumonia.serving import export
from pneumonia.training import familiarity
from pneumonia.training.loop import fit, fit_data, predict

_LITE0 = TrainConfig(network="tf_efficientnet_lite0", weights="default", size=128, epochs=10, lr=1e-3)
RECIPES = {
    "cnn": TrainConfig(),
    "lite0": _LITE0,
    "lite0-96": replace(_LITE0, size=96, epochs=12),
    "lite0-random": replace(_LITE0, size=96, epochs=12, weights="none"),
}
DRAWS = 2000  # samples of patients


def model_of(config: TrainConfig, films: Path, folder: Path) -> dict[str, Any]:
    """Trains a model, writes its package to `folder`; its time and its figures on validation and test films."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="networks-") as home:
        index = data.scan(films)
        decoded = cache.decode(index.keep("train", "val"), size=config.size, home=Path(home))
        given = fit_data(decoded)
        fitted = fit(config, given)
        calibration, threshold = operating_point(*fitted.calibration_data(given.val_labels))
        seconds = time.perf_counter() - began
        told = {"seconds": seconds, "val_auc": auc(given.val_labels, fitted.val_logits)}
        if len(index.only("test")):
            test = cache.decode(index.keep("test"), size=config.size, home=Path(home))
            logits = predict(fitted.network, torch.from_numpy(np.array(test.films)))
            scores = metrics.score(test.index.table["label"], calibration.apply(logits), threshold)
            told |= {f"test_{name}": scores[name] for name in ("auc", "accuracy", "balanced_accuracy")}
        export.write(
            folder,
            fitted.network,
            size=config.size,
            classes=decoded.index.classes,
            threshold=threshold,
            calibration=calibration,
            familiarity=familiarity.fit(fitted.network, config, given.train_films, given.val_films),
        )
    (folder / "figures.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def scored(folder: Path, manifest: Path, table: pd.DataFrame) -> tuple[np.ndarray, dict[str, float]]:
    """A model's logits of the other hospital's films, and its figures there."""
    model, size, classes = read_model(folder)
    films = np.stack([read_film((manifest.parent / path).read_bytes(), size) for path in table["path"]])
    labels = labels_of(table, classes)
    logits = model.logits(films)
    called = model.calibration.apply(logits) >= model.threshold
    return logits, {
        "other_auc": auc(labels, logits),
        "other_within_view": within_view(labels, logits, table["view"].to_numpy()),
        "other_sensitivity": float(called[labels == 1].mean()),
        "other_specificity": float(1 - called[labels == 0].mean()),
    }


def labels_of(table: pd.DataFrame, classes: tuple[str, str]) -> np.ndarray:
    return (table["label"].str.casefold() == classes[1].casefold()).to_numpy().astype(int)


def difference(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, views: np.ndarray, patients: np.ndarray
) -> tuple[float, float, float]:
    """How much higher the AUC within view is of `second` than of `first` (logits [seeds, N]), mean over seeds, with
    the ends of its 95% interval over patients.
    """

    def gain(rows: np.ndarray) -> float:
        pairs = zip(first[:, rows], second[:, rows], strict=True)
        return float(
            np.mean(
                [
                    within_view(labels[rows], b, views[rows]) - within_view(labels[rows], a, views[rows])
                    for a, b in pairs
                ]
            )
        )

    rng, names = np.random.default_rng(0), np.unique(patients)
    rows_of = {name: np.flatnonzero(patients == name) for name in names}
    gains = [gain(np.concatenate([rows_of[name] for name in rng.choice(names, len(names))])) for _ in range(DRAWS)]
    low, high = np.quantile(gains, (0.025, 0.975))
    return gain(np.arange(len(labels))), float(low), float(high)


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train and, perhaps, test")
    parser.add_argument("--other", type=Path, required=True, help="manifest with path, label, patient, view")
    parser.add_argument("--models", type=Path, required=True, help="folder that the models are kept in")
    parser.add_argument("--recipe", choices=tuple(RECIPES), nargs="+", default=["cnn", "lite0"], help="[cnn lite0]")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 [5]")
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.other, dtype=str)
    logits: dict[str, np.ndarray] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.recipe:
        here = []
        rows[name] = []
        for seed in range(arguments.seeds):
            folder = arguments.models / f"{name}-{seed}"
            kept = folder / "figures.json"
            told = (
                json.loads(kept.read_text())
                if kept.exists()
                else model_of(replace(RECIPES[name], seed=seed), arguments.data, folder)
            )
            one, there = scored(folder, arguments.other, table)
            here.append(one)
            rows[name].append({"seed": seed, **told, **there})
            print(f"{name}  {bench.line(rows[name][-1])}", flush=True)
        logits[name] = np.stack(here)
    for name, seeds in rows.items():
        print(f"\n{name}")
        for figure, value in bench.summary(seeds).items():
            print(f"{figure:>24}  {bench.spread(value)}")
    labels, (first, *others) = (table["label"].str.casefold() == "pneumonia").to_numpy().astype(int), arguments.recipe
    for name in others:
        gain, low, high = difference(
            logits[first], logits[name], labels, table["view"].to_numpy(), table["patient"].to_numpy()
        )
        print(f"\nwithin view, {name} - {first}: {gain:+.4f} [{low:+.4f}, {high:+.4f}]")
    bench.write(bench.report({"recipes": rows}), arguments.json)


if __name__ == "__main__":
    main()
