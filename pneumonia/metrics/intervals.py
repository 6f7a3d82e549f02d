"""95% intervals of the scores in `metrics`, for films that come in patients."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.metrics.delong import auc_error
from pneumonia.metrics.logistic import sigmoid
from pneumonia.metrics.resampling import resampled, weighted_scores
from pneumonia.metrics.scores import Floats, Ints, Threshold, checked, score

Interval = tuple[float, float]  # low, high
Z95 = 1.959963984540054
WILSON = ("sensitivity", "specificity", "precision", "npv")
COMBINED = ("accuracy", "balanced_accuracy")
BOOTSTRAPPED = ("average_precision", "f1", "mcc", "brier", "ece", "log_loss")


def intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: Threshold,
    *,
    patients: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95% intervals of the scores, for films that come in patients: `patients` [N] names the patient of each film.

    Proportions: Wilson 1927, with the number of films divided by the design effect of patients (Kish 1965): see
    `proportion`. Accuracy and balanced accuracy: from the intervals of specificity and sensitivity, for classes' shares
    as they are: see `combined`. AUC: DeLong 1988 with the components summed by patient (Obuchowski 1997), on the logit
    scale, by the t quantile: see `delong.auc_error`. Where each film is its own patient the errors are the plain ones.
    The rest: percentiles of a bootstrap over patients, for ECE reflected about the score. A perfect AUC has no DeLong
    variance; Wilson's interval for the smaller class's patients stands in.

    Coverage in simulation (experiments/interval_coverage.py: 624 films, patients with 1 to 4, a correlation of 0.5
    between their logits, AUC 0.95 to 0.99): AUC 94.9 to 96.0 times in 100, sensitivity and specificity 93.7 to 97.1,
    accuracy 94.2 to 95.4. Of the others, precision and F1 are covered up to always where sensitivity and specificity
    lie far apart, since the simulation keeps the classes' shares; ECE 91 to 92 times, none less than 91 times.

    A score that is NaN has the interval (NaN, NaN), and so has one that the bootstrap cannot bound: see `percentiles`.

    Raises:
        ValueError: as `score`, or `patients` is of another length.
    """
    y, p = checked(labels, probabilities)
    _, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    if patient.shape != y.shape:
        raise ValueError(f"patients must name one patient a film: {y.size} films, but {patient.size} names")
    points = score(y, p, threshold)
    called = p >= threshold
    right = called == (y == 1)
    within = {
        "sensitivity": y == 1,
        "specificity": y == 0,
        "precision": called,
        "npv": ~called,
    }
    found = {name: proportion(right[within[name]], patient[within[name]]) for name in WILSON}
    found |= dict(zip(COMBINED, combined(right, y, patient), strict=True))
    found["auc"] = _delong(y, p, patient)

    found |= bootstrap(y, p, threshold, patient, BOOTSTRAPPED, draws=draws, seed=seed)
    # Resampling adds noise to every bin, so the draws lie above the ECE as it lies above the truth: reflect them.
    low, high = found["ece"]
    found["ece"] = (float(np.maximum(0, 2 * points["ece"] - high)), float(np.maximum(0, 2 * points["ece"] - low)))
    return {name: found[name] if np.isfinite(points[name]) else (np.nan, np.nan) for name in points}


