"""95% confidence bands of the ROC and the precision-recall curve, point by point, from a bootstrap over patients."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.resampling import resampled
from pneumonia.metrics.scores import Floats, checked

DRAWS = 500  # of the bootstrap over patients
GRID = np.linspace(0, 1, 201)


@dataclass(frozen=True)
class Band:
    """The curve's `low` and `high`, each [G], over `x` [G]: at each x 95% of the draws lie between them."""

    x: Floats
    low: Floats
    high: Floats


def bands(labels: ArrayLike, probabilities: ArrayLike, *, patients: ArrayLike) -> tuple[Band, Band]:
    """The bands of the true positive rate over the false positive rate, and of precision over recall.

    Each covers the curve at a given x in 95 of 100 samples, not the whole curve at once (a pointwise confidence band).
    Draws without a film of each class are skipped.

    Raises:
        ValueError: as `metrics.score`, or a class is missing.
    """
    y, p = checked(labels, probabilities)
    if not 0 < y.sum() < y.size:
        raise ValueError("a curve needs films of both classes")
    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(p[order]) != 0, True])
    rates, precisions = [], []
    for weights in resampled(patients, draws=DRAWS, seed=0):
        tp = np.cumsum(weights[:, order] * y[order], axis=1)[:, ends]
        fp = np.cumsum(weights[:, order] * (1 - y[order]), axis=1)[:, ends]
        for true_positives, false_positives in zip(tp, fp, strict=True):
            if not true_positives[-1] or not false_positives[-1]:
                continue
            recall, called = true_positives / true_positives[-1], true_positives + false_positives
            # Where the curve rises at one x, np.interp takes the last of the points, which is the top of the step.
            rates.append(np.interp(GRID, np.r_[0, false_positives / false_positives[-1]], np.r_[0, recall]))
            at = np.searchsorted(recall, GRID - 1e-12)  # the first threshold that reaches the recall
            precisions.append(true_positives[at] / np.maximum(called[at], 1e-12))
    return _band(np.array(rates)), _band(np.array(precisions)[:, 1:], GRID[1:])  # at recall 0 nothing is called


def _band(drawn: Floats, x: Floats = GRID) -> Band:
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return Band(x, low, high)
