"""From a network's logits to the probability that is served and its threshold, and the scores that a search compares.

All of it is fitted to validation films: `labels` is int [N] with 1 for the positive class, `logits` is float [N].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.scores import CLIP, Floats, Ints, balanced_weights, checked, checked_logits, raw_loss, score

PAINTED = 0.1  # share of the positive class that painted films have in the objective


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
    slope, intercept = _line(x, targets, np.full(y.size, 1 / y.size), smallest=1e-3)
    return Calibration(slope, intercept)


def operating_point(labels: ArrayLike, logits: ArrayLike) -> tuple[Calibration, float]:
    """The calibration, and the threshold for its probabilities: what a served model calls films by.

    Raises:
        ValueError: as `fit_calibration`, or a class is missing.
    """
    line = fit_calibration(labels, logits)
    return line, choose_threshold(labels, line.apply(logits))


def objective(labels: ArrayLike, logits: ArrayLike, painted: ArrayLike = ()) -> float:
    """The search's objective, lower is better: class-balanced log loss after the best line in the logit, nats.

    It measures separation, not calibration: log 2 for a network that cannot tell the classes apart (or has them the
    wrong way round), towards 0 as the classes part, and unlike AUC it does not saturate. NaN if a class is missing.

    Args:
        painted: logits of normal films with a painted opacity, which make up a tenth of the positive class, however
            many they are; they do not stand in for a class that is missing.

    Raises:
        ValueError: as `fit_calibration`.
    """
    y, x = checked_logits(labels, logits)
    positives = int(y.sum())
    if positives in (0, y.size):
        return float("nan")
    weights = balanced_weights(y)
    if count := len(drawn := np.asarray(painted, dtype=np.float64)):
        weights = np.append(np.where(y == 1, 1 - PAINTED, 1.0) * weights, np.full(count, PAINTED * 0.5 / count))
        y, x = np.append(y, np.ones(count, y.dtype)), np.append(x, drawn)
    slope, intercept = _line(x, y.astype(np.float64), weights, smallest=0.0)
    return float(weights @ np.logaddexp(0, np.where(y == 1, -1, 1) * (slope * x + intercept)))


def choose_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The threshold that maximises balanced accuracy once each film's logit is blurred by a kernel.

    The kernel is logistic, its scale .28 of the classes' mean standard deviation (a standard deviation of half of it).
    Give it validation films only. The plain optimum hangs on a handful of films: for 200 + 580 normal, heavy-tailed
    or skew logits it wandered with a standard deviation of .35 to .41 in the logit and the mean of 200 bootstrap
    optima with .26 to .29, this with .13 to .15, and its balanced accuracy on new films was the highest
    (`test_threshold_is_steadier_than_the_plain_optimum`).

    Raises:
        ValueError: as `score`, or a class is missing.
    """
    y, p = checked(labels, probabilities)
    if not 0 < y.sum() < y.size:
        raise ValueError("choosing a threshold needs films of both classes, but the labels hold one class only")
    logits = logit(p)
    negative, positive = logits[y == 0], logits[y == 1]
    scale = max(0.28 * (negative.std() + positive.std()) / 2, 0.05)
    grid = np.linspace(logits.min(), logits.max(), 401)
    # Sensitivity + specificity - 1; the logistic function by tanh, which NumPy has four times as fast as exp and log.
    negative_below, positive_below = (
        np.tanh((grid[:, None] - films) / (2 * scale)).mean(1) for films in (negative, positive)
    )
    gain = (negative_below - positive_below) / 2
    return float(sigmoid(grid[gain >= gain.max() - 1e-9].mean()))  # the middle of a plateau


def epoch_scores(labels: np.ndarray, logits: np.ndarray, painted: np.ndarray) -> dict[str, float]:
    """An epoch's scores on the validation films at the threshold that would be chosen now, by metric; NaN as losses if
    a logit is not finite.

    Args:
        labels: [N], of the films as they are.
        logits: of the films as they are, and perhaps of the changed ones behind them, [N] or [3 N].
        painted: of normal films with an opacity, which count as ill, in the objective alone; perhaps none.
    """
    if not (np.isfinite(logits).all() and np.isfinite(painted).all()):
        return {"val/loss": float("nan"), "val/objective": float("nan")}
    every, plain = np.resize(labels, len(logits)), logits[: len(labels)]
    line = fit_calibration(every, logits)
    both = 0 < labels.sum() < len(labels)
    threshold = choose_threshold(every, line.apply(logits)) if both else 0.5
    scores = {f"val/{name}": value for name, value in score(labels, line.apply(plain), threshold).items()}
    return {
        **scores,
        "val/loss": raw_loss(labels, plain),
        "val/objective": objective(every, logits, painted),
    }


def logit(probabilities: ArrayLike) -> Floats:
    """log(p / (1 - p)) of probabilities clipped at 1e-7, as the log loss clips them."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(p / (1 - p)))


def sigmoid(x: Any) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(x, dtype=np.float64))))


def logistic_regression(
    x: Floats, targets: Floats | Ints, weights: Floats, *, offset: Floats | float = 0.0, ridge: Floats | float = 0.0
) -> Floats:
    """The coefficients [K] that minimise the weighted log loss of sigmoid(x @ coefficients + offset).

    Damped Newton, to about 1e-9. The coefficients must have an optimum that is finite.

    Args:
        x: [N, K].
        targets: [N], from 0 to 1.
        weights: [N], 1 in all.
        offset: [N] or one number.
        ridge: half of it times a coefficient's square is added to the loss; [K] or one number.
    """

    def loss(at: Floats) -> float:
        line = x @ at + offset
        return float(weights @ (np.logaddexp(0, line) - targets * line) + (ridge * at**2).sum() / 2)

    at = np.zeros(x.shape[1])
    for _ in range(100):
        q = sigmoid(x @ at + offset)
        gradient = x.T @ (weights * (q - targets)) + ridge * at
        hessian = (x.T * (weights * q * (1 - q))) @ x + (ridge + 1e-12) * np.eye(at.size)
        step = np.linalg.solve(hessian, gradient)
        gain = float(gradient @ step)
        if gain < 1e-12:  # once more in full: what is left is of the order of the step's square
            return np.asarray(at - step)
        now = loss(at)
        while loss(at - step) > now - 0.1 * gain and gain > 1e-24:  # from a flat place Newton leaps too far
            step, gain = step / 2, gain / 2
        at = at - step
    return at


def _line(x: Floats, targets: Floats, weights: Floats, *, smallest: float) -> tuple[float, float]:
    """Slope and intercept that minimise the weighted log loss; the slope in units of x's spread is >= `smallest`.

    A ridge of 1e-5 on the slope keeps it finite for classes that do not overlap.
    """
    centre, spread = x.mean(), x.std()
    one = np.ones((x.size, 1))
    if spread <= 1e-9 * (1 + abs(centre)):
        (level,) = logistic_regression(one, targets, weights)
        return smallest, float(level - smallest * centre)
    z = (x - centre) / spread
    slope, intercept = logistic_regression(np.column_stack((z, one)), targets, weights, ridge=np.array([1e-5, 0.0]))
    if slope < smallest:  # the loss is convex: the bound is the optimum
        slope, (intercept,) = smallest, logistic_regression(one, targets, weights, offset=smallest * z)
    return float(slope / spread), float(intercept - slope * centre / spread)
