"""One recipe trained with several seeds: the mean of its scores, and their spread."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.config import TrainConfig
from pneumonia.data.index import Index
from pneumonia.metrics.scores import mean_and_spread, number
from pneumonia.reports import plots
from pneumonia.results.comparison import SCORES
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import SILENT, Listener
from pneumonia.runs.train import OBJECTIVE, begin, decode_for, run_training
from pneumonia.tracking import views
from pneumonia.tracking.record import Record, Run
from pneumonia.tracking.store import finished
from pneumonia.tracking.sync import sent, unsent

# In the terminal, which is narrow; seeds.csv has all.
SHOWN = (OBJECTIVE, "val/log_loss", "val/auc", "val/accuracy", "val/sensitivity", "val/specificity")


class SeedsError(RuntimeError):
    """No seed came to an end; the sentence says why."""


@dataclass(frozen=True)
class Seeds:
    """A parent's record and its children's by seed, all ended."""

    record: Record
    children: dict[int, Record]

    @property
    def complete(self) -> dict[int, Record]:
        return {seed: child for seed, child in self.children.items() if _state(child) == "COMPLETE"}

    @property
    def unsent(self) -> int:
        """How many of the runs are still to be sent."""
        return sum(unsent(record) for record in (self.record, *self.children.values()))

    def scores(self) -> pd.DataFrame:
        """The summary of each seed that came to an end: the index is the seed, the columns are the metrics' names."""
        summaries = {seed: child.summary for seed, child in self.complete.items()}
        return pd.DataFrame.from_dict(summaries, orient="index", dtype=np.float64)

    def table(self) -> pd.DataFrame:
        """A row a seed: seed, run_id, state, every metric of its summary (NaN where it has none), reason."""
        ends = [
            {"seed": seed, "run_id": sent(child).get("run_id", ""), "state": _state(child)}
            for seed, child in self.children.items()
        ]
        reasons = [(child.status or {}).get("reason", "") for child in self.children.values()]
        scores = self.scores().reindex(list(self.children)).reset_index(drop=True)
        return pd.concat([pd.DataFrame(ends), scores], axis=1).assign(reason=reasons)

    def summary(self) -> dict[str, float]:
        """The mean of each metric under its own name, the standard deviation (n - 1) of those on the validation films
        as `val/auc_std` and so on, NaN for a single seed, and how many seeds came to an end.
        """
        scores = self.scores()
        spread = scores.filter(regex="^val/").std()
        return {
            **{str(name): float(value) for name, value in scores.mean().items()},
            **{f"{name}_std": float(value) for name, value in spread.items()},
            "seeds/complete": float(len(scores)),
        }

    def text(self) -> str:
        """The scores of each seed, and mean ± standard deviation below them."""
        scores, summary = self.scores(), self.summary()
        names = [name for name in SHOWN if name in scores]
        shown = scores[names].map(lambda value: f"{value:.4f}" if np.isfinite(value) else "none")
        shown.index = shown.index.map(str)
        shown.loc["mean ± std"] = [mean_and_spread(summary[name], summary[f"{name}_std"]) for name in names]
        shown.columns = [name.removeprefix("val/").replace("_", " ") for name in names]
        return shown.rename_axis("seed").reset_index().to_string(index=False)

    @property
    def failed(self) -> dict[int, str]:
        """The seeds that did not come to an end, with the reasons."""
        return {
            seed: (child.status or {}).get("reason", "")
            for seed, child in self.children.items()
            if seed not in self.complete
        }

    def sentence(self) -> str:
        """How many seeds came to an end, and why the others did not."""
        reasons: dict[str, list[int]] = {}
        for seed, reason in self.failed.items():
            reasons.setdefault(reason, []).append(seed)
        told = [f"seed{'s' * (len(of) > 1)} {', '.join(map(str, of))}: {reason}" for reason, of in reasons.items()]
        return "; ".join([f"{len(self.complete)} of {len(self.children)} seeds came to an end", *told])

    def as_dict(self) -> dict[str, Any]:
        """For JSON; a spread that a single seed does not have is null."""
        names, summary = self.scores().columns.astype(str), self.summary()
        return {
            "run_id": sent(self.record).get("run_id"),
            "seeds": [
                {
                    "seed": seed,
                    "run_id": sent(child).get("run_id"),
                    "model_id": sent(child).get("model_id"),
                    "state": _state(child),
                    "reason": (child.status or {}).get("reason", ""),
                    "metrics": child.summary if seed in self.complete else {},
                }
                for seed, child in self.children.items()
            ],
            "mean": {name: summary[name] for name in names},
            "std": {name: number(summary[f"{name}_std"]) for name in names if f"{name}_std" in summary},
        }


