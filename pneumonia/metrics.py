"""How good probabilities are: scores, confusion matrix, curves and reliability bins.

Throughout, `labels` is int [N] with 1 for the positive class, `probabilities` is float [N], and a film is called
positive when its probability is at least `threshold`. All of it is NumPy, so that a training process need not wait
seconds for scikit-learn's import; the tests hold each score against scikit-learn's.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
CLIP = 1e-7
FEW = 30


def score(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, float]:
    """Scores by name. One that has no meaning, mostly for lack of a class, is NaN: see `warnings_for`.

    `ece` is the expected calibration error of the positive class's probability over 15 equal bins; `log_loss` is the
    mean of the two classes' mean losses in nats (probabilities clipped at 1e-7), so that it does not depend on the
    classes' shares and goes on falling where AUC stands still.

    Raises:
        ValueError: no films, shapes differ, a label other than 0 and 1, or a probability outside [0, 1].
    """
    y, p = checked(labels, probabilities)
    (tn, fp), (fn, tp) = confusion(y, p, threshold).tolist()
    weights = np.ones((1, y.size))
    weighted = {name: float(values[0]) for name, values in weighted_scores(y, p, threshold, weights).items()}
    return {
        "auc": auc_components(y, p)[0],
        "average_precision": weighted["average_precision"],
        "accuracy": (tp + tn) / y.size,
        "balanced_accuracy": weighted["balanced_accuracy"],
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp) if 0 < y.sum() < y.size else np.nan,
        "npv": _ratio(tn, tn + fn) if 0 < y.sum() < y.size else np.nan,
        "f1": weighted["f1"],
        "mcc": weighted["mcc"],
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
                f"no {name} film: {own}, balanced accuracy, precision, NPV, F1, MCC, AUC, average precision and "
                "log loss have no meaning and are left out"
            )
        elif count < FEW:
            films = "film" if count == 1 else "films"
            said.append(f"only {count} {name} {films}: {own} and what rests on it have wide intervals")
    return said


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> Ints:
    """Counts [[tn, fp], [fn, tp]]: rows are the true class, columns the predicted one."""
    y, p = checked(labels, probabilities)
    return np.bincount(2 * y + (p >= threshold), minlength=4).reshape(2, 2)


def roc_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates, each [K], from (0, 0) to (1, 1) with a point for each distinct probability."""
    y, p = checked(labels, probabilities)
    tp, called = _steps(y, p)
    positives, negatives = int(y.sum()), int(y.size - y.sum())
    if not positives or not negatives:
        return np.empty(0), np.empty(0)
    return np.r_[0, (called - tp) / negatives], np.r_[0, tp / positives]


def precision_recall_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Recall and precision, each [K], by rising recall, with a point for each distinct probability."""
    y, p = checked(labels, probabilities)
    tp, called = _steps(y, p)
    if not 0 < y.sum() < y.size:
        return np.empty(0), np.empty(0)
    return tp / y.sum(), tp / called


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats, Ints]:
    """Mean probability, observed share of positives, and number of films, each [15]; NaN where a bin is empty."""
    y, p = checked(labels, probabilities)
    bins = _bins(p)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bins, weights=p, minlength=BINS) / count
        observed = np.bincount(bins, weights=y, minlength=BINS) / count
    return mean, observed, count


def weighted_scores(y: Ints, p: Floats, threshold: float, weights: Floats) -> dict[str, Floats]:
    """The scores that are bootstrapped, each [D], for D weightings of the films: `weights` [D, N]."""
    called = p >= threshold
    total = weights.sum(axis=1)
    positive, negative = weights @ (y == 1), weights @ (y == 0)
    both = np.where((positive > 0) & (negative > 0), 1.0, np.nan)
    tp, fp = weights @ ((y == 1) & called), weights @ ((y == 0) & called)
    fn, tn = positive - tp, negative - fp

    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(p[order]) != 0, True])
    sorted_weights = weights[:, order]
    tp_k = np.cumsum(sorted_weights * y[order], axis=1)[:, ends]
    all_k = np.cumsum(sorted_weights, axis=1)[:, ends]
    gain_k = np.diff(tp_k, axis=1, prepend=0.0)
    fp_k = all_k - tp_k
    won = np.diff(fp_k, axis=1, prepend=0.0) * (tp_k - gain_k / 2)  # pairs, ties for a half

    in_bin = np.eye(BINS)[_bins(p)]  # [N, 15]
    loss = -np.log(np.clip(np.where(y == 1, p, 1 - p), CLIP, 1.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "auc": both * won.sum(axis=1) / (positive * negative),
            "average_precision": both * (gain_k * tp_k / np.maximum(all_k, 1e-12)).sum(axis=1) / positive,
            "balanced_accuracy": (tp / positive + 1 - fp / negative) / 2,
            "f1": both * 2 * tp / (tp + fp + positive),
            # One column empty: 0, the limit (Chicco & Jurman 2020).
            "mcc": both * (tp * tn - fp * fn) / np.sqrt(np.maximum((tp + fp) * positive * negative * (tn + fn), 1e-12)),
            "brier": weights @ (p - y) ** 2 / total,
            "ece": np.abs(weights @ (in_bin * (p - y)[:, None])).sum(axis=1) / total,
            "log_loss": (weights @ (loss * (y == 1)) / positive + weights @ (loss * (y == 0)) / negative) / 2,
        }


def raw_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """The mean log loss of logits as a network gives them, before any calibration, nats; films count alike."""
    return float(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean())


def best_accuracy(labels: np.ndarray, scores: np.ndarray) -> float:
    """The accuracy that the best of all thresholds would have had on these very films."""
    order = np.argsort(scores)
    below = np.concatenate([[0], np.cumsum(labels[order] == 0)])  # negative films below each of N + 1 thresholds
    above = np.concatenate([np.cumsum(labels[order][::-1] == 1)[::-1], [0]])
    between = np.concatenate([[True], np.diff(scores[order]) > 0, [True]])  # none parts films of one score
    return float((below + above)[between].max() / len(labels))


def auc_components(y: Ints, p: Floats) -> tuple[float, Floats, Floats]:
    """AUC and DeLong's components of the positive [M] and the negative films [N], from midranks (Sun & Xu 2014)."""
    positive, negative = p[y == 1], p[y == 0]
    if not positive.size or not negative.size:
        return float("nan"), np.empty(0), np.empty(0)
    ranks = _midranks(p)
    of_positive = (ranks[y == 1] - _midranks(positive)) / negative.size
    of_negative = 1 - (ranks[y == 0] - _midranks(negative)) / positive.size
    return float(of_positive.mean()), of_positive, of_negative


def number(value: float) -> float | None:
    """A score for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """Both as arrays [N], or a ValueError that says why they cannot be scored: see `score`."""
    y, p = checked_logits(labels, probabilities, what="probabilities")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], but they run from {p.min():g} to {p.max():g}")
    return y, p


def checked_logits(labels: ArrayLike, logits: ArrayLike, *, what: str = "logits") -> tuple[Ints, Floats]:
    """As `checked`, for any finite values."""
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


def _midranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
