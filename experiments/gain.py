"""What is a search worth?

    python -m experiments.gain --data DIR [--seeds 5] [--tasks tenth drawn] [--arms search recipe] [--json FILE]

Is the champion of a default search better than the recipe trained once in full (`recipe`), than the best by validation
of as many trainings of the recipe, each of another seed, as fit into the search's time (`seeds`), and than the recipe
trained for all of that time (`longer`)?

Tasks: all films; a tenth of the patients, another one each seed; bacterial against viral among the ill (`subtypes`);
the films that the program draws. A fifth of the training patients is seen by no arm. On these the served model of each
arm is scored by the mean log loss over films as they are and changed as at the gate, without painted ones: the same for
all, whatever a training was judged by. No test film is opened.

Each (task, seed, arm) is a row of `experiments/search_gain.csv`; what stands there is not done again, so that the study
can be broken off. Prints, for each task and arm, the paired difference over the seeds with its 95% t interval: below 0
where the search is better.

Cost: three times a search, a task and seed. Result: see LOG.md.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from experiments import bench
from pneumonia.config import SearchConfig, TrainConfig
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.data.split import assign_val
from pneumonia.metrics.scores import auc
from pneumonia.registry import scoring
from pneumonia.runs.context import RunContext
from pneumonia.runs.train import run_training, suited
from pneumonia.runtime.environment import mlflow_defaults
from pneumonia.search import search
from pneumonia.serving import predict
from pneumonia.synthetic import dataset as synthetic
from pneumonia.tracking.record import Record, Run
from pneumonia.tracking.store import Tracker

TABLE = Path(__file__).with_name("search_gain.csv")
TASKS = ("all", "tenth", "subtypes", "drawn")
ARMS = ("search", "recipe", "seeds", "longer")
HELD_SHARE, HELD_SALT = 0.2, "pneumonia-held-1"
NEXT_SEED = 1000  # what a further training of `seeds` adds to the seed


@dataclass(frozen=True)
class Task:
    """Films to train and validate on, `index`; films of other patients that score, `held`; and what a search of them is
    asked for.
    """

    name: str
    index: data.Index
    held: data.Index
    config: SearchConfig


def task(name: str, folder: Path, *, seed: int, home: Path) -> Task:
    """A task of `TASKS`; `folder` holds the real films. Of `tenth` each seed has another tenth of the patients."""
    index = data.scan(synthetic.write(home / "synthetic") if name == "drawn" else folder)
    table = index.table[index.table["split"] != "test"].assign(split="train")
    classes = index.classes
    if name == "subtypes":
        table = table[table["label"] == 1]
        table, classes = table.assign(label=(table["subtype"] == "virus").astype(int)), ("bacteria", "virus")
    held = _patients(table, HELD_SHARE, HELD_SALT)
    seen = table[~table["patient"].isin(held)]
    if name == "tenth":
        seen = seen[seen["patient"].isin(_patients(seen, 0.1, f"pneumonia-tenth-{seed}"))]
    config = SearchConfig(data="synthetic" if name == "drawn" else str(folder), seed=seed)
    return Task(
        name,
        _index(index, assign_val(seen), classes),
        _index(index, table[table["patient"].isin(held)], classes),
        config,
    )


def _patients(table: pd.DataFrame, share: float, salt: str) -> set[str]:
    chosen = assign_val(table.assign(split="train"), share=share, salt=salt)
    return set(chosen["patient"][chosen["split"] == "val"])


def _index(index: data.Index, table: pd.DataFrame, classes: tuple[str, str]) -> data.Index:
    table = table.reset_index(drop=True)
    content = "\n".join(
        sorted(f"{sha256} {label}" for sha256, label in zip(table["sha256"], table["label"], strict=True))
    )
    return replace(index, table=table, classes=classes, fingerprint=hashlib.sha256(content.encode()).hexdigest())


def measure(
    of: Task, arms: tuple[str, ...], *, known: dict[str, dict[str, Any]], home: Path
) -> Iterator[dict[str, Any]]:
    """A row an arm, but for those that are `known`, by arm. `seeds` and `longer` have the time that the search took,
    and `longer` is longer than `recipe`, so that these come first.
    """
    config = of.config.for_data(cores=2, films=len(of.index.only("train")))
    plan = config.decided()
    recipe = suited(replace(config.recipe(), epochs=plan.final_epochs), of.index)
    cache.decode(of.index, size=plan.size, home=home)
    rows = dict(known)
    for arm in arms:
        if arm in rows:
            continue
        with tempfile.TemporaryDirectory(prefix="gain-", dir=home) as scratch:
            folder = Path(scratch)
            (folder / "cache").symlink_to(home / "cache")
            if arm == "search":
                found = _search(of, config, folder)
            elif arm == "recipe":
                found = _train(of, [recipe], folder)
            elif arm == "seeds":
                found = _seeds(of, recipe, rows["search"]["seconds"], folder)
            else:
                times = max(1.0, rows["search"]["seconds"] / rows["recipe"]["seconds"])
                epochs, patience = round(times * recipe.epochs), round(times * recipe.patience)
                found = _train(of, [replace(recipe, epochs=epochs, patience=patience)], folder)
            uri = found.pop("uri")
            with _store(folder):
                rows[arm] = {"task": of.name, "seed": config.seed, "arm": arm, **found, **score(uri, of)}
        yield rows[arm]


def _uri(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow.db'}"


@contextmanager
def _store(home: Path) -> Iterator[None]:
    """MLflow looks for models in the store of `home` while the block runs."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = _uri(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