def seeds_from(first: int, count: int) -> range:
    """`count` seeds from `first` on.

    Raises:
        ValueError: there is none, or one that a training does not take.
    """
    if count < 1:
        raise ValueError(f"seeds must be at least 1, not {count}")
    TrainConfig(seed=first + count - 1)
    return range(first, first + count)


def train_and_record(
    config: TrainConfig,
    seeds: Sequence[int],
    index: Index,
    context: RunContext,
    *,
    data: str,
    listener: Listener = SILENT,
) -> Seeds:
    """Trains `config` with each of `seeds`, as runs under one that holds their means; nothing is registered.

    The films are decoded once. A seed that fails ends as FAIL, and the others go on.

    Args:
        data: what the films are called where the user named them.
        context: of the run that holds their means.

    Raises:
        SeedsError: no seed came to an end; the parent has ended as FAIL.
        TrackingError: the tracking store cannot be reached before the first training; later it may be away.
        Exception: what `decode_for` raises.
    """
    tracker = context.tracker
    folder = context.home / "records" / "seeds" / f"{time.time_ns()}"
    name = f"{index.root.name} {config.size}px w{config.width}"
    words = f"{config.epochs} epochs at {config.size} px, width {config.width}, with {_listed(seeds)}"
    parent = context.begin(
        Run(name=f"train {name} {_listed(seeds)}", role="seeds", description=f"Trainings of {words}."),
        index,
        folder / "parent",
    )
    recipe = {name: value for name, value in asdict(config).items() if name != "seed"}
    parent.add_params({"data": data, **recipe, "seeds": len(seeds)})
    parent_id = tracker.send(parent)
    tracker.save_view(sent(parent)["experiment_id"], *views.under(parent_id, parent.run.name))
    found, inside = Seeds(parent, {}), context.under(parent_id)
    with finished(parent, tracker):
        decoded = decode_for(parent, index, context, size=config.size, listener=listener)
        for seed in seeds:
            listener.on_seed(seed)
            one = replace(config, seed=seed)
            child = begin(one, index, inside, data=data, folder=folder / f"seed-{seed}")
            found.children[seed] = child
            tracker.try_send(child)
            try:
                with finished(child, tracker):
                    run_training(one, decoded, child, inside, listener=listener)
            except Exception:  # the record says why; other seeds may succeed
                child.add_traceback()
                tracker.try_send(child)
                listener.say(f"seed {seed}: {found.failed[seed]}")
        _write_results(found)
    for child in found.children.values():
        if unsent(child):  # the store may be back
            tracker.try_send(child, force=True)
    return found


def _write_results(found: Seeds) -> None:
    """Writes the results of all seeds to their parent: table, figure, means and a description."""
    parent = found.record
    found.table().to_csv(parent.artifacts / "seeds.csv", index=False)
    if not found.complete:
        raise SeedsError(found.sentence())
    scores, summary = found.scores(), found.summary()
    shown = {name: scores[f"val/{name}"].to_numpy() for name in SCORES if f"val/{name}" in scores}
    plots.save(plots.seeds({"": shown}), parent.artifacts / "figures" / "seeds.png")
    parent.summarise(summary, step=0)
    told = ", ".join(
        f"{word} {mean_and_spread(summary[f'val/{name}'], summary[f'val/{name}_std'])}"
        for word, name in (
            ("log loss", "log_loss"),
            ("AUC", "auc"),
            ("sensitivity", "sensitivity"),
            ("specificity", "specificity"),
        )
        if f"val/{name}" in summary
    )
    parent.update(
        description=f"{parent.run.description} {found.sentence()}.\n\n"
        f"On the validation films, mean ± standard deviation over seeds: {told}."
    )


def _state(record: Record) -> str:
    return str((record.status or {}).get("state", ""))


def _listed(seeds: Sequence[int]) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
