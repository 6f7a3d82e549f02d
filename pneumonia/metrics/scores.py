"""How good probabilities are: scores, confusion matrix, curves and reliability bins.

Throughout, `labels` is int [N] with 1 for the positive class, `probabilities` is float [N], and a film is called
positive when its probability is at least `threshold`. The scores are scikit-learn's; here is what it does without a
class, and what it does not have.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Threshold = float | Floats  # one, or each film's own [N]

BINS = 15
CLIP = 1e-7
FEW = 30


def score(labels: ArrayLike, probabilities: ArrayLike, threshold: Threshold) -> dict[str, float]:
    """Scores by name. One that is undefined, mostly for lack of a class, is NaN: see `warnings_for`.

    `ece` is the expected calibration error of the positive class's probability over 15 equal bins; `log_loss` is the
    mean of the two classes' mean losses in nats (probabilities clipped at 1e-7), so that it does not depend on the
    classes' shares and goes on falling where AUC stands still.

    Raises:
        ValueError: no films, shapes differ, a label other than 0 and 1, or a probability outside [0, 1].
    """
    y, p = checked(labels, probabilities)
    called = (p >= threshold).astype(np.int64)
    none = float("nan")
    both = 0 < y.sum() < y.size
    mean, observed, count = reliability_bins(y, p)
    filled = count > 0
    with _scikit_learn() as sk:
        (npv, precision), (specificity, sensitivity), (_, f1), _ = sk.precision_recall_fscore_support(
            y, called, labels=[0, 1], zero_division=none
        )
        scores = {
            "auc": sk.auc(*sk.roc_curve(y, p)[:2]) if both else none,
            "average_precision": sk.average_precision_score(y, p) if both else none,
            "accuracy": sk.accuracy_score(y, called),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": precision if both else none,
            "npv": npv if both else none,
            "f1": f1 if both else none,
            "mcc": sk.matthews_corrcoef(y, called) if both else none,
            "brier": sk.brier_score_loss(y, p, labels=[0, 1]),
            "ece": np.abs(mean - observed)[filled] @ count[filled] / y.size,
            "log_loss": sk.log_loss(y, _clipped(y, p), sample_weight=balanced_weights(y)) if both else none,
        }
    return {name: float(value) for name, value in scores.items()}


def auc(labels: ArrayLike, values: ArrayLike) -> float:
    """The area under the ROC curve of any finite `values` [N], of which positive films should have the higher; NaN if
    a class is missing.

    Raises:
        ValueError: as `score`, but for the values' range.
    """
    y, x = checked_logits(labels, values, what="values")
    if not 0 < y.sum() < y.size:
        return float("nan")
    with _scikit_learn() as sk:
        return float(sk.roc_auc_score(y, x))


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


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: Threshold) -> Ints:
    """Counts [[tn, fp], [fn, tp]]: rows are the true class, columns the predicted one."""
    y, p = checked(labels, probabilities)
    with _scikit_learn() as sk:
        return np.asarray(sk.confusion_matrix(y, (p >= threshold).astype(np.int64), labels=[0, 1]))


def roc_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates, each [K], from (0, 0) to (1, 1) with a point for each distinct probability; empty
    if a class is missing.
    """
    y, p = checked(labels, probabilities)
    if not 0 < y.sum() < y.size:
        return np.empty(0), np.empty(0)
    with _scikit_learn() as sk:
        false, true, _ = sk.roc_curve(y, p, drop_intermediate=False)
    return false, true


def precision_recall_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Recall and precision, each [K], by rising recall, with a point for each distinct probability; empty if a class is
    missing.
    """
    y, p = checked(labels, probabilities)
    if not 0 < y.sum() < y.size:
        return np.empty(0), np.empty(0)
    with _scikit_learn() as sk:
        precision, recall, _ = sk.precision_recall_curve(y, p)
    return recall[-2::-1], precision[-2::-1]  # scikit-learn's last point, recall 0 and precision 1, is no threshold's


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats, Ints]:
    """Mean probability, observed share of positives, and number of films, each [15]; NaN where a bin is empty.

    Scikit-learn's `calibration_curve` leaves empty bins out and counts no films.
    """
    y, p = checked(labels, probabilities)
    bins = bins_of(p)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bins, weights=p, minlength=BINS) / count
        observed = np.bincount(bins, weights=y, minlength=BINS) / count
    return mean, observed, count


def raw_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """The mean log loss of logits as a network gives them, before any calibration, nats; films count alike."""
    return float(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean())


def best_accuracy(labels: np.ndarray, scores: np.ndarray) -> float:
    """The accuracy at the threshold that is best on these very films."""
    order = np.argsort(scores)
    below = np.concatenate([[0], np.cumsum(labels[order] == 0)])  # negative films below each of N + 1 thresholds
    above = np.concatenate([np.cumsum(labels[order][::-1] == 1)[::-1], [0]])
    between = np.concatenate([[True], np.diff(scores[order]) > 0, [True]])  # none parts films of one score
    return float((below + above)[between].max() / len(labels))


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


def bins_of(p: Floats) -> Ints:
    """Which of the 15 equal bins each probability lies in, from 0; a bin has its lower edge."""
    return np.minimum((p * BINS).astype(np.int64), BINS - 1)


def balanced_weights(y: Ints) -> Floats:
    """A weight a film, 1 in all, by which both classes count alike; `y` [N] holds both."""
    positives = int(y.sum())
    return np.where(y == 1, 0.5 / positives, 0.5 / (y.size - positives))


def _clipped(y: Ints, p: Floats) -> Floats:
    """The probabilities of both classes [N, 2]; that of a film's own is at least `CLIP`."""
    own = np.maximum(np.where(y == 1, p, 1 - p), CLIP)
    return np.where(y[:, None] == [0, 1], own[:, None], 1 - own[:, None])


@contextmanager
def _scikit_learn() -> Iterator[ModuleType]:
    """`sklearn.metrics`, for arrays that `checked` has seen: its own checks cost more than the scores."""
    import sklearn  # takes 1 to 2 s to import, 0.4 after seaborn; only needed here
    from sklearn import metrics as sk

    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        yield sk


def mean_and_spread(mean: float, spread: float) -> str:
    """A mean and its standard deviation, as figures and tables show them; NaN is left out."""
    if not np.isfinite(mean):
        return "none"
    return f"{mean:.4f} ± {spread:.4f}" if np.isfinite(spread) else f"{mean:.4f}"
