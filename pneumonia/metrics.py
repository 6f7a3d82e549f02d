"""How good probabilities are: scores, their 95% intervals, calibration, and the threshold.

Throughout, `labels` is int [N] with 1 for the positive class, `probabilities` is float [N], and a film is called
positive when its probability is at least `threshold`. All of it is NumPy, so that a training process need not wait
seconds for scikit-learn's import; the tests hold each score against scikit-learn's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
CLIP = 1e-7
FEW = 30
Z95 = 1.959963984540054
WILSON = ("accuracy", "sensitivity", "specificity", "precision")
BOOTSTRAPPED = ("average_precision", "balanced_accuracy", "f1", "brier", "ece", "log_loss")


def score(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, float]:
    """Scores by name. One that has no meaning, mostly for lack of a class, is NaN: see `warnings_for`.

    `ece` is the expected calibration error of the positive class's probability over 15 equal bins; `log_loss` is the
    mean of the two classes' mean losses in nats (probabilities clipped at 1e-7), so that it does not depend on the
    classes' shares and goes on falling where AUC stands still.

    Raises:
        ValueError: no films, shapes differ, a label other than 0 and 1, or a probability outside [0, 1].
    """
    y, p = _checked(labels, probabilities)
    (tn, fp), (fn, tp) = confusion(y, p, threshold).tolist()
    weights = np.ones((1, y.size))
    weighted = {name: float(values[0]) for name, values in _weighted(y, p, threshold, weights).items()}
    return {
        "auc": _auc(y, p)[0],
        "average_precision": weighted["average_precision"],
        "accuracy": (tp + tn) / y.size,
        "balanced_accuracy": weighted["balanced_accuracy"],
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp) if 0 < y.sum() < y.size else np.nan,
        "f1": weighted["f1"],
        "brier": weighted["brier"],
        "ece": weighted["ece"],
        "log_loss": weighted["log_loss"],
    }


def warnings_for(labels: ArrayLike, *, classes: tuple[str, str] = ("negative", "positive")) -> list[str]:
    """A sentence for each class that is missing, or so small that the scores that rest on it are loose."""
    y = np.asarray(labels)
    said = []
    for label, name in enumerate(classes):
        count = int((y == label).sum())
        own = ("specificity", "sensitivity")[label]
        if count == 0:
            said.append(
                f"no {name} film: {own}, balanced accuracy, precision, F1, AUC, average precision and log loss "
                "have no meaning and are left out"
            )
        elif count < FEW:
            films = "film" if count == 1 else "films"
            said.append(f"only {count} {name} {films}: {own} and what rests on it have wide intervals")
    return said


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> Ints:
    """Counts [[tn, fp], [fn, tp]]: rows are the true class, columns the predicted one."""
    y, p = _checked(labels, probabilities)
    return np.bincount(2 * y + (p >= threshold), minlength=4).reshape(2, 2)


def roc_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates, each [K], from (0, 0) to (1, 1) with a point for each distinct probability."""
    y, p = _checked(labels, probabilities)
    tp, called = _steps(y, p)
    positives, negatives = int(y.sum()), int(y.size - y.sum())
    if not positives or not negatives:
        return np.empty(0), np.empty(0)
    return np.r_[0, (called - tp) / negatives], np.r_[0, tp / positives]


