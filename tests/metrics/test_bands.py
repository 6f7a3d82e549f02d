import numpy as np
import pytest

from pneumonia.metrics import scores as metrics
from pneumonia.metrics.bands import bands


def films(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    y = (rng.random(n) < 0.6).astype(int)
    return y, 1 / (1 + np.exp(-rng.normal(2 * y - 1, 1.2))), np.arange(n)


def test_the_curves_lie_within_their_bands() -> None:
    y, p, patients = films()
    roc, precision_recall = bands(y, p, patients=patients)
    fpr, tpr = metrics.roc_curve(y, p)
    curve = np.interp(roc.x, fpr, tpr)
    assert np.mean((roc.low - 1e-9 <= curve) & (curve <= roc.high + 1e-9)) > 0.98
    recall, precision = metrics.precision_recall_curve(y, p)
    at = precision[np.searchsorted(recall, precision_recall.x - 1e-12)]
    assert np.mean((precision_recall.low - 1e-9 <= at) & (at <= precision_recall.high + 1e-9)) > 0.98
    assert precision_recall.low[-1] <= y.mean() + 0.1  # all are called at recall 1, or nearly


def test_a_band_is_as_wide_as_theory_says() -> None:
    y, p, patients = films(2000)
    roc, _ = bands(y, p, patients=patients)
    # At a fixed false positive rate x the variance is that of the rate itself and of where the threshold falls.
    at = np.searchsorted(roc.x, 0.2)
    fpr, tpr = metrics.roc_curve(y, p)
    rate = np.interp(0.2, fpr, tpr)
    slope = (np.interp(0.25, fpr, tpr) - np.interp(0.15, fpr, tpr)) / 0.1
    spread = np.sqrt(rate * (1 - rate) / y.sum() + slope**2 * 0.2 * 0.8 / (1 - y).sum())
    assert (roc.high - roc.low)[at] == pytest.approx(2 * 1.96 * spread, rel=0.25)


def test_films_of_one_patient_widen_the_band() -> None:
    y, p, patients = films()
    apart, together = (bands(y, p, patients=who)[0] for who in (patients, np.argsort(np.argsort(p)) // 10))
    assert (together.high - together.low).mean() > 1.15 * (apart.high - apart.low).mean()


def test_one_class_has_no_curve() -> None:
    with pytest.raises(ValueError, match="both classes"):
        bands([1, 1], [0.2, 0.9], patients=[0, 1])
