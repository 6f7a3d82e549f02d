"""The logistic function, its inverse, and a line fitted through it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.scores import CLIP, Floats, Ints


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


def fit_line(x: Floats, targets: Floats, weights: Floats, *, smallest: float) -> tuple[float, float]:
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