def precision_recall_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Recall and precision, each [K], by rising recall, with a point for each distinct probability."""
    y, p = _checked(labels, probabilities)
    tp, called = _steps(y, p)
    if not 0 < y.sum() < y.size:
        return np.empty(0), np.empty(0)
    return tp / y.sum(), tp / called


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats, Ints]:
    """Mean probability, observed share of positives, and number of films, each [15]; NaN where a bin is empty."""
    y, p = _checked(labels, probabilities)
    bins = _bins(p)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bins, weights=p, minlength=BINS) / count
        observed = np.bincount(bins, weights=y, minlength=BINS) / count
    return mean, observed, count


def intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float,
    *,
    patients: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95% intervals of the scores, for films that come in patients: `patients` [N] names the patient of each film.

    Proportions: Wilson 1927, with the number of films divided by the design effect of patients (Kish 1965, never
    below 1). AUC: DeLong 1988, on the logit scale, with the components summed by patient (Obuchowski 1997); where
    each film is its own patient both are the plain methods. The rest: percentiles of a bootstrap over patients, for
    ECE reflected about the score. A perfect AUC has no DeLong variance; Wilson's interval for the smaller class's
    patients stands in. In 300 simulations with 1 to 4 films a patient the intervals held the truth 89 to 95 times in
    100, where plain Wilson and DeLong did 84 to 88 times.

    A score that is NaN has the interval (NaN, NaN).

    Raises:
        ValueError: as `score`, or `patients` is of another length.
    """
    y, p = _checked(labels, probabilities)
    names, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    if patient.shape != y.shape:
        raise ValueError(f"patients must name one patient a film: {y.size} films, but {patient.size} names")
    points = score(y, p, threshold)
    called = p >= threshold
    right = called == (y == 1)
    within = {"accuracy": np.full(y.size, True), "sensitivity": y == 1, "specificity": y == 0, "precision": called}
    found = {name: _clustered_wilson(right[within[name]], patient[within[name]]) for name in WILSON}
    found["auc"] = _delong(y, p, patient)

    rng = np.random.default_rng(seed)
    chunk = max(1, 1_000_000 // y.size)
    drawn: dict[str, list[Floats]] = {name: [] for name in BOOTSTRAPPED}
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        counts = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=rows)
        for name, values in _weighted(y, p, threshold, counts[:, patient].astype(np.float64)).items():
            drawn[name].append(values)
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if values.size else (np.nan, np.nan)
        found[name] = (float(low), float(high))
    # Resampling adds noise to every bin, so the draws lie above the ECE as it lies above the truth: reflect them.
    low, high = found["ece"]
    found["ece"] = (max(0.0, 2 * points["ece"] - high), max(0.0, 2 * points["ece"] - low))
    return {name: found[name] if np.isfinite(points[name]) else (np.nan, np.nan) for name in points}


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval (1927) for the share of `successes` in `n` > 0."""
    share = successes / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * float(np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Calibration:
    """The line in the logit that turns a network's logit into the probability that is served."""

    slope: float
    intercept: float

    def apply(self, logits: ArrayLike) -> Floats:
        """Probabilities of the logits' shape."""
        return _sigmoid(self.slope * np.asarray(logits, dtype=np.float64) + self.intercept)


def fit_calibration(labels: ArrayLike, logits: ArrayLike) -> Calibration:
    """Platt scaling (Platt 1999): logistic regression on the logit, with his smoothed targets, not class-balanced.

    The probabilities come out calibrated to the share of positives among these films. The slope is kept above 0, so
    that the order of films stays; where the logits say nothing (one value, or the wrong way round) the probability
    is all but the share of positives.

    Raises:
        ValueError: no films, shapes differ, a label other than 0 and 1, or a logit that is not finite.
    """
    y, x = _checked_logits(labels, logits)
    positives = int(y.sum())
    targets = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (y.size - positives + 2))
    slope, intercept = _logistic(x, targets, np.full(y.size, 1 / y.size), smallest=1e-3)
    return Calibration(slope, intercept)


def objective(labels: ArrayLike, logits: ArrayLike) -> float:
    """The search's objective, lower is better: class-balanced log loss after the best line in the logit, nats.

    It measures separation, not calibration: log 2 for a network that cannot tell the classes apart (or has them the
    wrong way round), towards 0 as the classes part, and unlike AUC it does not saturate. NaN if a class is missing.

    Raises:
        ValueError: as `fit_calibration`.
    """
    y, x = _checked_logits(labels, logits)
    positives = int(y.sum())
    if positives in (0, y.size):
        return float("nan")
    weights = np.where(y == 1, 0.5 / positives, 0.5 / (y.size - positives))
    slope, intercept = _logistic(x, y.astype(np.float64), weights, smallest=0.0)
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
    y, p = _checked(labels, probabilities)
    if not 0 < y.sum() < y.size:
        raise ValueError("choosing a threshold needs films of both classes, but the labels hold one class only")
    clipped = np.clip(p, CLIP, 1 - CLIP)
    logits = np.log(clipped / (1 - clipped))
    negative, positive = logits[y == 0], logits[y == 1]
    scale = max(0.28 * (negative.std() + positive.std()) / 2, 0.05)
    grid = np.linspace(logits.min(), logits.max(), 401)
    gain = _sigmoid((grid[:, None] - negative) / scale).mean(1) - _sigmoid((grid[:, None] - positive) / scale).mean(1)
    return float(_sigmoid(grid[gain >= gain.max() - 1e-9].mean()))  # the middle of a plateau


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    y, p = _checked_logits(labels, probabilities, what="probabilities")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], but they run from {p.min():g} to {p.max():g}")
    return y, p


