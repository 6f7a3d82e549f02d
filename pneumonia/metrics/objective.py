"""The number that epochs and the trials of a search are ranked by."""

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.calibration import fit_calibration
from pneumonia.metrics.logistic import fit_line
from pneumonia.metrics.scores import balanced_weights, checked_logits, raw_loss, score
from pneumonia.metrics.threshold import choose_threshold

PAINTED = 0.1  # share of the positive class that painted films have in the objective


def objective(labels: ArrayLike, logits: ArrayLike, painted: ArrayLike = ()) -> float:
    """The search's objective, lower is better: class-balanced log loss after the best line in the logit, nats.

    It measures separation, not calibration: log 2 for a network that cannot tell the classes apart (or has them the
    wrong way round), towards 0 as the classes part, and unlike AUC it does not saturate. NaN if a class is missing.

    Args:
        painted: logits of normal films with a painted opacity, which make up a tenth of the positive class, however
            many they are; they do not replace a missing class.

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
    slope, intercept = fit_line(x, y.astype(np.float64), weights, smallest=0.0)
    return float(weights @ np.logaddexp(0, np.where(y == 1, -1, 1) * (slope * x + intercept)))


def epoch_scores(labels: np.ndarray, logits: np.ndarray, painted: np.ndarray) -> dict[str, float]:
    """An epoch's scores on the validation films by metric, at the threshold that would be chosen now; losses are NaN if
    a logit is not finite.

    Args:
        labels: [N], of the films as they are.
        logits: of the films as they are, perhaps followed by those of their corrupted copies, [N] or [3 N].
        painted: logits of normal films with a painted opacity, which count as ill in the objective alone; may be empty.
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
