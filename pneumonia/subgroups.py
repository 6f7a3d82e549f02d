"""What one score over all films hides: each subtype by itself, and what a call means where the disease is rarer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pneumonia.intervals import proportion, resampled
from pneumonia.metrics import checked

Interval = tuple[float, float]


@dataclass(frozen=True)
class Subgroup:
    """Films of a class and a subtype ('' if unknown), and the share of them that is called right: the sensitivity for
    the subtypes of the positive class, the specificity for those of the negative one.
    """

    label: int
    subtype: str
    films: int
    patients: int
    right: float
    interval: Interval


@dataclass(frozen=True)
class Predictive:
    """PPV and NPV where a share of `prevalence` of those who come is ill."""

    prevalence: float
    ppv: float
    ppv_interval: Interval
    npv: float
    npv_interval: Interval


def by_subtype(rows: pd.DataFrame, right: NDArray[np.bool_]) -> list[Subgroup]:
    """A subgroup a class and subtype, negative ones first, with Wilson's interval as `intervals.proportion` has it.

    Args:
        rows: label, subtype and patient of each film, as in `Index.table`.
        right: bool [N], whether the film is called what it is.
    """
    found = []
    for _, group in rows.reset_index(drop=True).groupby(["label", "subtype"]):
        its = right[group.index]
        _, patient = np.unique(group["patient"].to_numpy().astype(str), return_inverse=True)
        share, interval = float(its.mean()), proportion(its, patient)
        label, subtype = int(group["label"].iloc[0]), str(group["subtype"].iloc[0])
        found.append(Subgroup(label, subtype, len(group), int(patient.max()) + 1, share, interval))
    return found


def predictive_values(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float,
    prevalences: Sequence[float],
    *,
    patients: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
) -> list[Predictive]:
    """Bayes' rule on sensitivity and specificity, with percentiles of a bootstrap over patients. None if a class is
    missing.

    Where all films of a class are called alike, no draw has another rate: the end of the rate's Wilson interval then
    stands in for what the bootstrap cannot know.

    Raises:
        ValueError: as `metrics.score`, or a prevalence does not lie between 0 and 1.
    """
    y, p = checked(labels, probabilities)
    wrong = [value for value in prevalences if not 0 < value < 1]
    if wrong:
        raise ValueError(f"a prevalence must lie between 0 and 1, not {wrong[0]:g}")
    if not 0 < y.sum() < y.size:
        return []
    called = p >= threshold
    weights = np.concatenate([np.ones((1, y.size)), *resampled(patients, draws=draws, seed=seed)])
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = weights @ ((y == 1) & called) / (weights @ (y == 1))
        specificity = weights @ ((y == 0) & ~called) / (weights @ (y == 0))
    _, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    for rates, right, of in ((sensitivity, called, y == 1), (specificity, ~called, y == 0)):
        if rates[0] in (0.0, 1.0):
            rates[1:] = proportion(right[of], patient[of])[int(rates[0] == 0)]

    def split(values: NDArray[np.float64]) -> tuple[float, Interval]:
        drawn = values[1:][np.isfinite(values[1:])]
        low, high = np.percentile(drawn, [2.5, 97.5]) if drawn.size else (np.nan, np.nan)
        return float(values[0]), (min(float(values[0]), float(low)), max(float(values[0]), float(high)))

    found = []
    for share in prevalences:
        with np.errstate(invalid="ignore", divide="ignore"):
            ill, well = share * sensitivity, (1 - share) * specificity
            ppv, npv = ill / (ill + (1 - share) * (1 - specificity)), well / (well + share * (1 - sensitivity))
        found.append(Predictive(share, *split(ppv), *split(npv)))
    return found
