"""What adapting a model to a place gained there: scores before and after on the same held-out films, paired."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.metrics.intervals import Interval, intervals
from pneumonia.metrics.paired_tests import Difference, auc_difference, score_differences
from pneumonia.metrics.scores import Ints, confusion, number, score, warnings_for
from pneumonia.training.adaptation import FILMS, PATIENTS, Adapted, Scored

SHOWN = ("auc", "balanced_accuracy", "sensitivity", "specificity", "log_loss", "brier")
NAMES = {"auc": "AUC", "log_loss": "log loss", "brier": "Brier"}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model on the held-out films: scores with 95% intervals and counts [[tn, fp], [fn, tp]]."""

    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    confusion: Ints


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """An adapting and what it gained. `rows` are the local films: path, patient, label (0 or 1), sha256; `gains` what
    the adapted model's scores are above the first model's; `learned` what of that fine-tuning gave beyond a new line
    and threshold, empty where nothing was fine-tuned.
    """

    adapted: Adapted
    rows: pd.DataFrame
    classes: tuple[str, str]
    before: Side
    after: Side
    gains: Mapping[str, Difference]
    learned: Mapping[str, Difference]

    @property
    def films(self) -> int:
        return len(self.rows)

    @property
    def patients(self) -> int:
        return int(self.rows["patient"].nunique())

    def named(self) -> dict[str, float]:
        """Metrics for MLflow: `before/...`, `after/...` and `gain/...`, with `_low` and `_high` where there are any."""
        found = {"after/threshold": self.adapted.model.threshold, "local/films": float(self.films)}
        found["local/patients"] = float(self.patients)
        for word, side in (("before", self.before), ("after", self.after)):
            for name, value in side.scores.items():
                ends = side.intervals[name]
                found |= {f"{word}/{name}": value, f"{word}/{name}_low": ends[0], f"{word}/{name}_high": ends[1]}
        for word, differences in (("gain", self.gains), ("learned", self.learned)):
            for name, one in differences.items():
                low, high = one.interval
                found |= {f"{word}/{name}": one.value, f"{word}/{name}_low": low, f"{word}/{name}_high": high}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; null where a score has no meaning."""

        def told(value: float, interval: Interval) -> dict[str, Any]:
            return {"value": number(value), "interval": [number(end) for end in interval]}

        sides = {
            word: {
                "confusion_matrix": side.confusion.tolist(),
                "scores": {name: told(value, side.intervals[name]) for name, value in side.scores.items()},
            }
            for word, side in (("before", self.before), ("after", self.after))
        }
        return {
            "method": self.adapted.method,
            "tuning_parts": list(self.adapted.tuning_parts),
            "films": self.films,
            "patients": self.patients,
            "classes": list(self.classes),
            "threshold": self.adapted.model.threshold,
            "calibration": {
                "slope": self.adapted.model.calibration.slope,
                "intercept": self.adapted.model.calibration.intercept,
            },
            **sides,
            "gain": {name: told(one.value, one.interval) for name, one in self.gains.items()},
            "learned": {name: told(one.value, one.interval) for name, one in self.learned.items()},
            "warnings": warnings_for(self.rows["label"].to_numpy(), classes=self.classes),
        }

    def text(self) -> str:
        """A Markdown table of the scores before and after, with what must be known to read them."""
        positive = int(self.rows["label"].sum())
        lines = [
            f"{self.films} local films of {self.patients} patients ({positive} {self.classes[1]}, "
            f"{self.films - positive} {self.classes[0]}), each scored by a model that did not learn from its patient",
            "",
            "| score             | before |  after |   gain | 95% interval     |",
            "|-------------------|-------:|-------:|-------:|------------------|",
        ]
        for name in SHOWN:
            gain, (low, high) = self.gains[name], self.gains[name].interval
            interval = f"{low:+.3f} to {high:+.3f}" if math.isfinite(low) else "none"
            values = " | ".join(f"{side.scores[name]:6.3f}" for side in (self.before, self.after))
            shown = NAMES.get(name, name.replace("_", " "))
            lines.append(f"| {shown:<17} | {values} | {gain.value:+.3f} | {interval:<16} |")
        notes = [self.how(), *warnings_for(self.rows["label"].to_numpy(), classes=self.classes)]
        return "\n".join([*lines, "", *(f"- {note}" for note in notes)])

    def how(self) -> str:
        """What was done, in a sentence."""
        if self.adapted.tuned is None:
            return (
                f"recalibrated alone (a new line and threshold): fine-tuning needs {FILMS} films and {PATIENTS} "
                "patients of each class"
            )
        auc, loss, adapted = self.learned["auc"], self.learned["log_loss"], self.adapted
        told = f"AUC {auc.value:+.3f}, log loss {loss.value:+.3f}"
        parts = (
            f"each part's films are scored by the way that the other parts chose, {len(adapted.tuning_parts)} of "
            f"{adapted.parts} by fine-tuning"
        )
        if adapted.method == "recalibrated":
            return (
                f"recalibrated alone (a new line and threshold): fine-tuning would not have paid ({told} beyond that); "
                f"{parts}"
            )
        return f"fine-tuned and recalibrated; fine-tuning gave {told} beyond a new line and threshold; {parts}"


def assess(adapted: Adapted, rows: pd.DataFrame, classes: tuple[str, str]) -> Adaptation:
    """The adaptation of a place's films; `rows` are in the order of the films."""
    labels, patients = rows["label"].to_numpy(), rows["patient"].to_numpy()
    tuned = adapted.tuned
    return Adaptation(
        adapted=adapted,
        rows=rows,
        classes=classes,
        before=_side(adapted.before, labels, patients),
        after=_side(adapted.after, labels, patients),
        gains=_differences(adapted.before, adapted.after, labels, patients),
        learned={} if tuned is None else _differences(adapted.recalibrated, tuned, labels, patients),
    )


def _side(scored: Scored, labels: Ints, patients: np.ndarray) -> Side:
    p, thresholds = scored.probabilities, scored.thresholds
    return Side(
        scores=score(labels, p, thresholds),
        intervals=intervals(labels, p, thresholds, patients=patients),
        confusion=confusion(labels, p, thresholds),
    )


def _differences(first: Scored, second: Scored, labels: Ints, patients: np.ndarray) -> dict[str, Difference]:
    pair = first.probabilities, second.probabilities
    auc = auc_difference(labels, *pair, patients=patients)
    rest = score_differences(labels, *pair, (first.thresholds, second.thresholds), patients=patients)
    return {"auc": auc, **rest}


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A threshold that was moved by films whose classes are not known: the share of ill films that was `assumed` or
    given, and the share called ill before and since.
    """

    films: int
    prevalence: float
    assumed: bool
    called_before: float
    called: float
    threshold: float

    def named(self) -> dict[str, float]:
        """Metrics for MLflow."""
        called = {"local/called_before": self.called_before, "local/called": self.called}
        return {"local/films": float(self.films), "after/threshold": self.threshold, **called}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"method": "unlabelled", **asdict(self)}

    def text(self) -> str:
        """What was done, and what it cannot say."""
        given = "assumed, since none was given (--prevalence)" if self.assumed else "as given"
        return (
            f"Of {self.films} films without labels {self.called_before:.0%} were called ill before, {self.called:.0%} "
            f"now; prevalence {self.prevalence:g}, {given}. The order of films is as it was. Whether the threshold is "
            "better only films with labels can tell: it is as good as the prevalence is right."
        )
