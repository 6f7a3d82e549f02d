"""A model's scores on held-out films with 95% intervals, and the films behind them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.data.index import Split
from pneumonia.metrics.bands import Band, bands
from pneumonia.metrics.intervals import Interval, bootstrap, intervals
from pneumonia.metrics.logistic import logit
from pneumonia.metrics.reliability import Line, calibration_line
from pneumonia.metrics.scores import best_accuracy, confusion, number, score, warnings_for
from pneumonia.metrics.subgroups import Predictive, Subgroup, by_subtype, predictive_values

NAMES = {"auc": "AUC", "npv": "NPV", "f1": "F1", "mcc": "MCC", "ece": "ECE", "brier": "Brier"}
PREVALENCES = (0.01, 0.05, 0.2, 0.5)
UNIQUE = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")  # of the films without copies
FAILURES = 5  # shown in the text; evaluation.json has all


@dataclass(frozen=True)
class Misclassified:
    """A misclassified film."""

    path: str
    patient: str
    label: int
    subtype: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """The result: `rows` are the scored films (as in `Index.table`), aligned with `probabilities` float [N]."""

    split: Split
    classes: tuple[str, str]
    threshold: float
    rows: pd.DataFrame
    probabilities: np.ndarray
    confusion: np.ndarray  # [[tn, fp], [fn, tp]]
    scores: dict[str, float]
    intervals: dict[str, Interval]
    auc_bootstrap: Interval  # beside DeLong's among `intervals`
    line: Line
    subgroups: list[Subgroup]
    predictive: list[Predictive]
    warnings: list[str]
    failures: list[tuple[str, str]]  # path, reason

    @property
    def called(self) -> np.ndarray:
        """bool [N], whether a film is called positive."""
        return np.asarray(self.probabilities >= self.threshold)

    @cached_property
    def unique(self) -> "Evaluation | None":
        """The same for the films that are no copy of an earlier one; None where there is no copy."""
        first = ~self.rows.duplicated("sha256").to_numpy()
        if first.all():
            return None
        scored = pd.DataFrame({"probability": self.probabilities[first], "error": ""})
        return assess(self.rows[first], scored, split=self.split, classes=self.classes, threshold=self.threshold)

    @property
    def best_accuracy(self) -> float:
        """The accuracy at the best threshold for these very films: see `scores.best_accuracy`."""
        return best_accuracy(self.rows["label"].to_numpy(), self.probabilities)

    def by_group(self) -> dict[str, np.ndarray]:
        """The probabilities of each class and subtype."""
        names = [self.name(group.label, group.subtype) for group in self.subgroups]
        keys = [
            (self.rows["label"] == group.label) & (self.rows["subtype"] == group.subtype) for group in self.subgroups
        ]
        return {name: self.probabilities[key.to_numpy()] for name, key in zip(names, keys, strict=True)}

    def name(self, label: int, subtype: str) -> str:
        return f"{self.classes[label]} {subtype}".strip()

    def wrong(self) -> list[Misclassified]:
        """The misclassified films, the most confident (farthest from the threshold in the logit) first."""
        rows = self.rows.assign(probability=self.probabilities)[self.called != (self.rows["label"] == 1).to_numpy()]
        distance = np.abs(logit(rows["probability"].to_numpy()) - logit(self.threshold))
        columns = ["path", "patient", "label", "subtype", "probability"]
        surest_first = rows.iloc[np.argsort(-distance, kind="stable")][columns]
        return [Misclassified(*values) for values in surest_first.to_numpy(dtype=object).tolist()]

    def bands(self) -> tuple[Band | None, Band | None]:
        """Of the ROC and the precision-recall curve; None where a class is missing."""
        labels = self.rows["label"].to_numpy()
        if not 0 < labels.sum() < labels.size:
            return None, None
        return bands(labels, self.probabilities, patients=self.rows["patient"].to_numpy())

    def named(self) -> dict[str, float]:
        """`test/auc`, `test/auc_low`, `test/auc_high` and so on; a score without a meaning is left out."""
        named: dict[str, float] = {}
        for name, value in self.scores.items():
            low, high = self.intervals[name]
            named |= self._named(name, value, (low, high))
        ends = zip(("low", "high"), self.auc_bootstrap, strict=True)
        named |= {f"{self.split}/auc_bootstrap_{end}": value for end, value in ends if math.isfinite(value)}
        named |= self._named("calibration_slope", self.line.slope, self.line.slope_interval)
        named |= self._named("calibration_intercept", self.line.intercept, self.line.intercept_interval)
        for group in self.subgroups:
            if group.label == 1 and group.subtype:
                named |= self._named(f"sensitivity_{_metric_name(group.subtype)}", group.right, group.interval)
        for at in self.predictive:
            named |= self._named(f"ppv_at_{at.prevalence:g}", at.ppv, at.ppv_interval)
            named |= self._named(f"npv_at_{at.prevalence:g}", at.npv, at.npv_interval)
        if self.unique:
            for name in UNIQUE:
                named |= self._named(f"unique_{name}", self.unique.scores[name], self.unique.intervals[name])
        counts = {"films": len(self.rows), "patients": self.rows["patient"].nunique(), "not_scored": len(self.failures)}
        return named | {f"{self.split}/{name}": float(count) for name, count in counts.items()}

    def _named(self, name: str, value: float, interval: Interval) -> dict[str, float]:
        parts = {"": value, "_low": interval[0], "_high": interval[1]}
        return {f"{self.split}/{name}{part}": bound for part, bound in parts.items() if math.isfinite(bound)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: counts, each score with its interval (null without a meaning), subgroups, predictive values, the
        films without copies, warnings and failures.
        """
        return {
            "split": self.split,
            "films": len(self.rows),
            "patients": int(self.rows["patient"].nunique()),
            "classes": list(self.classes),
            "threshold": self.threshold,
            "confusion_matrix": self.confusion.tolist(),
            "scores": {name: score_dict(value, self.intervals[name]) for name, value in self.scores.items()},
            "auc_bootstrap": [number(end) for end in self.auc_bootstrap],
            "calibration": {
                "slope": score_dict(self.line.slope, self.line.slope_interval),
                "intercept": score_dict(self.line.intercept, self.line.intercept_interval),
            },
            "subgroups": [
                {
                    "class": self.classes[group.label],
                    "subtype": group.subtype,
                    "films": group.films,
                    "patients": group.patients,
                    "called_right": score_dict(group.right, group.interval),
                }
                for group in self.subgroups
            ],
            "predictive_values": [
                {
                    "prevalence": at.prevalence,
                    "ppv": score_dict(at.ppv, at.ppv_interval),
                    "npv": score_dict(at.npv, at.npv_interval),
                }
                for at in self.predictive
            ],
            "best_accuracy": self.best_accuracy,
            "unique": self.unique
            and {
                "films": len(self.unique.rows),
                **{name: score_dict(self.unique.scores[name], self.unique.intervals[name]) for name in UNIQUE},
            },
            "warnings": self.warnings,
            "failures": [{"path": path, "error": error} for path, error in self.failures],
        }

    def text(self) -> str:
        """A Markdown table of the scores, with what must be known to read them."""
        positive, films = int(self.rows["label"].sum()), len(self.rows)
        lines = [
            f"{films:,} {self.split} films of {self.rows['patient'].nunique():,} patients "
            f"({positive:,} {self.classes[1]}, {films - positive:,} {self.classes[0]}), threshold {self.threshold:.3f}",
            "",
            "| score             |  value | 95% interval   |",
            "|-------------------|-------:|----------------|",
        ]
        for name, value in self.scores.items():
            shown = f"{value:.3f}" if math.isfinite(value) else "none"
            low, high = self.intervals[name]
            interval = f"{low:.3f} to {high:.3f}" if math.isfinite(low) else "none"
            lines.append(f"| {NAMES.get(name, name.replace('_', ' ')):<17} | {shown:>6} | {interval:<14} |")
        notes = [*self.warnings, *(f"not scored: {path}: {reason}" for path, reason in self.failures[:FAILURES])]
        if len(self.failures) > FAILURES:
            notes.append(f"not scored: {len(self.failures) - FAILURES:,} more, see evaluation.json")
        return "\n".join(lines + [""] * bool(notes) + [f"- {note}" for note in notes])


