"""What a model is worth on films that nothing was chosen on: scores with 95% intervals, and the films behind them."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumonia import metrics, predict, registry
from pneumonia.data import Index, Split
from pneumonia.intervals import intervals
from pneumonia.record import Record, Run
from pneumonia.tracking import Tracker, finished
from pneumonia.trial import data_tags, dataset_of, write_predictions, write_scores

NAMES = {"auc": "AUC", "f1": "F1", "ece": "ECE", "brier": "Brier"}


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
    intervals: dict[str, tuple[float, float]]
    warnings: list[str]
    failures: list[tuple[str, str]]  # path, reason

    def named(self) -> dict[str, float]:
        """`test/auc`, `test/auc_low`, `test/auc_high` and so on; a score without a meaning is left out."""
        named: dict[str, float] = {}
        for name, value in self.scores.items():
            low, high = self.intervals[name]
            parts = {"": value, "_low": low, "_high": high}
            named |= {f"{self.split}/{name}{part}": number for part, number in parts.items() if math.isfinite(number)}
        return named

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the counts, each score with its interval (null without a meaning), warnings and failures."""
        return {
            "split": self.split,
            "films": len(self.rows),
            "patients": int(self.rows["patient"].nunique()),
            "classes": list(self.classes),
            "threshold": self.threshold,
            "confusion_matrix": self.confusion.tolist(),
            "scores": {
                name: {"value": _number(value), "interval": [_number(bound) for bound in self.intervals[name]]}
                for name, value in self.scores.items()
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
        notes = [*self.warnings, *(f"not scored: {path}: {reason}" for path, reason in self.failures)]
        return "\n".join(lines + [""] * bool(notes) + [f"- {note}" for note in notes])


def evaluate(
    model: predict.Model,
    index: Index,
    *,
    split: Split = "test",
    progress: bool = False,
) -> Evaluation:
    """Scores the films of a split from their files, through the served model itself, at its own threshold.

    Raises:
        ValueError: the split has no films, none could be scored, or the model's classes are others than the films'.
    """
    if index.classes != model.classes:
        raise ValueError(
            f"the model tells {' from '.join(model.classes)}, but the films are {' and '.join(index.classes)}"
        )
    rows = index.only(split)
    if rows.empty:
        raise ValueError(f"there are no {split} films in {index.root} to evaluate on")
    paths = [Path(index.root, path) for path in rows["path"]]
    table = predict.predict(model, paths, progress=progress)
    return assess(rows, table, split=split, classes=model.classes, threshold=model.threshold)


def assess(
    rows: pd.DataFrame, predictions: pd.DataFrame, *, split: Split, classes: tuple[str, str], threshold: float
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
    probabilities = predictions["probability"].to_numpy()[scored]
    return Evaluation(
        split=split,
        classes=classes,
        threshold=threshold,
        rows=kept,
        probabilities=probabilities,
        confusion=metrics.confusion(labels, probabilities, threshold),
        scores=metrics.score(labels, probabilities, threshold),
        intervals=intervals(labels, probabilities, threshold, patients=kept["patient"].to_numpy()),
        warnings=metrics.warnings_for(labels, classes=classes),
        failures=failures,
    )


def evaluate_and_record(
    uri: str,
    index: Index,
    *,
    home: Path,
    tracker: Tracker,
    experiment: str = "pneumonia",
    run_id: str | None = None,
    tags: dict[str, str] | None = None,
    progress: bool = False,
) -> tuple[Record, Evaluation]:
    """Opens the test split for a model: counts that on its version, scores, and logs a run of its own.

    The metrics `test/...` belong to the run and, where the store knows the model, to the model.

    Raises:
        ModelError: there is no such model.
        ValueError: as `evaluate`.
        TrackingError: the tracking store cannot be reached; no film was opened.
    """
    tracker.experiment_id(experiment)
    model = predict.load(uri)
    openings = registry.count_opening(tracker, uri, model.metadata.model_id)
    record = Record.create(
        home / "records" / "evaluate" / str(time.time_ns()),
        Run(
            name=f"evaluate {uri} on {index.root.name}",
            role="evaluate",
            experiment=experiment,
            run_id=run_id,
            tags={"model": uri, "test.openings": str(openings), **data_tags(index), **(tags or {})},
            description=f"{uri} on the test films of {index.root.name}; opening {openings} of the test split for it.",
            dataset=dataset_of(index, context="testing"),
            model_id=tracker.known_model(model.metadata.model_id),
        ),
    )
    record.add_params({"model": uri, "data": str(index.root), "threshold": model.threshold})
    with finished(record, tracker):
        evaluation = evaluate(model, index, progress=progress)
        labels = evaluation.rows["label"].to_numpy()
        write_scores(record, labels, evaluation.probabilities, model.threshold, model.classes)
        write_predictions(
            record.artifacts / "predictions" / "test.csv", evaluation.rows, evaluation.probabilities, model.classes
        )
        record.add_json("evaluation.json", evaluation.as_dict())
        (record.artifacts / "evaluation.md").write_text(evaluation.text() + "\n", encoding="utf-8")
        record.summarise(evaluation.named(), step=0)
    return record, evaluation


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
