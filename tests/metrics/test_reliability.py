import numpy as np
import pytest
import statsmodels.api as sm

from pneumonia.metrics.logistic import sigmoid
from pneumonia.metrics.reliability import calibration_line


def drawn(slope: float, intercept: float, *, patients: int = 400, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Films of patients, three each, whose labels follow sigmoid(slope * logit + intercept) of what is claimed."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 3)
    logit = np.repeat(rng.normal(0, 2, patients), 3) + rng.normal(0, 1, 3 * patients)
    return (rng.random(logit.size) < sigmoid(slope * logit + intercept)).astype(int), sigmoid(logit), patient


def test_the_line_is_statsmodels_with_its_sandwich_variance() -> None:
    y, p, patient = drawn(0.7, -0.4)
    found = calibration_line(y, p, patients=patient)
    logit = np.log(p / (1 - p))
    both = sm.GLM(y, sm.add_constant(logit), family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": patient}
    )
    alone = sm.GLM(y, np.ones(y.size), family=sm.families.Binomial(), offset=logit).fit(
        cov_type="cluster", cov_kwds={"groups": patient}
    )
    assert found.slope == pytest.approx(both.params[1], rel=1e-6)
    assert found.intercept == pytest.approx(alone.params[0], rel=1e-6)
    for interval, fit in ((found.slope_interval, both), (found.intercept_interval, alone)):
        more = (y.size - 1) / (y.size - fit.params.size)  # statsmodels counts the coefficients as well
        width = 2 * 1.959964 * fit.bse[-1] / np.sqrt(more)
        assert interval[1] - interval[0] == pytest.approx(width, rel=1e-5)


def test_probabilities_that_are_right_have_slope_1_and_intercept_0() -> None:
    inside = 0
    for seed in range(60):
        y, p, patient = drawn(1.0, 0.0, patients=150, seed=seed)
        line = calibration_line(y, p, patients=patient)
        inside += line.slope_interval[0] <= 1 <= line.slope_interval[1]
        inside += line.intercept_interval[0] <= 0 <= line.intercept_interval[1]
    assert 0.88 * 120 <= inside <= 120  # 95% of 120, less three standard errors


@pytest.mark.parametrize("overconfident", [True, False])
def test_a_slope_below_1_means_too_extreme(overconfident: bool) -> None:
    y, p, patient = drawn(0.5 if overconfident else 2.0, 0.0)
    line = calibration_line(y, p, patients=patient)
    assert (line.slope_interval[1] < 1) is overconfident
    assert (line.slope_interval[0] > 1) is not overconfident


def test_what_the_data_do_not_settle_is_no_number() -> None:
    apart = calibration_line([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], patients=range(4))
    assert np.isnan(apart.slope)
    assert np.isfinite(apart.intercept)
    one_class = calibration_line([1, 1, 1], [0.1, 0.5, 0.9], patients=range(3))
    assert np.isnan([one_class.slope, one_class.intercept, *one_class.slope_interval]).all()
    constant = calibration_line([0, 1, 1, 0], [0.5] * 4, patients=range(4))
    assert np.isnan(constant.slope)


def test_probabilities_of_0_and_1_are_taken() -> None:
    line = calibration_line([0, 1, 0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.3], patients=range(6))
    assert np.isfinite([line.slope, line.intercept]).all()


def test_probabilities_that_are_surely_wrong_have_a_line() -> None:
    """The logits say the contrary of the labels, and more surely than the regression can see where it starts."""
    y, p, patient = drawn(1.0, 0.0)
    x = np.clip(np.log(p / (1 - p)), -2.5, 2.5)
    plain = calibration_line(y, sigmoid(x), patients=patient)
    wrong = calibration_line(y, sigmoid(-6 * x), patients=patient)
    assert wrong.slope == pytest.approx(plain.slope / -6, rel=1e-5)
    assert sigmoid(-6 * x + wrong.intercept).sum() == pytest.approx(y.sum(), abs=1e-6)