def assess(
    rows: pd.DataFrame,
    predictions: pd.DataFrame,
    *,
    split: Split,
    classes: tuple[str, str],
    threshold: float,
    prevalences: Sequence[float] = PREVALENCES,
) -> Evaluation:
    """The evaluation of `predict.predict`'s table for `rows` of an index, in the same order.

    Films that could not be scored are left out and listed.

    Raises:
        ValueError: no film could be scored.
    """
    scored = (predictions["error"] == "").to_numpy()
    failures = list(zip(rows["path"][~scored], predictions["error"][~scored], strict=True))
    if not scored.any():
        raise ValueError(f"none of {len(rows)} {split} films could be scored; the first, {': '.join(failures[0])}")
    kept = rows[scored].reset_index(drop=True)
    labels = kept["label"].to_numpy()
    patients = kept["patient"].to_numpy()
    _, codes = np.unique(patients.astype(str), return_inverse=True)
    probabilities = predictions["probability"].to_numpy()[scored]
    return Evaluation(
        split=split,
        classes=classes,
        threshold=threshold,
        rows=kept,
        probabilities=probabilities,
        confusion=confusion(labels, probabilities, threshold),
        scores=score(labels, probabilities, threshold),
        intervals=intervals(labels, probabilities, threshold, patients=patients),
        auc_bootstrap=bootstrap(labels, probabilities, threshold, codes, ("auc",))["auc"],
        line=calibration_line(labels, probabilities, patients=patients),
        subgroups=by_subtype(kept, (probabilities >= threshold) == (labels == 1)),
        predictive=predictive_values(labels, probabilities, threshold, prevalences, patients=patients),
        warnings=warnings_for(labels, classes=classes),
        failures=failures,
    )


def _metric_name(text: str) -> str:
    """MLflow's metric names take letters, digits and some signs only."""
    return re.sub(r"[^\w.\- ]", "_", text)


def score_dict(value: float, interval: Interval) -> dict[str, Any]:
    """A score and its interval for JSON."""
    return {"value": number(value), "interval": [number(bound) for bound in interval]}
