"""Which figure of the validation films ranks recipes as the test films will?

    python -m experiments.selection train --data DIR --keep FOLDER [--seeds 2]
    python -m experiments.selection folds --data DIR --keep FOLDER [--folds 3]
    python -m experiments.selection rank --data DIR --keep FOLDER [--json FILE]

train   Trains every recipe below with each seed, at 64 px unless it says otherwise, and keeps the networks. Prints the
        objective on the validation films as they are (`val`), on them and their changed copies (`changed`), on those
        and the painted normal ones, which count as ill (`objective`, what the search minimises), the mean over every
        change of its own log loss (`every change`), the objective on films of one shape (`one shape`: see
        `shortcut_audit`), and AUC. No test film is opened.
folds   Trains every recipe once a fold, the training films being divided by patient, and keeps the mean over the folds
        of `objective` on the films that were left out (`folds`). Neither validation nor test film is opened.
rank    Opens the test films once for all that was kept: Spearman's correlation, over recipes, of each of those figures
        with the AUC, the balanced log loss (after the line that suits the test films best, so of separation alone) and
        the best threshold's accuracy on test films; and how far accuracy at the frozen threshold stays behind that, and
        the log loss of the served probabilities, with calibration and threshold from the films as they are, and from
        those and the changed ones. What `train` kept before a change of `stress` it must train anew.

Recipes are chosen by `train` and `folds`; `rank` comes when the choice is made. Cost: half a minute a training on 2
cores. Result: see LOG.md.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from scipy.stats import spearmanr
from sklearn.model_selection import StratifiedGroupKFold

from experiments.shortcut_audit import of_one_shape
from experiments.speedrun import RECIPE, machine
from pneumonia import cache, data, metrics, stress
from pneumonia.calibration import Calibration, objective, operating_point
from pneumonia.classes import told_by_opacities
from pneumonia.config import TrainConfig
from pneumonia.model import build
from pneumonia.train import FitData, fit, predict
from pneumonia.trial import fit_data

BASE = replace(RECIPE, epochs=12, disturb=1.0)
RECIPES: dict[str, TrainConfig] = {
    "base": BASE,
    **{f"disturb {value}": replace(BASE, disturb=value) for value in (0.0, 0.5, 1.5, 2.0)},
    **{f"augment {value}": replace(BASE, augment=value) for value in (0.5, 1.5)},
    "no augmentation": replace(BASE, augment=0.0, disturb=0.0),
    **{f"epochs {value}": replace(BASE, epochs=value) for value in (6, 20)},
    **{f"width {value}": replace(BASE, width=value) for value in (8, 24)},
    **{f"size {value}": replace(BASE, size=value) for value in (32, 96)},
    "sampler none": replace(BASE, sampler="none"),
    **{f"label smoothing {value}": replace(BASE, label_smoothing=value) for value in (0.0, 0.15)},
    **{f"weight decay {value}": replace(BASE, weight_decay=value) for value in (0.005, 0.3)},
    **{f"lr {value}": replace(BASE, lr=value) for value in (2e-3, 1.5e-2)},
    **{f"average {value}": replace(BASE, ema_decay=value) for value in (0.98, 0.998)},
    **{f"dropout {value}": replace(BASE, dropout=value) for value in (0.0, 0.5)},
    **{f"opacity {value}": replace(BASE, opacity=value) for value in (0.2, 0.4)},
    "batches of 32": replace(BASE, batch_size=32, lr=4e-3),
}
VAL = ("val", "changed", "objective", "every change", "one shape", "AUC")
FOLDS = "folds.json"  # by recipe, what `folds` found
TEST = ("test AUC", "test log loss")


def validated(network: torch.nn.Module, films: FitData) -> dict[str, Any]:
    """The figures of the validation films; calibration and threshold by those as they are, and with changed ones."""
    labels, plain = films.val_labels, np.asarray(films.val_films)

    def logits(shown: np.ndarray) -> np.ndarray:
        return predict(network, torch.from_numpy(np.array(shown)))

    alone = logits(plain)
    both = np.concatenate([alone, logits(stress.change(plain))])
    every = np.resize(labels, len(both))
    painted = logits(stress.painted(plain, labels)) if films.opacities else np.empty(0)
    each = [logits(np.stack([change(film) for film in plain])) for kind in stress.KINDS for change in kind.values()]
    shape = np.stack([of_one_shape(film, label) for film, label in zip(plain, labels, strict=True)])
    points = {}
    for name, y, x in (("plain", labels, alone), ("both", every, both)):
        line, threshold = operating_point(y, x)
        points[name] = {**asdict(line), "threshold": threshold}
    return {
        "val": objective(labels, alone),
        "changed": objective(every, both),
        "objective": objective(every, both, painted),
        "every change": float(np.mean([objective(labels, x) for x in each])),
        "one shape": objective(labels, logits(shape)),
        "AUC": metrics.auc(labels, alone),
        "points": points,
    }


def train(index: data.Index, keep: Path, seeds: int) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    for name, recipe in RECIPES.items():
        rows = []
        for seed in range(seeds):
            config = replace(recipe, seed=seed)
            with tempfile.TemporaryDirectory(prefix="selection-") as home:
                films = fit_data(cache.decode(index.keep("train", "val"), size=config.size, home=Path(home)))
                fitted = fit(config, films)
                rows.append({"recipe": name, **asdict(config), "seconds": fitted.seconds})
                rows[-1] |= validated(fitted.network, films)
            stem = keep / f"{name.replace(' ', '-')}-{seed}"
            weights = {name: tensor.contiguous() for name, tensor in fitted.network.state_dict().items()}
            safetensors.torch.save_file(weights, f"{stem}.safetensors")
            Path(f"{stem}.json").write_text(json.dumps(rows[-1], indent=1) + "\n")
        print(f"{name:22}" + "".join(f"  {key} {spread([row[key] for row in rows])}" for key in VAL), flush=True)


def folds(index: data.Index, keep: Path, count: int) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    table = index.only("train")
    labels = table["label"].to_numpy()
    parts = list(StratifiedGroupKFold(count).split(labels, labels, table["patient"]))
    found: dict[str, float] = {}
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory(prefix="selection-") as home:
            films = np.asarray(cache.decode(index.keep("train"), size=recipe.size, home=Path(home)).films)
            values = []
            for seed, (kept, out) in enumerate(parts):
                given = FitData(
                    train_films=films[kept],
                    train_labels=labels[kept],
                    val_films=films[out],
                    val_labels=labels[out],
                    opacities=told_by_opacities(index.classes),
                )
                values.append(validated(fit(replace(recipe, seed=seed), given).network, given)["objective"])
        found[name] = float(np.mean(values))
        print(f"{name:22}  folds {spread(values)}", flush=True)
        (keep / FOLDS).write_text(json.dumps(found, indent=1) + "\n")


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def rank(index: data.Index, keep: Path) -> dict[str, Any]:
    """Correlations over recipes, each the mean of its seeds, and what is lost at the frozen thresholds."""
    frame = pd.DataFrame(tested(index, keep))
    numbers = frame.groupby("recipe", sort=False).mean(numeric_only=True)
    by = list(VAL)
    if (keep / FOLDS).exists():
        numbers["folds"] = pd.Series(json.loads((keep / FOLDS).read_text()))
        by.append("folds")
    found = {of: {name: correlation(numbers[name], numbers[of]) for name in by} for of in (*TEST, "best accuracy")}
    lost = {
        kind: {
            "accuracy": float(frame[f"accuracy, {kind}"].mean()),
            "behind the best threshold": float((frame["best accuracy"] - frame[f"accuracy, {kind}"]).mean()),
            "log loss": float(frame[f"log loss, {kind}"].mean()),
        }
        for kind in ("plain", "both")
    }
    table = numbers[[*by, *TEST, "best accuracy", "accuracy, plain", "accuracy, both"]]
    print(table.round(4).to_string())
    for of, values in found.items():
        print(f"{of}: " + ", ".join(f"{name} {'-' if v is None else f'{v:.2f}'}" for name, v in values.items()))
    for kind, figures in lost.items():
        print(f"threshold from {kind}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return {"correlations": found, "thresholds": lost, "recipes": table.to_dict("index"), "machine": machine()}


def correlation(one: pd.Series, other: pd.Series) -> float | None:
    """Spearman's, over the recipes that have both; None where one of them is the same for all."""
    both = one.notna() & other.notna()
    one, other = one[both], other[both]
    if one.nunique() < 2 or other.nunique() < 2:
        return None
    return float(spearmanr(one, other).statistic)


