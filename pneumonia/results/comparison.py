"""Models side by side on the same films: their scores, and whether their differences are more than chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.metrics.intervals import Interval, in_words, intervals
from pneumonia.metrics.paired_tests import Difference, auc_difference, holm, score_differences, sign_test
from pneumonia.metrics.scores import number, score

SCORES = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "log_loss", "brier")
LEVEL = 0.05
NOTE = (
    "The validation films chose each model's epoch, calibration and threshold: all the figures flatter a little, and "
    "the differences less."
)
LOGGED = "{} was not kept: its probabilities are those that its run logged when it was trained"
OTHER_FILMS = "{} was not trained from these films as they are now: some may have trained it, which flatters it"


@dataclass(frozen=True)
class Pair:
    """A model against the reference.

    `alone` counts the films that only the reference calls right, and those that only the model does. `differences`
    are the model's scores minus the reference's; those of AUC and accuracy have p-values, here after Holm's adjustment
    for the number of models.
    """

    model: str
    differences: dict[str, Difference]
    alone: tuple[int, int]

    def sentence(self, reference: str) -> str:
        """What the tests say, in plain words."""
        told = []
        for name, words in (("auc", "AUC"), ("accuracy", "accuracy")):
            difference = self.differences[name]
            if difference.p < LEVEL:
                told.append(f"{words} is {'higher' if difference.value > 0 else 'lower'} (p = {difference.p:.2g})")
        said = " and its ".join(told)
        return f"{self.model}: its {said} than that of {reference}" if told else (
            f"{self.model}: these films do not tell it from {reference}"
        )  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Models on the same films. The first is the reference.

    `probabilities` is float [M, N], `rows` the N films as in `Index.table`; `scores` and `intervals` are by name, one
    mapping a model; `failures` are the films that some model could not score (path, reason), which are left out for
    all; `notes` say what must be known to read the figures.
    """

    models: list[str]
    thresholds: list[float]
    classes: tuple[str, str]
    rows: pd.DataFrame
    probabilities: np.ndarray
    scores: list[dict[str, float]]
    intervals: list[dict[str, Interval]]
    pairs: list[Pair]
    failures: list[tuple[str, str]]
    notes: list[str]

    @property
    def numbered(self) -> list[str]:
        """The models' names with their numbers, by which pages and figures tell them apart."""
        return [f"#{number} {model}" for number, model in enumerate(self.models, start=1)]

    def table(self) -> pd.DataFrame:
        """The scores as text, a row a model, with the differences from the reference below."""
        lines = [
            {"model": model, **{name: in_words(scores[name], bounds[name]) for name in SCORES}}
            for model, scores, bounds in zip(self.models, self.scores, self.intervals, strict=True)
        ]
        for pair in self.pairs:
            shown = {name: with_interval(pair.differences[name]) for name in SCORES}
            lines.append({"model": f"{pair.model} - {self.models[0]}", **shown})
        return pd.DataFrame(lines)

    def text(self) -> str:
        """Markdown: the models by number, a table of their scores, one of the differences, and what the tests say."""
        numbers = [str(number) for number in range(1, len(self.models) + 1)]
        pairs, rows = [f"{number} - 1" for number in numbers[1:]], self.table()
        lines = [f"{number}. {model}" for number, model in zip(numbers, self.models, strict=True)]
        for header, part in ((numbers, rows[: len(numbers)]), (pairs, rows[len(numbers) :])):
            lines += ["", *markdown(["score", *header], [[name.replace("_", " "), *part[name]] for name in SCORES])]
        notes = list(self.notes)
        if len(pairs) > 1:
            notes.append("p-values are adjusted for the number of models (Holm), intervals are not")
        notes += [f"not scored: {path}: {reason}" for path, reason in self.failures]
        return "\n".join([*lines, "", *(f"- {line}" for line in (*self.sentences(), *notes))])

    def sentences(self) -> list[str]:
        return [pair.sentence(self.models[0]) for pair in self.pairs]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what has no meaning is null."""
        return {
            "films": len(self.rows),
            "patients": int(self.rows["patient"].nunique()),
            "reference": self.models[0],
            "models": [
                {
                    "model": model,
                    "threshold": threshold,
                    "scores": {
                        name: {
                            "value": number(scores[name]),
                            "interval": [number(end) for end in bounds[name]],
                        }
                        for name in SCORES
                    },
                }
                for model, threshold, scores, bounds in zip(
                    self.models, self.thresholds, self.scores, self.intervals, strict=True
                )
            ],
            "pairs": [
                {
                    "model": pair.model,
                    "right_alone": {"reference": pair.alone[0], "model": pair.alone[1]},
                    "differences": {
                        name: {
                            "value": number(difference.value),
                            "interval": [number(end) for end in difference.interval],
                            "p": number(difference.p),
                        }
                        for name, difference in pair.differences.items()
                    },
                    "says": pair.sentence(self.models[0]),
                }
                for pair in self.pairs
            ],
            "failures": [{"path": path, "error": error} for path, error in self.failures],
            "notes": self.notes,
        }


def assess(
    rows: pd.DataFrame,
    probabilities: np.ndarray,
    *,
    names: Sequence[str],
    thresholds: Sequence[float],
    classes: tuple[str, str],
    failures: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Comparison:
    """The comparison of `probabilities` [M, N] for N `rows` of an index.

    Args:
        notes: what else must be known to read the figures.

    Raises:
        ValueError: the films are not of both classes.
    """
    y, patients = rows["label"].to_numpy(), rows["patient"].to_numpy()
    if not 0 < y.sum() < y.size:
        raise ValueError("comparing models needs validation films of both classes that all of them can score")
    right = [(p >= threshold) == (y == 1) for p, threshold in zip(probabilities, thresholds, strict=True)]
    first, others = probabilities[0], range(1, len(names))
    aucs = [auc_difference(y, first, probabilities[at], patients=patients) for at in others]
    accuracy_p = holm([sign_test(right[0], right[at], patients=patients) for at in others])
    auc_p = holm([auc.p for auc in aucs])
    pairs = []
    for at, auc, p_of_auc, p_of_accuracy in zip(others, aucs, auc_p, accuracy_p, strict=True):
        found = score_differences(y, first, probabilities[at], (thresholds[0], thresholds[at]), patients=patients)
        accuracy = found["accuracy"]
        differences = {
            **found,
            "auc": Difference(auc.value, auc.interval, p_of_auc),
            "accuracy": Difference(accuracy.value, accuracy.interval, p_of_accuracy),
        }
        alone = int((right[0] & ~right[at]).sum()), int((right[at] & ~right[0]).sum())
        pairs.append(Pair(names[at], differences, alone))
    each = list(zip(probabilities, thresholds, strict=True))
    return Comparison(
        models=list(names),
        thresholds=list(thresholds),
        classes=classes,
        rows=rows,
        probabilities=probabilities,
        scores=[score(y, p, threshold) for p, threshold in each],
        intervals=[intervals(y, p, threshold, patients=patients) for p, threshold in each],
        pairs=pairs,
        failures=list(failures),
        notes=[NOTE, *notes],
    )


def markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (header, *rows)
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def with_interval(difference: Difference) -> str:
    """A difference as text, with what is known of its interval and p-value."""
    if not math.isfinite(difference.value):
        return "none"
    low, high = difference.interval
    known = [f"{low:+.3f} to {high:+.3f}"] * math.isfinite(low) + [f"p {difference.p:.2g}"] * math.isfinite(
        difference.p
    )
    return f"{difference.value:+.3f}" + f" ({', '.join(known)})" * bool(known)
