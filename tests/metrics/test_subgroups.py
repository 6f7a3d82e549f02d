import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from pneumonia.metrics.intervals import wilson
from pneumonia.metrics.subgroups import Rate, by_subtype, predictive_values, ratio_limits


def test_each_subtype_by_itself() -> None:
    rows = pd.DataFrame(
        {
            "label": [0] * 4 + [1] * 6,
            "subtype": [""] * 4 + ["virus"] * 2 + ["bacteria"] * 4,
            "patient": [f"p{i}" for i in range(10)],
        },
        index=range(100, 110),  # rows of a split keep their place in the table
    )
    right = np.array([1, 1, 1, 0, 1, 0, 1, 1, 1, 0], dtype=bool)
    normal, bacteria, virus = by_subtype(rows, right)
    assert (normal.label, normal.subtype, normal.right) == (0, "", 0.75)
    assert (bacteria.label, bacteria.subtype, bacteria.films, bacteria.right) == (1, "bacteria", 4, 0.75)
    assert (virus.subtype, virus.patients, virus.right) == ("virus", 2, 0.5)
    assert bacteria.interval == pytest.approx(wilson(3, 4))
    one_patient = by_subtype(rows.assign(patient="p"), right)[1]
    assert (one_patient.patients, one_patient.interval) == (1, pytest.approx(wilson(0.75, 1)))


def test_predictive_values_are_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [400, 600])
    p = np.clip(rng.normal(0.3 + 0.4 * y, 0.25), 0, 1)
    called = p >= 0.5
    own, rare = predictive_values(y, p, 0.5, [0.6, 0.01], patients=np.arange(1000))
    assert own.ppv == pytest.approx((called & (y == 1)).sum() / called.sum())  # at the films' own share of ill ones
    assert own.npv == pytest.approx((~called & (y == 0)).sum() / (~called).sum())
    # 10,000 who come, 100 of them ill
    ill, well = 100 * called[y == 1].mean(), 9900 * called[y == 0].mean()
    assert rare.ppv == pytest.approx(ill / (ill + well))
    for value, (low, high) in ((own.ppv, own.ppv_interval), (rare.ppv, rare.ppv_interval), (own.npv, own.npv_interval)):
        assert low < value < high
    # Delta method for the logit of the PPV at a fixed prevalence (Mercaldo et al. 2007)
    sensitivity, alarm = called[y == 1].mean(), called[y == 0].mean()
    spread = np.sqrt((1 - sensitivity) / (600 * sensitivity) + (1 - alarm) / (400 * alarm))
    logit = np.log(rare.ppv / (1 - rare.ppv))
    expected = 1 / (1 + np.exp(-(logit + np.array([-1.96, 1.96]) * spread)))
    assert rare.ppv_interval == pytest.approx(expected, rel=0.1)


def test_a_rate_of_1_does_not_make_a_certainty() -> None:
    """40 of 40 ill films are called ill: the sensitivity may still be as low as Wilson says."""
    y, p = np.repeat([0, 1], [60, 40]), np.r_[np.repeat([0.2, 0.9], [50, 10]), np.full(40, 0.8)]
    (at,) = predictive_values(y, p, 0.5, [0.5], patients=np.arange(100))
    sensitivity = wilson(40, 40)[0]
    assert at.npv == 1
    assert at.npv_interval[1] == 1
    assert at.npv_interval[0] == pytest.approx(1 / (1 + (1 - sensitivity) / (50 / 60)), abs=0.03)
    assert at.ppv_interval[0] < at.ppv < at.ppv_interval[1]


@pytest.mark.parametrize(
    ("a", "n_a", "b", "n_b"), [(8, 71, 132, 133), (1, 390, 230, 234), (30, 60, 3, 9), (5, 5, 1, 40)]
)
def test_a_ratio_s_limits_are_where_the_difference_s_interval_touches_0(a: int, n_a: int, b: int, n_b: int) -> None:
    """r is the limit where a - r b, whose limits are squared and added, has an end at 0."""
    above, below = Rate(a / n_a, wilson(a, n_a)), Rate(b / n_b, wilson(b, n_b))

    def end(r: float, side: int) -> float:
        spread = np.hypot(above.value - above.limits[side], r * (below.value - below.limits[1 - side]))
        return above.value - r * below.value + (-1, 1)[side] * spread

    ratio = above.value / below.value
    low, high = ratio_limits(above, below)
    assert low == pytest.approx(brentq(end, 0, ratio, args=(0,)), abs=1e-9)
    assert high == pytest.approx(brentq(end, ratio, 1e4, args=(1,)), rel=1e-9)


def test_a_ratio_of_nothing_or_by_nothing_has_a_limit_at_0_or_none_above() -> None:
    none, some = Rate(0.0, wilson(0, 40)), Rate(0.5, wilson(20, 40))
    low, high = ratio_limits(none, some)
    assert low == 0
    assert 0 < high < 0.5
    low, high = ratio_limits(some, none)
    assert 0 < low < np.inf
    assert high == np.inf
    # Nobody is called ill: no PPV, and the NPV is the share of the well.
    (at,) = predictive_values([0] * 30 + [1] * 30, [0.1] * 60, 0.5, [0.2], patients=range(60))
    assert np.isnan([at.ppv, *at.ppv_interval]).all()
    assert at.npv == pytest.approx(0.8)
    assert at.npv_interval[0] < 0.8 < at.npv_interval[1]


def test_a_missing_class_has_no_predictive_values_and_a_wrong_prevalence_is_refused() -> None:
    assert predictive_values([1, 1], [0.2, 0.9], 0.5, [0.1], patients=[0, 1]) == []
    with pytest.raises(ValueError, match="between 0 and 1, not 5"):
        predictive_values([0, 1], [0.2, 0.9], 0.5, [0.1, 5], patients=[0, 1])
