"""How far probabilities can be taken at their word: the calibration line, with 95% intervals for films of patients.

`labels` is int [N] with 1 for the positive class, `probabilities` float [N] in [0, 1], `patients` [N] names the
patient of each film.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.intervals import Z95, Interval
from pneumonia.metrics.logistic import logistic_regression, logit, sigmoid
from pneumonia.metrics.scores import Floats, Ints, checked, score


@dataclass(frozen=True)
class Line:
    """Cox's calibration line (1958): 1 and 0 where the probabilities are right.

    `slope`: of the logistic regression of the label on the probability's logit; below 1 the probabilities are too
    extreme. `intercept`: of that regression with the slope fixed at 1, calibration in the large (Van Calster et al.
    2016); below 0 they are too high. NaN where the data do not determine them: a class is missing, or the classes do
    not overlap.
    """

    slope: float
    slope_interval: Interval
    intercept: float
    intercept_interval: Interval


@dataclass(frozen=True, eq=False)
class Reliability:
    """How good `probabilities` [N] of films with `labels` [N] are as probabilities; see `metrics.score` for the first
    three figures.
    """

    labels: Ints = field(repr=False)
    probabilities: Floats = field(repr=False)
    brier: float
    ece: float
    log_loss: float
    line: Line

    def named(self) -> dict[str, float]:
        """The figures by name; NaN where there is none."""
        return {
            "brier": self.brier,
            "ece": self.ece,
            "log_loss": self.log_loss,
            "calibration_slope": self.line.slope,
            "calibration_intercept": self.line.intercept,
        }


def reliability(labels: ArrayLike, probabilities: ArrayLike, *, patients: ArrayLike) -> Reliability:
    """The reliability of one set of films.

    Raises:
        ValueError: as `metrics.score`.
    """
    y, p = checked(labels, probabilities)
    scores = score(y, p, 0.5)
    line = calibration_line(y, p, patients=patients)
    return Reliability(y, p, scores["brier"], scores["ece"], scores["log_loss"], line)


def calibration_line(labels: ArrayLike, probabilities: ArrayLike, *, patients: ArrayLike) -> Line:
    """The calibration line, with Wald intervals from the sandwich variance by patient (Liang & Zeger 1986).

    Raises:
        ValueError: as `metrics.score`.
    """
    y, p = checked(labels, probabilities)
    x = logit(p)
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    one = np.ones((y.size, 1))
    slope = _fit(np.column_stack((x, one)), np.zeros(y.size), y, patient)
    intercept = _fit(one, x, y, patient)
    return Line(*slope, *intercept)


def _fit(x: Floats, offset: Floats, y: Ints, patient: Ints) -> tuple[float, Interval]:
    """The first coefficient of a logistic regression of y [N] on x [N, K] beside an offset [N], with its interval."""
    nothing = np.nan, (np.nan, np.nan)
    clusters = int(patient.max()) + 1
    if clusters < 2 or not 0 < y.sum() < y.size or (x.shape[1] == 2 and not _overlap(y, x[:, 0])):
        return nothing
    beta = logistic_regression(x, y, np.full(y.size, 1 / y.size), offset=offset)
    q = sigmoid(x @ beta + offset)
    information = (x.T * (q * (1 - q))) @ x
    if np.linalg.cond(information) > 1e12:
        return nothing
    scores = x * (y - q)[:, None]
    sums = np.column_stack([np.bincount(patient, weights=column, minlength=clusters) for column in scores.T])
    bread = np.linalg.inv(information)
    variance = clusters / (clusters - 1) * bread @ (sums.T @ sums) @ bread
    half = Z95 * float(np.sqrt(variance[0, 0]))
    return float(beta[0]), (float(beta[0]) - half, float(beta[0]) + half)


def _overlap(y: Ints, x: Floats) -> bool:
    """Whether some film of each class lies on the other's side, without which the slope has no largest value."""
    negative, positive = x[y == 0], x[y == 1]
    return bool(negative.max() > positive.min() and positive.max() > negative.min())
