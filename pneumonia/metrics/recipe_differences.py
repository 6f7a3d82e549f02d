"""Recipes, each trained with several seeds, on the same films: the difference of their mean scores, and what chance in
seeds and films alike could do.

A recipe's seeds are to the films what readers are to cases in radiology, and the analysis is the one of readers and
cases: Obuchowski and Rockette (1995), with the degrees of freedom of Hillis (2007). The spread over seeds says how
far the mean of other seeds would lie; it holds what films do to each model by itself, but not what they do to all
models together. That is the covariance between models of different seeds, here over a bootstrap of the patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from pneumonia.metrics.paired_tests import Difference, weighted
from pneumonia.metrics.resampling import resampled
from pneumonia.metrics.scores import Floats, checked, score


@dataclass(frozen=True)
class Scores:
    """One score of a recipe's models: `values` [S] on the films as they are, `drawn` [S, D] on D samples of patients,
    which are the same ones for all recipes.
    """

    values: Floats
    drawn: Floats


def scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    thresholds: Sequence[float],
    *,
    patients: ArrayLike,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Scores]:
    """AUC and what `paired_tests.score_differences` has, of each of a recipe's models at its own threshold.

    Args:
        labels: int [N].
        probabilities: [S, N], a row a seed.
        thresholds: [S].
        patients: [N], the patient of each film.

    Raises:
        ValueError: as `metrics.score`.
    """
    models = [checked(labels, p) for p in np.asarray(probabilities)]
    each: list[dict[str, Floats]] = []
    for (y, p), threshold in zip(models, thresholds, strict=True):
        parts = [weighted(y, p, threshold, w) for w in resampled(patients, draws=draws, seed=seed)]
        each.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    points = [score(y, p, threshold) for (y, p), threshold in zip(models, thresholds, strict=True)]
    return {
        name: Scores(np.array([point[name] for point in points]), np.stack([drawn[name] for drawn in each]))
        for name in each[0]
    }


def mean_difference(first: Scores, second: Scores, *, paired: bool) -> Difference:
    """The mean over the second recipe's seeds minus that over the first's, with 95% interval and p-value by t; NaN
    where the score is undefined, or is the same for all seeds and films.

    How often the interval covered the truth in 300 simulations each (AUC 0.92 to 0.99, 200 to 600 films, seeds that
    differ not at all to much): with 3 or 5 seeds a recipe 93 to 98 times in 100, paired or not, with 2 paired ones 91,
    with 3 against 8 where seeds are what differs 90 times.

    Args:
        paired: the recipes' seeds are the same ones in the same order, so that what a seed does to both is no part of
            the difference.

    Raises:
        ValueError: a recipe has fewer than two seeds, or pairs were asked for and their numbers differ.
    """
    n, m = len(first.values), len(second.values)
    if min(n, m) < 2 or (paired and n != m):
        raise ValueError(f"a spread over seeds takes two of each recipe{', and pairs as many' * paired}: {n} and {m}")
    value = float(second.values.mean() - first.values.mean())
    if not np.isfinite(value):
        return Difference(np.nan, (np.nan, np.nan))
    drawn = np.concatenate([first.drawn, second.drawn])
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    if drawn.shape[1] < 2:
        return Difference(value, (np.nan, np.nan))
    covariance = np.cov(drawn)
    if paired:
        by_seed = [second.values - first.values]
        contrast = np.hstack([-np.eye(n), np.eye(n)])
        of_films = _between(contrast @ covariance @ contrast.T)
    else:
        by_seed = [first.values, second.values]
        of_films = _between(covariance[:n, :n]) + _between(covariance[n:, n:]) - 2 * float(covariance[:n, n:].mean())
    of_seeds = np.array([values.var(ddof=1) / len(values) for values in by_seed])
    variance = float(of_seeds.sum()) + max(0.0, of_films)
    if variance < 1e-24:
        return Difference(value, (np.nan, np.nan), 1.0 if value == 0 else np.nan)
    spread = float(np.sqrt(variance))
    few = float(sum(part**2 / (len(values) - 1) for part, values in zip(of_seeds, by_seed, strict=True)))
    freedom = min(variance**2 / few, 1e6) if few > 0 else 1e6
    half = float(stdtrit(freedom, 0.975)) * spread
    return Difference(value, (value - half, value + half), 2 * float(stdtr(freedom, -abs(value) / spread)))


def _between(covariance: Floats) -> float:
    """The mean covariance [S, S] of different seeds."""
    n = len(covariance)
    return float((covariance.sum() - np.trace(covariance)) / (n * (n - 1)))
