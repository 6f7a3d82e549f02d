"""What is known of the films before any model: the numbers of the exploratory report."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia import config
from pneumonia.data.index import Index
from pneumonia.data.layouts import SPLITS, Split
from pneumonia.metrics.scores import Floats, Ints, auc, number

# What may tell the classes apart without looking at a lung. The last two are of pixels, so not known for test films.
STATISTICS = ("bytes_per_pixel", "quantisation", "pixels", "aspect", "grey_mean", "grey_sd")


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """One epoch of batches of the train films under one sampler.

    `shares` [B] is the share of positive films in each batch, `times` [N] how often each of the train films, in the
    order of their rows, is drawn.
    """

    sampler: config.Sampler
    batch_size: int
    shares: Floats
    times: Ints

    @property
    def spread(self) -> float:
        """Standard deviation of the batches' shares; NaN for a single batch."""
        return float(self.shares.std(ddof=1)) if len(self.shares) > 1 else float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Exploration:
    """The films in use, described.

    `index` is without the films that cannot be read; its report lists them. `films` has the rows and columns of
    `index.table`, and width and height (pixels), kind (format and colour), and the columns of `STATISTICS`, NaN where
    a film has no such thing. Of the train and val films of (negative, positive): `grey` [2, 256], the share of pixels
    at each grey level, `mean` and `variance` [2, S, S] over films, in grey levels and their square. `samples` are
    rows of `films` and their pixels [S, S], negative ones first. `draws` are an epoch without and one with weights.
    """

    index: Index
    films: pd.DataFrame
    grey: Floats
    mean: Floats
    variance: Floats
    samples: tuple[tuple[int, NDArray[np.uint8]], ...]
    draws: tuple[Draws, Draws]
    seconds: float

    @property
    def splits(self) -> list[Split]:
        """The splits that have films: train before val before test."""
        return [split for split in SPLITS if (self.films["split"] == split).any()]

    def patients(self) -> pd.DataFrame:
        """A row a patient and class: split, label, patient, films."""
        return self.films.groupby(["split", "label", "patient"]).size().reset_index(name="films")

    def aucs(self) -> dict[str, dict[str, float]]:
        """{split: {statistic: AUC}}: how well each file statistic by itself tells positive from negative films.

        Below 0.5 where positive films have the lower values; NaN where a class has no values.
        """
        return {
            split: {name: _auc(rows["label"], rows[name]) for name in STATISTICS}
            for split in self.splits
            for rows in (self.films[self.films["split"] == split],)
        }

    def named(self) -> dict[str, float]:
        """The counts and AUCs as metrics of a run; NaN where there is no value."""
        named = {
            **self.index.report.named(),
            "data/films": len(self.films),
            "data/patients": self.films["patient"].nunique(),
            "data/eda_seconds": self.seconds,
        }
        for split, aucs in self.aucs().items():
            rows = self.films[self.films["split"] == split]
            named[f"data/{split}/films"] = len(rows)
            named[f"data/{split}/positive"] = int(rows["label"].sum())
            named[f"data/{split}/patients"] = rows["patient"].nunique()
            named |= {f"data/{split}/auc_{name}": auc for name, auc in aucs.items()}
        return named

    def text(self) -> str:
        """For a terminal: the AUC of each statistic in each split."""
        aucs = self.aucs()
        lines = ["AUC of file statistics".ljust(24) + "".join(split.rjust(8) for split in aucs)]
        for name in STATISTICS:
            values = [f"{auc:.3f}" if np.isfinite(auc := of[name]) else "-" for of in aucs.values()]
            lines.append(name.ljust(24) + "".join(value.rjust(8) for value in values))
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The main figures for JSON; null without a value."""
        report, patients = self.index.report, self.patients()
        return {
            "films": len(self.films),
            "patients": int(self.films["patient"].nunique()),
            "classes": list(self.index.classes),
            "fingerprint": self.index.fingerprint,
            "counts": list(report.counts),
            "films_a_patient": [
                {
                    "split": split,
                    "class": self.index.classes[label],
                    "mean": float(rows.mean()),
                    "median": float(rows.median()),
                    "largest": int(rows.max()),
                }
                for split in self.splits
                for label in (0, 1)
                for rows in (patients.loc[(patients["split"] == split) & (patients["label"] == label), "films"],)
                if len(rows)
            ],
            "sizes": {
                name: {"smallest": number(at.min()), "median": number(at.median()), "largest": number(at.max())}
                for name in ("width", "height", "aspect")
                for at in (self.films[name],)
            },
            "kinds": {str(kind): int(n) for kind, n in self.films["kind"].value_counts().items()},
            "aucs": {split: {name: number(auc) for name, auc in aucs.items()} for split, aucs in self.aucs().items()},
            "sampling": [
                {
                    "sampler": draws.sampler,
                    "batch_size": draws.batch_size,
                    "batches": len(draws.shares),
                    "positive_share_mean": float(draws.shares.mean()),
                    "positive_share_sd": number(draws.spread),
                    "never_drawn": float((draws.times == 0).mean()),
                }
                for draws in self.draws
            ],
            "corrupt": len(report.corrupt),
            "duplicates_left_out": report.copies,
            "leaks_left_out": report.leaked,
        }


def _auc(labels: pd.Series, values: pd.Series) -> float:
    there = values.notna()
    return auc(labels[there], values[there]) if there.any() else float("nan")