class Nowhere(Tracker):
    """Takes nothing: a record has all that is asked for."""

    def try_send(self, record: Record, *, force: bool = False, seconds: float = 5.0) -> bool:
        return False


def _search(of: Task, config: SearchConfig, home: Path) -> dict[str, Any]:
    began = time.monotonic()
    tracker = Tracker(_uri(home))
    tracker.client.create_experiment("gain", artifact_location=str(home / "artifacts"))
    with _store(home):
        outcome = search(config, of.index, RunContext(home=home, tracker=tracker, experiment="gain"), model_name="gain")
    assert outcome.verdict is not None
    assert outcome.final is not None
    return {
        "seconds": time.monotonic() - began,
        "trainings": int(outcome.table["state"].isin(["COMPLETE", "PRUNED"]).sum()),
        "val_objective": outcome.final.summary["val/objective"],
        "chosen": _words(outcome.best_params),
        "uri": f"models:/gain/{outcome.verdict.version}",
    }


def _seeds(of: Task, recipe: TrainConfig, seconds: float, home: Path) -> dict[str, Any]:
    """The best by validation of as many trainings as come to their end nearest to `seconds`; one at least."""
    configs = (replace(recipe, seed=recipe.seed + number * NEXT_SEED) for number in range(10_000))
    return _train(of, configs, home, seconds=seconds)


def _train(of: Task, configs: Any, home: Path, *, seconds: float = 0.0) -> dict[str, Any]:
    began, records = time.monotonic(), []
    context = RunContext(home=home, tracker=Nowhere("sqlite://"), experiment="gain")
    changed = of.config.changed
    decoded = cache.decode(of.index, size=of.config.size or TrainConfig.size, home=home)
    for config in configs:
        run = Run(name="train", role="train", description="")
        records.append(context.begin(run, of.index, home / f"train-{config.seed}"))
        run_training(config, decoded, records[-1], context, changed=changed)
        spent = time.monotonic() - began
        if spent + spent / len(records) / 2 > seconds:
            break
    best = min(records, key=lambda record: record.summary["val/objective"])
    return {
        "seconds": time.monotonic() - began,
        "trainings": len(records),
        "val_objective": best.summary["val/objective"],
        "chosen": _words({name: best.params[name] for name in ("seed", "epochs")}),
        "uri": str(best.model),
    }


