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
from pneumonia.metrics.intervals import Interval, bootstrap, intervals, proportion
from pneumonia.metrics.logistic import logit
from pneumonia.metrics.reliability import Line, calibration_line
from pneumonia.metrics.scores import best_accuracy, confusion, number, score, warnings_for
from pneumonia.metrics.subgroups import Predictive, Subgroup, by_subtype, predictive_values

NAMES = {"auc": "AUC", "npv": "NPV", "f1": "F1", "mcc": "MCC", "ece": "ECE", "brier": "Brier"}
PREVALENCES = (0.01, 0.05, 0.2, 0.5)
# Of the films without copies, and of familiar and unfamiliar ones apart.
UNIQUE = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")
FAMILIARITY = ("familiarity", "familiar")  # columns of `predict`'s table, missing where the model does not say
FAILURES = 5  # shown in the text; evaluation.json has all


@dataclass(frozen=True)
class Misclassified:
    """A misclassified film."""

    path: str
    patient: str
    label: int
    subtype: str
    probability: float
    familiarity: float = math.nan  # where the model does not say


@dataclass(frozen=True)
class Evaluation:
    """The result: `rows` are the scored films (as in `Index.table`, with `FAMILIARITY` where the model says), aligned
    with `probabilities` float [N].
    """

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
        return None if first.all() else self._of(first)

    @cached_property
    def by_familiarity(self) -> "dict[str, Evaluation]":
        """The same for the films that are `familiar` to the model and those that are `unfamiliar`, as far as there are
        any; empty where the model does not say.
        """
        if "familiar" not in self.rows:
            return {}
        familiar = self.rows["familiar"].to_numpy(dtype=bool)
        parts = {"familiar": familiar, "unfamiliar": ~familiar}
        return {name: self._of(part) for name, part in parts.items() if part.any()}

    @property
    def unfamiliar(self) -> tuple[float, Interval]:
        """The share of the films that are not familiar to the model; NaN where it does not say."""
        if "familiar" not in self.rows:
            return math.nan, (math.nan, math.nan)
        strange = ~self.rows["familiar"].to_numpy(dtype=bool)
        _, patient = np.unique(self.rows["patient"].to_numpy().astype(str), return_inverse=True)
        return float(strange.mean()), proportion(strange, patient)

    def _of(self, part: np.ndarray) -> "Evaluation":
        scored = pd.DataFrame({"probability": self.probabilities[part], "error": ""})
        return assess(self.rows[part], scored, split=self.split, classes=self.classes, threshold=self.threshold)

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
        columns += ["familiarity"] if "familiarity" in rows else []
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
        parts = {**({"unique": self.unique} if self.unique else {}), **self.by_familiarity}
        for part, of in parts.items():
            for name in UNIQUE:
                named |= self._named(f"{part}_{name}", of.scores[name], of.intervals[name])
        named |= self._named("unfamiliar", *self.unfamiliar)
        counts = {"films": len(self.rows), "patients": self.rows["patient"].nunique(), "not_scored": len(self.failures)}
        return named | {f"{self.split}/{name}": float(count) for name, count in counts.items()}

    def _named(self, name: str, value: float, interval: Interval) -> dict[str, float]:
        parts = {"": value, "_low": interval[0], "_high": interval[1]}
        return {f"{self.split}/{name}{part}": bound for part, bound in parts.items() if math.isfinite(bound)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: counts, each score with its interval (null without a meaning), subgroups, predictive values, the
        films without copies, familiar and unfamiliar ones, warnings and failures.
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
            "unique": self.unique and self.unique._main(),
            "familiarity": {
                "share_unfamiliar": score_dict(*self.unfamiliar),
                **{name: of._main() for name, of in self.by_familiarity.items()},
            }
            if self.by_familiarity
            else None,
            "warnings": self.warnings,
            "failures": [{"path": path, "error": error} for path, error in self.failures],
        }

    def _main(self) -> dict[str, Any]:
        scores = {name: score_dict(self.scores[name], self.intervals[name]) for name in UNIQUE}
        return {"films": len(self.rows), **scores}

    def strangers(self) -> str:
        """A sentence on the films that the model does not know; empty where it does not say."""
        if not self.by_familiarity:
            return ""
        share, (low, high) = self.unfamiliar
        told = [
            f"{len(of.rows):,} {name}: "
            + ", ".join(
                f"{NAMES.get(key, key)} {of.scores[key]:.3f}" for key in UNIQUE if math.isfinite(of.scores[key])
            )
            for name, of in self.by_familiarity.items()
        ]
        return f"{share:.1%} of the films are unfamiliar to the model ({low:.1%} to {high:.1%}); " + "; ".join(told)

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
        notes = [*self.warnings, *filter(None, [self.strangers()])]
        notes += [*(f"not scored: {path}: {reason}" for path, reason in self.failures[:FAILURES])]
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
    told = {name: predictions[name].to_numpy()[scored] for name in FAMILIARITY if name in predictions}
    if any(pd.isna(values).any() for values in told.values()):
        told = {}
    kept = rows[scored].reset_index(drop=True).assign(**told)
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
