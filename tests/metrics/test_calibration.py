"""Calibration is Platt's, keeps the order and is finite."""

import numpy as np
import pytest
from scipy import optimize, special

from pneumonia.metrics import calibration
from pneumonia.metrics import scores as metrics
from tests.metrics.conftest import HARD, draw


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("negative", "positive"), [(80, 240), (3, 300), (1, 2)])
def test_calibration_is_platt_s(seed: int, negative: int, positive: int) -> None:
    y, x = draw(seed, negative=negative, positive=positive)
    targets = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(at: np.ndarray) -> float:
        line = at[0] * x + at[1]
        return float((np.logaddexp(0, line) - targets * line).mean())

    best = optimize.minimize(loss, [1.0, 0.0], bounds=[(1e-4, None), (None, None)]).fun
    fitted = calibration.fit_calibration(y, x)
    assert fitted.slope > 0
    assert loss(np.array([fitted.slope, fitted.intercept])) <= best + 1e-3 * (negative + positive < 10) + 1e-5


def test_calibration_mends_a_network_that_is_too_sure_at_the_films_own_share() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(1, 2, 20_000)
    y = (rng.random(true.size) < special.expit(true)).astype(int)
    fitted = calibration.fit_calibration(y, 4 * true - 3)
    assert (fitted.slope, fitted.intercept) == (pytest.approx(0.25, abs=0.01), pytest.approx(0.75, abs=0.05))
    assert fitted.apply(4 * true - 3).mean() == pytest.approx(y.mean(), abs=1e-3)
    assert metrics.score(y, fitted.apply(4 * true - 3), 0.5)["ece"] < 0.02


@pytest.mark.parametrize("case", HARD)
def test_calibration_keeps_the_order_and_is_finite(case: str) -> None:
    labels, x = HARD[case]
    fitted = calibration.fit_calibration(labels, x)
    p = fitted.apply(x)
    assert fitted.slope > 0
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert (np.diff(p[np.argsort(x)]) >= 0).all()
    assert abs(p.mean() - np.mean(labels)) < 0.26 if len(labels) < 20 else abs(p.mean() - np.mean(labels)) < 0.02


def test_a_calibration_can_be_undone() -> None:
    line, logits = calibration.Calibration(1.7, -0.4), np.linspace(-15, 15, 31)
    np.testing.assert_allclose(line.undo(line.apply(logits)), logits, rtol=1e-3, atol=1e-9)
    assert np.isfinite(line.undo([0.0, 1.0])).all()