def _words(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())


def score(uri: str, of: Task) -> dict[str, float]:
    """What the served model makes of the held films: mean log loss over films as they are and changed (as at the gate,
    without painted ones), log loss and AUC over films as they are.
    """
    rows = of.held.table.sort_values(["sha256", "label", "path"], ignore_index=True)
    labels, paths = rows["label"].to_numpy(), [of.held.root / path for path in rows["path"]]
    films = scoring.Validation(
        films=list(zip(paths, rows["sha256"], strict=True)),
        labels=labels,
        patients=list(rows["patient"]),
        opacities=False,
        key="held",
    )
    answers = predict.predict(predict.load(uri), paths)["probability"].to_numpy()
    p = np.clip(answers, 1e-7, 1 - 1e-7)
    return {
        "log_loss": float(scoring.losses(uri, films).mean()),
        "log_loss_plain": float(-np.log(np.where(labels == 1, p, 1 - p)).mean()),
        "auc": auc(labels, answers),
    }


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """For each task, the search's log loss minus each other arm's over the seeds that both have: mean, and the 95% t
    interval; and both arms' means.
    """
    found = []
    for name, of_task in rows.groupby("task", sort=False):
        table = of_task.pivot(index="seed", columns="arm", values="log_loss")
        for arm in (arm for arm in ARMS[1:] if arm in table and "search" in table):
            pairs = table[["search", arm]].dropna()
            difference = pairs["search"] - pairs[arm]
            n = len(difference)
            half = t.ppf(0.975, n - 1) * difference.std(ddof=1) / n**0.5 if n > 1 else np.nan
            mean = difference.mean()
            found.append(
                {
                    "task": name, "against": arm, "seeds": n, "search": pairs["search"].mean(),
                    "other": pairs[arm].mean(), "difference": mean, "low": mean - half, "high": mean + half,
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def stamp() -> dict[str, Any]:
    """What each row carries beside its figures."""
    return {"date": time.strftime("%Y-%m-%d"), "commit": (bench.commit() or "")[:7]}


def study(
    films: Path, home: Path, table: Path, *, tasks: Sequence[str], arms: Sequence[str], seeds: int
) -> pd.DataFrame:
    """Adds the rows that `table` lacks, one after the other, and compares what stands there."""
    for seed in range(seeds):
        for name in tasks:
            known = {row["arm"]: row for row in _rows(table) if (row["task"], row["seed"]) == (name, seed)}
            if known.keys() >= set(arms):
                continue
            of = task(name, films, seed=seed, home=home)
            for row in measure(of, tuple(arms), known=known, home=home):
                line = pd.DataFrame([{**stamp(), **row}])
                line.to_csv(table, mode="a", index=False, header=not table.exists())
                print(bench.line(row), flush=True)
    return compared(pd.DataFrame(_rows(table)))


def _rows(table: Path) -> list[dict[str, Any]]:
    """What stands in the table; of two that did the same at once, the first."""
    if not table.exists():
        return []
    frame = pd.read_csv(table).drop_duplicates(["task", "seed", "arm"])
    return [dict(row) for _, row in frame.iterrows()]


def main(words: Sequence[str] | None = None) -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 [5]")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--csv", type=Path, default=TABLE, help="the table of rows [%(default)s]")
    arguments = parser.parse_args(words)
    mlflow_defaults()
    arms = [arm for arm in ARMS if arm in arguments.arms]
    with tempfile.TemporaryDirectory(prefix="gain-") as folder:
        home, tasks = Path(folder), arguments.tasks
        found = study(arguments.data, home, arguments.csv, tasks=tasks, arms=arms, seeds=arguments.seeds)
    print(found.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    bench.write(bench.report({"comparison": json.loads(found.to_json(orient="records"))}), arguments.json)


if __name__ == "__main__":
    main()