def _checked_logits(labels: ArrayLike, logits: ArrayLike, *, what: str = "logits") -> tuple[Ints, Floats]:
    y, x = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if y.ndim != 1 or y.shape != x.shape:
        raise ValueError(f"labels and {what} must both be [N], but their shapes are {y.shape} and {x.shape}")
    if not y.size:
        raise ValueError("there are no films to score: labels are empty")
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, but hold {sorted(set(y.tolist()) - {0, 1})[:3]}")
    if not np.isfinite(x).all():
        raise ValueError(f"{what} must be finite, but {int((~np.isfinite(x)).sum())} of {x.size} are not")
    return y.astype(np.int64), x


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _bins(p: Floats) -> Ints:
    return np.minimum((p * BINS).astype(np.int64), BINS - 1)


def _steps(y: Ints, p: Floats) -> tuple[Ints, Ints]:
    """True positives and films called positive, each [K], at each distinct probability as threshold, falling."""
    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(p[order]) != 0, True])
    return np.cumsum(y[order])[ends], ends + 1


def _weighted(y: Ints, p: Floats, threshold: float, weights: Floats) -> dict[str, Floats]:
    """The scores that are bootstrapped, each [D], for D weightings of the films: `weights` [D, N]."""
    called = p >= threshold
    total = weights.sum(axis=1)
    positive, negative = weights @ (y == 1), weights @ (y == 0)
    both = np.where((positive > 0) & (negative > 0), 1.0, np.nan)
    tp, fp = weights @ ((y == 1) & called), weights @ ((y == 0) & called)

    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(p[order]) != 0, True])
    sorted_weights = weights[:, order]
    tp_k = np.cumsum(sorted_weights * y[order], axis=1)[:, ends]
    all_k = np.cumsum(sorted_weights, axis=1)[:, ends]
    gain_k = np.diff(tp_k, axis=1, prepend=0.0)

    in_bin = np.eye(BINS)[_bins(p)]  # [N, 15]
    loss = -np.log(np.clip(np.where(y == 1, p, 1 - p), CLIP, 1.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "average_precision": both * (gain_k * tp_k / np.maximum(all_k, 1e-12)).sum(axis=1) / positive,
            "balanced_accuracy": (tp / positive + 1 - fp / negative) / 2,
            "f1": both * 2 * tp / (tp + fp + positive),
            "brier": weights @ (p - y) ** 2 / total,
            "ece": np.abs(weights @ (in_bin * (p - y)[:, None])).sum(axis=1) / total,
            "log_loss": (weights @ (loss * (y == 1)) / positive + weights @ (loss * (y == 0)) / negative) / 2,
        }


def _auc(y: Ints, p: Floats) -> tuple[float, Floats, Floats]:
    """AUC and DeLong's components of the positive [M] and the negative films [N], from midranks (Sun & Xu 2014)."""
    positive, negative = p[y == 1], p[y == 0]
    if not positive.size or not negative.size:
        return float("nan"), np.empty(0), np.empty(0)
    ranks = _midranks(p)
    of_positive = (ranks[y == 1] - _midranks(positive)) / negative.size
    of_negative = 1 - (ranks[y == 0] - _midranks(negative)) / positive.size
    return float(of_positive.mean()), of_positive, of_negative


def _midranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _delong(y: Ints, p: Floats, patient: Ints) -> tuple[float, float]:
    auc, of_positive, of_negative = _auc(y, p)
    if not of_positive.size:
        return np.nan, np.nan
    if auc in (0.0, 1.0):
        fewest = min(np.unique(patient[y == label]).size for label in (0, 1))
        return _clustered_wilson(np.full(fewest, auc == 1.0), np.arange(fewest))
    size = patient.max() + 1
    sums = [
        np.bincount(patient[y == label], weights=values - auc, minlength=size)
        for label, values in ((1, of_positive), (0, of_negative))
    ]
    held = [np.unique(patient[y == label]).size for label in (1, 0)]
    if min(held) < 2:
        return np.nan, np.nan
    of_patient = size / (size - 1)
    variance = sum(
        (k / (k - 1) * (part @ part) / n**2 for k, part, n in zip(held, sums, (y.sum(), (1 - y).sum()), strict=True)),
        start=2 * of_patient * (sums[0] @ sums[1]) / (y.sum() * (1 - y).sum()),
    )
    logit, half = np.log(auc / (1 - auc)), Z95 * np.sqrt(max(variance, 0.0)) / (auc * (1 - auc))
    return float(_sigmoid(logit - half)), float(_sigmoid(logit + half))


def _clustered_wilson(successes: NDArray[np.bool_], patient: Ints) -> tuple[float, float]:
    """Wilson's interval for the share of `successes` [n], with n divided by the design effect of `patient` [n]."""
    n = successes.size
    if not n:
        return np.nan, np.nan
    share = float(successes.mean())
    _, inverse = np.unique(patient, return_inverse=True)
    k = int(inverse.max()) + 1
    if 0 < share < 1 and 1 < k < n:
        residuals = np.bincount(inverse, weights=successes - share)
        effect = k / (k - 1) * (n - 1) / n * float(residuals @ residuals) / (n * share * (1 - share))
        size = n / max(effect, 1.0)
    else:
        size = float(k)  # one patient, or no spread to estimate the effect from: a patient counts once
    return wilson(share * size, size)


def _sigmoid(x: Any) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(x, dtype=np.float64))))


