"""Logistic regression, held against statsmodels."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import special

from pneumonia.metrics import logistic
from tests.metrics.conftest import draw


@pytest.mark.parametrize("seed", range(3))
def test_logistic_regression_is_statsmodels_with_weights_and_an_offset(seed: int) -> None:
    y, x = draw(seed, gap=0.7)
    rng = np.random.default_rng(seed)
    columns, offset, weights = sm.add_constant(x)[:, ::-1], rng.normal(size=y.size), rng.random(y.size)
    weights /= weights.sum()
    found = logistic.logistic_regression(columns, y, weights, offset=offset)
    model = sm.GLM(y, columns, family=sm.families.Binomial(), offset=offset, freq_weights=weights)
    assert found == pytest.approx(model.fit(tol=1e-14).params, abs=1e-8)


@pytest.mark.parametrize("start", [-16.0, 16.0])
def test_logistic_regression_finds_its_way_from_a_flat_place(start: float) -> None:
    """All films are called wrong by the offset, or right, so surely that the loss has no curvature to speak of."""
    y, one = np.repeat([0, 1], [30, 70]), np.ones((100, 1))
    offset, weights = start * (2 * y - 1), np.full(100, 0.01)
    (found,) = logistic.logistic_regression(one, y, weights, offset=offset)
    assert special.expit(found + offset).sum() == pytest.approx(70, abs=1e-6)
    (level,) = logistic.logistic_regression(one, y, weights, offset=start)
    assert level + start == pytest.approx(math.log(70 / 30), abs=1e-9)


def test_a_ridge_keeps_the_slope_of_classes_apart_finite() -> None:
    x = np.column_stack((np.r_[np.full(20, -1.0), np.full(20, 1.0)], np.ones(40)))
    ridge = np.array([1e-5, 0.0])
    slope, level = logistic.logistic_regression(x, np.repeat([0, 1], 20), np.full(40, 1 / 40), ridge=ridge)
    assert level == pytest.approx(0, abs=1e-6)
    assert special.expit(-slope) == pytest.approx(1e-5 * slope, rel=1e-6)  # where the loss's gain is the ridge's price
