"""Whether the scores of films that come day by day are those of the validation films: tests that count days.

Films of one day are not independent: a day has its wards, its radiographers and its machine. So a day counts once,
however many films it had, and one of a patient's validation films does not count as another patient's.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.intervals import Interval
from pneumonia.metrics.scores import Floats, Ints

DRAWS, POINTS = 2000, 200
MIN_DAYS = 3  # fewer say nothing of how much days differ


@dataclass(frozen=True)
class Reference:
    """The validation films: their logits float [M], labels int [M] (1 positive) and patients [M]."""

    logits: Floats
    labels: Ints
    patients: ArrayLike


@dataclass(frozen=True)
class Drift:
    """How far the scores of served films lie from the validation films'.

    Attributes:
        days: of the served films.
        distance: the largest difference of the two distribution functions (Kolmogorov-Smirnov), 0 to 1.
        p: how often it would be at least that if the films were alike; NaN for fewer than `MIN_DAYS` days.
        shift: mean logit of the served films less the validation films', each film counting once.
        shift_interval: 95%, by t for the days.
        share: of positives among validation films that fits the served films best.
        rest: the largest difference that is left with that share.
        rest_p: as `p`, for `rest`: what another share of ill films cannot explain.
    """

    days: int
    distance: float
    p: float
    shift: float
    shift_interval: Interval
    share: float
    rest: float
    rest_p: float


def drift(logits: ArrayLike, days: ArrayLike, reference: Reference, *, draws: int = DRAWS, seed: int = 0) -> Drift:
    """Compares the served films' logits [N] of `days` [N] with the validation films'.

    If the films are alike, the difference of the distribution functions at a score is a mean over days less one over
    patients. What it would be by chance is drawn by giving each day's and each patient's part a random factor
    (multiplier bootstrap for clustered data: van der Vaart and Wellner 1996, ch. 2.9; Cameron, Gelbach and Miller
    2008). The days' factors are normal over a chi, one for a whole draw, and widened by D / (D - 1), so that at a
    single score it is the t test with D - 1 degrees of freedom: a test that rests on the normal distribution finds
    drift too often with few days. `rest` is the same for the part that no share of positives explains: both sides are
    cleared of their projection on the difference of the two classes' distribution functions, the share kept within 0
    and 1.

    Raises:
        ValueError: there are no served films, or a class is missing among the validation films.
    """
    x, day = np.asarray(logits, dtype=np.float64), _codes(days)
    y, positive, patient = reference.logits, np.asarray(reference.labels) == 1, _codes(reference.patients)
    if not x.size:
        raise ValueError("there are no served films to compare with the validation films")
    if positive.all() or not positive.any():
        raise ValueError("the validation films are of one class")
    grid = np.unique(np.quantile(np.concatenate((x, y)), np.linspace(0, 1, POINTS), method="nearest"))
    served = _Parts.of(x, day, grid)
    ill, well = (
        _Parts.of(y[side], patient[side], grid, clusters=int(patient.max()) + 1) for side in (positive, ~positive)
    )
    prevalence, apart = float(positive.mean()), ill.curve - well.curve
    difference = served.curve - well.curve - prevalence * apart
    share = float(np.clip(prevalence + _projection(difference, apart), 0, 1))
    left = difference - (share - prevalence) * apart

    count = len(served.residuals)
    shift, error = float(x.mean() - y.mean()), math.hypot(_error(x, day), _error(y, patient))
    found = float(np.abs(difference).max()), float(np.abs(left).max())
    if count < MIN_DAYS:
        return Drift(count, found[0], math.nan, shift, (math.nan, math.nan), share, found[1], math.nan)
    rng = np.random.default_rng(seed)
    by_day = _drawn(served.residuals, rng, draws) / np.sqrt(rng.chisquare(count - 1, (draws, 1)) / (count - 1))
    # The share of the validation films is a matter of chance too, but one that is chosen is not.
    of_patients = prevalence * ill.residuals + (1 - prevalence) * well.residuals
    chance = np.bincount(patient, weights=positive - prevalence)[:, np.newaxis] / y.size * apart
    whole = by_day - _drawn(of_patients + chance, rng, draws)
    rest = by_day - _drawn(share * ill.residuals + (1 - share) * well.residuals, rng, draws)
    rest -= (np.clip(share + _projection(rest, apart), 0, 1) - share)[:, np.newaxis] * apart
    p, rest_p = (
        float((1 + (np.abs(drawn).max(axis=1) >= largest - 1e-12).sum()) / (1 + draws))
        for drawn, largest in ((whole, found[0]), (rest, found[1]))
    )
    half = _t(count - 1) * error
    return Drift(count, found[0], p, shift, (shift - half, shift + half), share, found[1], rest_p)


def mean_of_days(values: ArrayLike, days: ArrayLike) -> tuple[float, Interval]:
    """The mean of the films' `values` [N], and its 95% interval by t for the days; (NaN, NaN) for fewer than
    `MIN_DAYS`.
    """
    x, day = np.asarray(values, dtype=np.float64), _codes(days)
    count = int(day.max()) + 1
    half = _t(count - 1) * _error(x, day) if count >= MIN_DAYS else math.nan
    return float(x.mean()), (float(x.mean()) - half, float(x.mean()) + half)


def excess(values: ArrayLike, days: ArrayLike, expected: float) -> float:
    """How often the mean of the films' `values` [N] would lie so far above `expected` by chance: the t test that counts
    days. NaN for fewer than `MIN_DAYS`.
    """
    x, day = np.asarray(values, dtype=np.float64), _codes(days)
    count, error = int(day.max()) + 1, _error(x, day)
    if count < MIN_DAYS:
        return math.nan
    if error == 0:  # every film says the same
        return 0.0 if x.mean() > expected else 1.0
    from scipy.special import stdtr

    return float(stdtr(count - 1, (expected - x.mean()) / error))


@dataclass(frozen=True)
class _Parts:
    """A distribution function [G], and what each cluster adds to its error [C, G], whose sum is 0."""

    curve: Floats
    residuals: Floats

    @classmethod
    def of(cls, x: Floats, cluster: Ints, grid: Floats, *, clusters: int = 0) -> "_Parts":
        clusters = max(clusters, int(cluster.max()) + 1)
        at_most = np.zeros((clusters, grid.size))
        np.add.at(at_most, (cluster, np.searchsorted(grid, x)), 1)
        at_most = at_most.cumsum(axis=1)
        curve = at_most.sum(axis=0) / x.size
        sizes = np.bincount(cluster, minlength=clusters)[:, np.newaxis]
        return cls(curve, (at_most - sizes * curve) / x.size)


def _codes(names: ArrayLike) -> Ints:
    return np.unique(np.asarray(names).astype(str), return_inverse=True)[1]


def _projection(curves: Floats, on: Floats) -> Floats:
    """How much of `on` [G] is in each of `curves` [..., G], by least squares."""
    return np.asarray(curves @ on / max(float(on @ on), 1e-12))


def _drawn(residuals: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Errors [D, G] of a distribution function by chance, of what its clusters [C, G] add to it."""
    count = len(residuals)
    return math.sqrt(count / max(count - 1, 1)) * (rng.standard_normal((draws, count)) @ residuals)


def _error(x: Floats, cluster: Ints) -> float:
    """Standard error of the mean of `x` [N], whose values go together within a cluster."""
    count = int(cluster.max()) + 1
    sums = np.bincount(cluster, weights=x - x.mean())
    return math.sqrt(count / max(count - 1, 1) * float(sums @ sums)) / x.size


def _t(freedom: int) -> float:
    from scipy.special import stdtrit  # takes 0.3 s to import

    return float(stdtrit(freedom, 0.975))