def bootstrap(
    y: Ints, p: Floats, threshold: Threshold, patient: Ints, names: Sequence[str], *, draws: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """The 2.5th and 97.5th percentile of scores of `weighted_scores` over samples of patients; NaN if no
    sample has a score, or all have the same one: see `percentiles`.
    """
    drawn: dict[str, list[Floats]] = {name: [] for name in names}
    for weights in resampled(patient, draws=draws, seed=seed):
        scores = weighted_scores(y, p, threshold, weights)
        for name in names:
            drawn[name].append(scores[name])
    found = {}
    for name, parts in drawn.items():
        found[name] = percentiles(np.concatenate(parts))
    return found


def percentiles(drawn: Floats) -> Interval:
    """The 2.5th and 97.5th percentile of the finite draws. NaN where all are the same, as where no film is called
    wrong: that none was seen makes no certainty, and a bootstrap cannot say how many there may be.
    """
    values = drawn[np.isfinite(drawn)]
    if not values.size or np.ptp(values) < 1e-12:
        return np.nan, np.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def wilson(successes: float, n: float) -> Interval:
    """Wilson's 95% interval (1927) for the share of `successes` in `n` > 0."""
    share = successes / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * float(np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def _delong(y: Ints, p: Floats, patient: Ints) -> Interval:
    from scipy.special import stdtrit  # takes 0.3 s to import, and training does not need it

    auc, error, freedom = auc_error(y, p, patient)
    if auc in (0.0, 1.0):
        fewest = min(np.unique(patient[y == label]).size for label in (0, 1))
        return proportion(np.full(fewest, auc == 1.0), np.arange(fewest))
    if not np.isfinite(error):
        return np.nan, np.nan
    logit, half = np.log(auc / (1 - auc)), stdtrit(freedom, 0.975) * error / (auc * (1 - auc))
    return float(sigmoid(logit - half)), float(sigmoid(logit + half))


def mean_error(values: Floats, patients: ArrayLike) -> float:
    """Standard error of the mean of `values` [N], which go together within a patient; NaN for a single patient."""
    _, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    k = int(patient.max()) + 1
    sums = np.bincount(patient, weights=values - values.mean())
    return float(np.sqrt(k / (k - 1) * (sums @ sums))) / len(values) if k > 1 else float("nan")


def proportion(successes: NDArray[np.bool_], patient: Ints) -> Interval:
    """Wilson's interval for the share of `successes` [n], with n divided by the design effect of `patient` [n].

    The effect is estimated from the patients' residuals, as a ratio of variances (Kish 1965), and is at least 1. The
    estimate rests on the patients who have the rarer outcome. Where there are none, a patient counts once, however
    many its films; where there are few, the effect lies between that and the estimate, as if half a patient more had
    the rarer outcome. Without that half a sensitivity of 0.98 is covered 90 times in 100 where a patient's films are
    nearly alike (a correlation of 0.9), with it 94 times.
    """
    n = successes.size
    if not n:
        return np.nan, np.nan
    share = float(successes.mean())
    _, inverse = np.unique(patient, return_inverse=True)
    k = int(inverse.max()) + 1
    effect = n / k
    if 0 < share < 1 and k > 1:
        residuals = np.bincount(inverse, weights=successes - share)
        estimate = k / (k - 1) * (n - 1) / n * float(residuals @ residuals) / (n * share * (1 - share))
        fewest = min(np.unique(inverse[successes == outcome]).size for outcome in (False, True))
        effect = (fewest * max(estimate, 1.0) + effect / 2) / (fewest + 1 / 2)
    return wilson(share * n / effect, n / effect)


def combined(right: NDArray[np.bool_], y: Ints, patient: Ints) -> tuple[Interval, Interval]:
    """Intervals of the accuracy and the balanced accuracy of films called `right` [N], from their classes' ones.

    Both are sums of specificity and sensitivity, by the classes' shares and by halves. The distances from each one's
    score to its limits of `proportion` are squared and added (Newcombe 1998; MOVER, Zou and Donner 2008), with twice
    their product times their correlation where patients have films of both classes. Wilson's interval of all films
    would allow for other shares of the classes too: it covered accuracy up to 98.5 times in 100. If a class is missing,
    accuracy is the other one's share and balanced accuracy has no interval.
    """
    if y.min() == y.max():
        return proportion(right, patient), (np.nan, np.nan)
    sizes = np.bincount(y)
    shares = np.bincount(y, weights=right) / sizes
    limits = np.array([proportion(right[y == label], patient[y == label]) for label in (0, 1)]).T
    residuals = [np.bincount(patient, weights=(y == label) * (right - shares[label])) for label in (0, 1)]
    scale = float(np.linalg.norm(residuals[0]) * np.linalg.norm(residuals[1]))
    correlation = float(residuals[0] @ residuals[1]) / scale if scale else 0.0
    found = []
    for weights in (sizes / y.size, np.full(2, 0.5)):
        below, above = (weights * np.abs(limit - shares) for limit in limits)
        low, high = (float(np.sqrt(max(0.0, d @ d + 2 * correlation * d[0] * d[1]))) for d in (below, above))
        score = float(weights @ shares)
        found.append((max(0.0, score - low), min(1.0, score + high)))
    return found[0], found[1]


def in_words(value: float, interval: Interval) -> str:
    """A score with its interval, where there is one, for reading."""
    if not math.isfinite(value):
        return "none"
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})" if math.isfinite(interval[0]) else f"{value:.3f}"
