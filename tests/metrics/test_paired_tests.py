import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from pneumonia.metrics.logistic import sigmoid
from pneumonia.metrics.paired_tests import auc_difference, holm, score_differences, sign_test


def films(n: int = 200, *, gain: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and the correlated probabilities of two models; the second sees `gain` more of the truth."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.6).astype(int)
    common = rng.normal(size=n)
    a, b = ((1 + more) * (2 * y - 1) + common + 0.7 * rng.normal(size=n) for more in (0.0, gain))
    return y, sigmoid(a), sigmoid(b)


def delong_by_pairs(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference and its variance as DeLong et al. (1988) write them: over all pairs of films."""
    aucs, tens, ones = [], [], []
    for p in (a, b):
        pairs = (p[y == 1][:, None] > p[y == 0]) + 0.5 * (p[y == 1][:, None] == p[y == 0])
        aucs.append(pairs.mean())
        tens.append(pairs.mean(axis=1))
        ones.append(pairs.mean(axis=0))
    covariance = np.cov(tens) / (y == 1).sum() + np.cov(ones) / (y == 0).sum()
    contrast = np.array([-1, 1])
    return aucs[1] - aucs[0], float(contrast @ covariance @ contrast)


@pytest.mark.parametrize("digits", [1, 6])
def test_the_test_of_auc_is_delong_s(digits: int) -> None:
    y, a, b = films(gain=0.3)
    a, b = a.round(digits), b.round(digits)  # one digit: many ties
    value, variance = delong_by_pairs(y, a, b)
    found = auc_difference(y, a, b, patients=np.arange(y.size))
    assert found.value == pytest.approx(value)
    assert found.interval == pytest.approx((value - 1.959964 * variance**0.5, value + 1.959964 * variance**0.5))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(value) / variance**0.5))


def test_films_of_one_patient_count_less() -> None:
    y, a, b = films(60, gain=0.5)
    alone = auc_difference(y, a, b, patients=np.arange(60))
    four_times = auc_difference(*(np.tile(x, 4) for x in (y, a, b)), patients=np.tile(np.arange(60), 4))
    as_if_new = auc_difference(*(np.tile(x, 4) for x in (y, a, b)), patients=np.arange(240))
    assert four_times.value == pytest.approx(alone.value)
    assert four_times.interval == pytest.approx(alone.interval, rel=0.02)  # copies tell nothing new
    assert as_if_new.p < four_times.p


def test_p_values_are_uniform_where_the_models_are_alike() -> None:
    drawn = []
    for seed in range(300):
        y, a, b = films(120, seed=seed)
        drawn.append(auc_difference(y, a, b, patients=np.arange(120)).p)
    assert stats.kstest(drawn, "uniform").pvalue > 0.001
    assert 0.02 <= np.mean(np.array(drawn) < 0.05) <= 0.09


def test_what_these_films_cannot_tell_has_no_interval() -> None:
    """Neither of both right everywhere in a class, nor of one patient in it, does a difference of 0 become certain."""
    y, perfect = np.repeat([0, 1], [30, 20]), np.repeat([0.1, 0.9], [30, 20])
    constant = auc_difference(y, np.full(50, 0.5), perfect, patients=np.arange(50))
    assert constant.value == 0.5
    assert np.isnan([*constant.interval, constant.p]).all()
    found = score_differences(y, perfect, np.where(perfect < 0.5, 0.6, 0.8), (0.5, 0.5), patients=np.arange(50))
    assert found["sensitivity"].value == 0
    assert np.isnan(found["sensitivity"].interval).all()
    alone = auc_difference(
        [0] * 9 + [1], np.r_[np.zeros(4), np.ones(5), 0.5], np.arange(10) / 9, patients=np.arange(10)
    )
    assert alone.value > 0
    assert np.isnan([*alone.interval, alone.p]).all()


def test_the_same_model_twice_is_no_difference() -> None:
    y, a, _ = films()
    assert auc_difference(y, a, a, patients=np.arange(y.size)).p == 1.0
    assert sign_test(a > 0.5, a > 0.5, patients=np.arange(y.size)) == 1.0
    assert all(
        d.value == 0 and np.isnan(d.interval).all() for d in score_differences(y, a, a, (0.5, 0.5), patients=y).values()
    )


def test_the_sign_test_is_mcnemar_s_where_each_film_is_a_patient() -> None:
    y, a, b = films(gain=0.5)
    right_a, right_b = ((p >= 0.5) == (y == 1) for p in (a, b))
    table = [
        [(right_a & right_b).sum(), (right_a & ~right_b).sum()],
        [(~right_a & right_b).sum(), (~right_a & ~right_b).sum()],
    ]
    assert sign_test(right_a, right_b, patients=np.arange(y.size)) == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_the_sign_test_counts_patients() -> None:
    right_b = np.ones(12, dtype=bool)
    nothing = np.zeros(12, dtype=bool)
    assert sign_test(nothing, right_b, patients=range(12)) == pytest.approx(2 / 2**12)
    assert sign_test(nothing, right_b, patients=np.arange(12) // 4) == pytest.approx(2 / 2**3)  # three patients of four
    assert sign_test(nothing, right_b, patients=[0] * 12) == 1.0
    # surpluses 3, 1, 1: all sign patterns by hand; |sum| >= 3 in 6 of 8
    patients = [0, 0, 0, 1, 2]
    first, second = np.array([0, 0, 0, 1, 0], dtype=bool), np.array([1, 1, 1, 0, 1], dtype=bool)
    assert sign_test(first, second, patients=patients) == pytest.approx(6 / 8)


def test_score_differences_have_their_signs_and_intervals() -> None:
    y, a, b = films(400, gain=0.6)
    found = score_differences(y, a, b, (0.5, 0.5), patients=np.arange(400))
    for name in ("accuracy", "sensitivity", "specificity", "balanced_accuracy"):
        assert found[name].interval[0] < found[name].value < found[name].interval[1]
    accuracy = found["accuracy"]
    right_a, right_b = ((p >= 0.5) == (y == 1) for p in (a, b))
    assert accuracy.value == pytest.approx(right_b.mean() - right_a.mean())
    spread = np.std(right_b.astype(float) - right_a, ddof=1) / 20
    assert accuracy.interval[1] - accuracy.interval[0] == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert found["log_loss"].interval[1] < 0  # lower is better


def test_holm_is_statsmodels() -> None:
    p = [0.01, 0.04, 0.03, 0.5]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert np.isnan(holm([0.01, np.nan])[1])
    assert holm([0.01, np.nan])[0] == 0.01
