"""From a network's logits to the probability that is served, and its threshold.

All of it is fitted to validation films: `labels` is int [N] with 1 for the positive class, `logits` is float [N].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.logistic import fit_line, logistic_regression, sigmoid
from pneumonia.metrics.scores import Floats, checked_logits
from pneumonia.metrics.threshold import choose_threshold

SLOPE_SPREAD, INTERCEPT_SPREAD, SMALLEST_FACTOR = 0.5, 2.0, 0.1  # of `recalibrate`


@dataclass(frozen=True)
class Calibration:
    """The line in the logit that turns a network's logit into the probability that is served."""

    slope: float
    intercept: float

    def apply(self, logits: ArrayLike) -> Floats:
        """Probabilities of the logits' shape."""
        return sigmoid(self.slope * np.asarray(logits, dtype=np.float64) + self.intercept)

    def undo(self, probabilities: ArrayLike) -> Floats:
        """The logits that `apply` makes `probabilities` of; those of 0 and 1 as if they were 1e-15 away."""
        p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-15, 1 - 1e-15)
        return np.asarray((np.log(p / (1 - p)) - self.intercept) / self.slope)


def fit_calibration(labels: ArrayLike, logits: ArrayLike) -> Calibration:
    """Platt scaling (Platt 1999): logistic regression on the logit, with his smoothed targets, not class-balanced.

    The probabilities come out calibrated to the share of positives among these films. The slope is kept above 0, so
    that the order of films stays; where the logits say nothing (one value, or the wrong way round) the probability
    is all but the share of positives.

    Raises:
        ValueError: no films, shapes differ, a label other than 0 and 1, or a logit that is not finite.
    """
    y, x = checked_logits(labels, logits)
    positives = int(y.sum())
    targets = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (y.size - positives + 2))
    slope, intercept = fit_line(x, targets, np.full(y.size, 1 / y.size), smallest=1e-3)
    return Calibration(slope, intercept)


def operating_point(labels: ArrayLike, logits: ArrayLike) -> tuple[Calibration, float]:
    """The calibration and the threshold for its probabilities, as a served model uses them.

    Raises:
        ValueError: as `fit_calibration`, or a class is missing.
    """
    line = fit_calibration(labels, logits)
    return line, choose_threshold(labels, line.apply(logits))


def match_prevalence(old: Calibration, logits: ArrayLike, prevalence: float) -> tuple[Calibration, float]:
    """The line and threshold of a place whose films have no labels: so many are called positive as are thought to be.

    The threshold is the films' quantile, at which both kinds of error are equally many if the prevalence is right; the
    line is the `old` one, moved until the mean probability is the prevalence.

    Args:
        logits: [N] of films as they come.
        prevalence: the share of positive films among them, above 0 and below 1.

    Raises:
        ValueError: there are no films, a logit is not finite, or the prevalence is out of range.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence must lie between 0 and 1, not {prevalence:g}")
    _, x = checked_logits(np.zeros(np.shape(logits), np.int64), logits)
    level = old.slope * x
    targets, weights = np.full(x.size, prevalence), np.full(x.size, 1 / x.size)
    (intercept,) = logistic_regression(np.ones((x.size, 1)), targets, weights, offset=level)
    line = Calibration(old.slope, float(intercept))
    return line, float(line.apply(np.quantile(x, 1 - prevalence)))


def recalibrate(old: Calibration, labels: ArrayLike, logits: ArrayLike) -> tuple[Calibration, float]:
    """The line of a place with few films, drawn to the `old` one, and the threshold at the share of positive films.

    The new line multiplies the old one's slope by a factor around 1 (standard deviation 0.5) and adds an offset around
    0 (2 nats), each as if normally distributed before the films were seen. Where probabilities are calibrated to a
    share of positive films, balanced accuracy is highest at a threshold of that share. From eight to fifty films of
    another hospital that gave a higher balanced accuracy on its other films than `operating_point`, by 0.005 to 0.013
    (see the lab book).

    Raises:
        ValueError: as `fit_calibration`.
    """
    y, x = checked_logits(labels, logits)
    line = old.slope * x + old.intercept
    ridge = 1 / (y.size * np.array([SLOPE_SPREAD, INTERCEPT_SPREAD]) ** 2)
    columns, weights = np.column_stack((line, np.ones(y.size))), np.full(y.size, 1 / y.size)
    more, offset = logistic_regression(columns, y, weights, offset=line, ridge=ridge)
    factor = max(1 + float(more), SMALLEST_FACTOR)
    share = (int(y.sum()) + 1) / (y.size + 2)
    return Calibration(old.slope * factor, old.intercept * factor + float(offset)), share
