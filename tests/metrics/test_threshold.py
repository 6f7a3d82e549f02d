"""The threshold: steadier than the plain optimum."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk

from pneumonia.metrics import calibration
from pneumonia.metrics import threshold as thresholds


def plain_threshold(y: np.ndarray, p: np.ndarray) -> float:
    fpr, tpr, at = sk.roc_curve(y, p, drop_intermediate=False)
    return float(np.clip(at[np.argmax(tpr - fpr)], 1e-7, 1 - 1e-7))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "heavy", "skew"])
def test_threshold_is_steadier_than_the_plain_optimum(shape: str) -> None:
    rng = np.random.default_rng(0)
    noise = {
        "normal": lambda y: rng.normal(0, 2.2, y.size),
        "heavy": lambda y: 1.4 * rng.standard_t(3, y.size),
        "skew": lambda y: (1 - 2 * y) * rng.gamma(2, 1.6, y.size),
    }[shape]
    y_new = np.repeat([0, 1], 20_000)
    x_new = 4 * (2 * y_new - 1) + noise(y_new)
    chosen: dict[str, list[float]] = {"plain": [], "ours": []}
    gained: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(60):
        y = np.repeat([0, 1], [200, 580])
        x = 4 * (2 * y - 1) + noise(y)
        fitted = calibration.fit_calibration(y, x)
        p = fitted.apply(x)
        for name, threshold in (("plain", plain_threshold(y, p)), ("ours", thresholds.choose_threshold(y, p))):
            at = (special.logit(threshold) - fitted.intercept) / fitted.slope
            chosen[name].append(at)
            gained[name].append(((x_new >= at)[y_new == 1].mean() + (x_new < at)[y_new == 0].mean()) / 2)
    assert np.std(chosen["ours"]) < 0.6 * np.std(chosen["plain"])
    assert np.mean(gained["ours"]) > np.mean(gained["plain"])


def test_threshold_of_classes_that_do_not_overlap_is_between_them() -> None:
    assert thresholds.choose_threshold([0, 0, 1, 1], [0, 0, 1, 1]) == pytest.approx(0.5, abs=0.01)
    assert 0.1 < thresholds.choose_threshold([0, 0, 1, 1], [0.05, 0.1, 0.9, 0.95]) < 0.9
    assert thresholds.choose_threshold([0, 1], [0.3, 0.3]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="both classes"):
        thresholds.choose_threshold([1, 1], [0.2, 0.4])
