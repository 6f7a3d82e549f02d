"""How many seconds from a folder of JPEGs to a good model?

    python -m experiments.speedrun --data DIR --seeds 5 --json FILE

In the clock is everything between the folder and a model with its threshold: finding and hashing the films, decoding,
training, calibration, threshold; imports are reported apart. The recipe is fixed, and no test film may choose it.
Test films, where there are any, are decoded and scored after the clock has stopped.

Cost: a quarter of a minute a seed on 2 cores. Result: 14.3 s, test AUC .972 on a third of the test films; see LOG.md.
"""

import time

_STARTED = time.perf_counter()

import argparse  # noqa: E402  the clock of the imports starts before them
import json  # noqa: E402
import platform  # noqa: E402
import tempfile  # noqa: E402
from dataclasses import asdict, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from pneumonia import cache, data, metrics  # noqa: E402
from pneumonia.calibration import operating_point  # noqa: E402
from pneumonia.config import TrainConfig  # noqa: E402
from pneumonia.tracking import source_tags  # noqa: E402
from pneumonia.train import fit, predict  # noqa: E402
from pneumonia.trial import fit_data  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - _STARTED
RECIPE = TrainConfig(size=64, width=16, epochs=6, lr=6e-3, disturb=0.0, opacity=0.0, half_size=0.34)


def run(films: Path, config: TrainConfig) -> dict[str, Any]:
    """One model from nothing: its times, and its figures on validation and, if there are any, test films."""
    with tempfile.TemporaryDirectory(prefix="speedrun-") as home:
        began = time.perf_counter()
        index = data.scan(films)
        decoded = cache.decode(index.keep("train", "val"), size=config.size, home=Path(home))
        read = time.perf_counter()
        given = fit_data(decoded)
        fitted = fit(config, given)
        calibration, threshold = operating_point(*fitted.judged(given.val_labels))
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


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cpu = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu or platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def summary(results: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and spread of each figure over the seeds; a single seed has no spread."""
    names = [name for name in results[0] if name != "seed"] if results else []
    values = {name: np.array([result[name] for result in results]) for name in names}
    return {
        name: {"mean": float(v.mean()), "std": float(v.std(ddof=1)) if len(v) > 1 else None}
        for name, v in values.items()
    }


def main(recipe: TrainConfig = RECIPE, doc: str | None = __doc__) -> None:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train and, perhaps, test")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 [5]")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    results = []
    for seed in range(arguments.seeds):
        results.append(run(arguments.data, replace(recipe, seed=seed)))
        print("  ".join(f"{name} {value:.4g}" for name, value in results[-1].items()), flush=True)
    for name, value in summary(results).items():
        spread = "" if value["std"] is None else f" +- {value['std']:.4f}"
        print(f"{name:>24} {value['mean']:9.4f}{spread}")
    report = {
        "seeds": results,
        "summary": summary(results),
        "import_seconds": IMPORT_SECONDS,
        "recipe": asdict(recipe),
        "commit": next(iter(source_tags().values()), None),
        "machine": machine(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
