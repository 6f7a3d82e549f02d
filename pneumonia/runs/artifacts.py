"""What the runs of trainings and of evaluations both hold: figures, matrices and predictions of scored films."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.metrics.bands import Band
from pneumonia.metrics.scores import confusion
from pneumonia.reports import plots
from pneumonia.results.evaluation import FAMILIARITY
from pneumonia.tracking.record import Record


def write_scores(
    record: Record,
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    scores: Mapping[str, float],
    classes: tuple[str, str],
    bands: tuple[Band | None, Band | None] = (None, None),
) -> None:
    """The confusion matrix as JSON and the four figures, the same for every run and split; `scores` as `metrics.score`
    has them, `bands` of the ROC and the precision-recall curve.
    """
    matrix = confusion(labels, probabilities, threshold)
    record.add_json("confusion_matrix.json", matrix.tolist())
    figures = record.artifacts / "figures"
    plots.save(plots.confusion_matrix(matrix, classes), figures / "confusion_matrix.png")
    plots.save(plots.roc(labels, probabilities, threshold, scores, bands[0]), figures / "roc.png")
    recall = plots.precision_recall(labels, probabilities, threshold, scores, bands[1])
    plots.save(recall, figures / "precision_recall.png")
    plots.save(plots.reliability(labels, probabilities, threshold, ece=scores["ece"]), figures / "reliability.png")


def write_predictions(path: Path, rows: pd.DataFrame, probabilities: np.ndarray, classes: tuple[str, str]) -> None:
    """A line a film: path, patient, label (its true class), probability of the positive class, and what `rows` say of
    its familiarity.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rows[["path", "patient"]].copy()
    table["label"] = np.asarray(classes)[rows["label"].to_numpy()]
    table["probability"] = probabilities
    table = table.join(rows[[name for name in FAMILIARITY if name in rows]])
    table.to_csv(path, index=False)
