"""How many seconds from a folder of JPEGs to a good model, and how good is it?

    python -m experiments.speedrun --data DIR [--recipe speedrun] [--seeds 5] [--json FILE]

In the clock is everything between the folder and a model with its threshold: finding and hashing the films, decoding,
training, calibration, threshold; imports are reported apart. Test films, where there are any, are decoded and scored
after the clock has stopped. The recipes are fixed, and no test film may choose one:

speedrun  A good model in little time. A quarter of a minute a seed on 2 cores. Result: 14.3 s, test AUC .972 on a third
          of the test films.
quality   What a search trains in full by default on real films, without the search before it. Three and a half minutes
          a seed. Result: AUC .995, accuracy .977 on a third of the test films.
sprint    The shortest that is of use: what `baseline_notebook` measures the usual notebook against.

Results in full: see LOG.md.
"""

# ruff: noqa: E402  the clock of the imports starts before them
import time

_STARTED = time.perf_counter()

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import bench
from pneumonia.config import SearchConfig, TrainConfig
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.metrics import scores as metrics
from pneumonia.metrics.calibration import operating_point
from pneumonia.training.loop import fit, fit_data, predict

IMPORT_SECONDS = time.perf_counter() - _STARTED
_PLAN = SearchConfig(data="films").for_data(cores=2, films=4400).decided()
_QUICK = TrainConfig(disturb=0.0, opacity=0.0)
RECIPES = {
    "speedrun": replace(_QUICK, size=64, width=16, epochs=6, lr=6e-3, half_size=0.34),
    "quality": TrainConfig(size=_PLAN.size, epochs=_PLAN.final_epochs),
    "sprint": replace(_QUICK, size=32, width=12, epochs=2, lr=8e-3, augment=0.5),  # val AUC .993, 5 seeds
}


def run(films: Path, config: TrainConfig) -> dict[str, Any]:
    """One model from nothing: its times, and its figures on validation and, if there are any, test films."""
    with tempfile.TemporaryDirectory(prefix="speedrun-") as home:
        began = time.perf_counter()
        index = data.scan(films)
        decoded = cache.decode(index.keep("train", "val"), size=config.size, home=Path(home))
        read = time.perf_counter()
        given = fit_data(decoded)
        fitted = fit(config, given)
        calibration, threshold = operating_point(*fitted.calibration_data(given.val_labels))
        ended = time.perf_counter()
        result = {
            "seed": config.seed,
            "seconds": ended - began,
            "decode_seconds": read - began,
            "train_seconds": ended - read,
            "val_auc": metrics.score(given.val_labels, calibration.apply(fitted.val_logits), threshold)["auc"],
        }
        if len(index.only("test")):
            test = cache.decode(index.keep("test"), size=config.size, home=Path(home))
            logits = predict(fitted.network, torch.from_numpy(np.array(test.films)))
            scores = metrics.score(test.index.table["label"], calibration.apply(logits), threshold)
            result |= {f"test_{name}": scores[name] for name in ("auc", "accuracy", "balanced_accuracy")}
            result["test_best_accuracy"] = metrics.best_accuracy(test.index.table["label"].to_numpy(), logits)
    return result


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train and, perhaps, test")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="speedrun", help="see above [speedrun]")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 [5]")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.recipe]
    rows = []
    for seed in range(arguments.seeds):
        rows.append(run(arguments.data, replace(recipe, seed=seed)))
        print(bench.line(rows[-1]), flush=True)
    for name, value in bench.summary(rows).items():
        print(f"{name:>24}  {bench.spread(value)}")
    figures = {
        "seeds": rows,
        "summary": bench.summary(rows),
        "import_seconds": IMPORT_SECONDS,
        "recipe": asdict(recipe),
    }
    bench.write(bench.report(figures), arguments.json)


if __name__ == "__main__":
    main()