def _logistic(x: Floats, targets: Floats, weights: Floats, *, smallest: float) -> tuple[float, float]:
    """Slope and intercept that minimise the weighted log loss; the slope in units of x's spread is >= `smallest`.

    Damped Newton. A ridge of 1e-5 on the slope keeps it finite for classes that do not overlap.
    """
    centre, spread = x.mean(), x.std()
    constant = spread <= 1e-9 * (1 + abs(centre))
    z = np.zeros_like(x) if constant else (x - centre) / spread
    ridge = 1e-5

    def loss(at: Floats) -> float:
        line = at[0] * z + at[1]
        return float(weights @ (np.logaddexp(0, line) - targets * line) + ridge / 2 * at[0] ** 2)

    share = float(np.clip(weights @ targets / weights.sum(), 1e-6, 1 - 1e-6))
    at = np.array([smallest, np.log(share / (1 - share))])
    # The loss is convex: where its unbounded optimum lies below the bound, the bound is the optimum.
    free = not constant and (weights * (_sigmoid(at[0] * z + at[1]) - targets)) @ z < 0
    now = loss(at)
    for _ in range(50):
        q = _sigmoid(at[0] * z + at[1])
        error, curve = weights * (q - targets), weights * q * (1 - q)
        gradient = np.array([error @ z + ridge * at[0], error.sum()])
        cross = curve @ z
        hessian = np.array([[curve @ z**2 + ridge, cross], [cross, curve.sum() + 1e-12]])
        step = np.linalg.solve(hessian, gradient) if free else np.array([0.0, gradient[1] / hessian[1, 1]])
        if float(gradient @ step) < 1e-12:
            break
        while (then := loss(at - step)) > now and np.abs(step).max() > 1e-12:
            step /= 2
        at, now = at - step, then
    slope = float(at[0])
    if constant:
        return slope, float(at[1] - slope * centre)
    return slope / float(spread), float(at[1] - slope * centre / spread)