def tested(index: data.Index, keep: Path) -> Iterator[dict[str, Any]]:
    """Of each network that was kept, the figures of `train` and those of the test films."""
    paths = (path for path in sorted(keep.glob("*.json")) if path.name != FOLDS)
    kept = [json.loads(path.read_text()) | {"path": path} for path in paths]
    shown = {}
    with tempfile.TemporaryDirectory(prefix="selection-") as home:
        for size in {row["size"] for row in kept}:
            test = cache.decode(index.keep("test"), size=size, home=Path(home))
            shown[size] = test.index.table["label"].to_numpy(), torch.from_numpy(np.array(test.films))
    for row in kept:
        network = build(row["width"], row["dropout"], seed=0).eval()
        network.load_state_dict(safetensors.torch.load_file(row["path"].with_suffix(".safetensors")))
        y, films = shown[row["size"]]
        x = predict(network, films)
        scores = {"test AUC": metrics.auc(y, x), "test log loss": objective(y, x)}
        scores["best accuracy"] = metrics.best_accuracy(y, x)
        for kind, point in row["points"].items():
            p = Calibration(point["slope"], point["intercept"]).apply(x)
            figures = metrics.score(y, p, point["threshold"])
            scores |= {f"accuracy, {kind}": figures["accuracy"], f"log loss, {kind}": figures["log_loss"]}
        yield {**{key: row.get(key, np.nan) for key in ("recipe", *VAL)}, **scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "folds", "rank"))
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train and, for rank, test")
    parser.add_argument("--keep", type=Path, required=True, help="where the networks are kept")
    parser.add_argument("--seeds", type=int, default=2, help="how many for each recipe, from 0 [2]")
    parser.add_argument("--folds", type=int, default=3, help="parts of the training films [3]")
    parser.add_argument("--json", type=Path, help="write what rank finds here")
    arguments = parser.parse_args()
    index = data.scan(arguments.data)
    if arguments.step == "train":
        train(index, arguments.keep, arguments.seeds)
    elif arguments.step == "folds":
        folds(index, arguments.keep, arguments.folds)
    else:
        found = rank(index, arguments.keep)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
