"""Samples of patients, and the scores of all samples at once, which scikit-learn would take one by one."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.scores import BINS, CLIP, Floats, Ints, Threshold, bins_of


def resampled(patients: ArrayLike, *, draws: int, seed: int = 0) -> Iterator[Floats]:
    """How often each film is in a sample of as many patients, drawn with replacement: float64 [D, N] in chunks of at
    most a million numbers, `draws` rows in all.
    """
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    chunk = max(1, 1_000_000 // patient.size)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        counts = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=rows)
        yield counts[:, patient].astype(np.float64)


def weighted_scores(y: Ints, p: Floats, threshold: Threshold, weights: Floats) -> dict[str, Floats]:
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

    in_bin = np.eye(BINS)[bins_of(p)]  # [N, 15]
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
