"""The variance of an AUC, held against DeLong's and Obuchowski's formulas written out."""

import math

import numpy as np
import pytest
from scipy import special, stats

from pneumonia.metrics.delong import auc_error
from pneumonia.metrics.intervals import intervals
from tests.metrics.conftest import draw

# DeLong et al. 1988: K-G score, from 0 to 10, and albumin, g/l, by outcome.
KG_ZERO = [0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6]
KG_ONE = [3] * 4 + [4] * 9 + [5] * 13 + [6] * 3 + [7] * 2
ALBUMIN_ZERO = [9, 17, 25, 28, 28, 29, 30, 30, 33, 36, 40, 42]
ALBUMIN_ONE = [16, 21, 23, 26, 31] + [32] * 4 + [33] * 2 + [35] * 2 + [36] * 2 + [37] * 4 + [38] * 3
ALBUMIN_ONE += [39, 40] + [41] * 2 + [42] + [43] * 3 + [45]


def psi(positive: float, negative: float) -> float:
    """DeLong et al. 1988, equation 1."""
    if positive == negative:
        return 0.5
    return 1.0 if negative < positive else 0.0


def delong(positive: list[float], negative: list[float]) -> tuple[float, float]:
    """AUC and its standard error, sums written out as in DeLong et al. 1988, equations 2 to 6."""
    m, n = len(positive), len(negative)
    auc = sum(psi(a, b) for a in positive for b in negative) / (m * n)
    v10 = [sum(psi(a, b) for b in negative) / n for a in positive]
    v01 = [sum(psi(a, b) for a in positive) / m for b in negative]
    s10 = sum((v - auc) ** 2 for v in v10) / (m - 1)
    s01 = sum((v - auc) ** 2 for v in v01) / (n - 1)
    return auc, math.sqrt(s10 / m + s01 / n)


def obuchowski(y: np.ndarray, x: np.ndarray, patient: np.ndarray) -> tuple[float, float]:
    """AUC and its standard error for films in patients, sums written out as in Obuchowski 1997."""
    everyone = np.unique(patient).tolist()
    films = {i: [x[(patient == i) & (y == label)].tolist() for label in (0, 1)] for i in everyone}
    negative, positive = ([v for i in everyone for v in films[i][label]] for label in (0, 1))
    m, n = len(positive), len(negative)
    auc = sum(psi(a, b) for a in positive for b in negative) / (m * n)
    v10 = {i: sum(sum(psi(a, b) for b in negative) / n - auc for a in films[i][1]) for i in everyone}
    v01 = {i: sum(sum(psi(a, b) for a in positive) / m - auc for b in films[i][0]) for i in everyone}
    i10, i01, both = sum(bool(f[1]) for f in films.values()), sum(bool(f[0]) for f in films.values()), len(everyone)
    s10 = i10 / ((i10 - 1) * m) * sum(v**2 for v in v10.values())
    s01 = i01 / ((i01 - 1) * n) * sum(v**2 for v in v01.values())
    s11 = both / (both - 1) * sum(v10[i] * v01[i] for i in everyone)
    return auc, math.sqrt(s10 / m + s01 / n + 2 * s11 / (m * n))


def error_of(y: np.ndarray, p: np.ndarray, patient: np.ndarray) -> tuple[float, float]:
    """AUC and its standard error, once the interval is seen to be the t interval of the logit that they make."""
    auc, error, freedom = auc_error(y, p, patient)
    low, high = intervals(y, p, 0.5, patients=patient, draws=2)["auc"]
    half = stats.t.ppf(0.975, freedom) * error / (auc * (1 - auc))
    assert special.logit([low, high]) == pytest.approx(special.logit(auc) + [-half, half], abs=1e-6)
    return auc, error


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_auc_is_delong_s_written_out(digits: int) -> None:
    y, x = draw(4, negative=40, positive=70, gap=1.5)
    p = special.expit(np.round(x + np.random.default_rng(0).normal(0, 0.1, x.size), digits))  # 0: mostly ties
    theirs = delong(p[y == 1].tolist(), p[y == 0].tolist())
    assert error_of(y, p, np.arange(y.size)) == pytest.approx(theirs, abs=1e-8)


def test_auc_of_films_in_patients_is_obuchowski_s_written_out() -> None:
    rng = np.random.default_rng(0)
    patient = rng.permutation(np.arange(90) % 30)
    y = (rng.random(90) < np.where(patient < 10, 1.0, 0.5)).astype(int)  # some patients have films of one class
    p = special.expit(np.round(1.5 * y + rng.normal(size=30)[patient] + rng.normal(size=90), 1))
    assert error_of(y, p, patient) == pytest.approx(obuchowski(y, p, patient), abs=1e-8)


@pytest.mark.parametrize(
    ("zero", "one", "auc", "error"),
    [
        pytest.param(KG_ZERO, KG_ONE, 0.7258, 0.1028, id="K-G score"),
        pytest.param(ALBUMIN_ZERO, ALBUMIN_ONE, 0.7366, 0.0927, id="albumin"),
    ],
)
def test_auc_of_the_example_in_delong_1988(zero: list[int], one: list[int], auc: float, error: float) -> None:
    """Two tests of 43 women with ovarian cancer; areas and standard errors as in SAS/STAT's manual, PROC
    LOGISTIC, "Comparing Receiver Operating Characteristic Curves".
    """
    y = np.repeat([0, 1], [len(zero), len(one)])
    assert error_of(y, np.array(zero + one) / 100, np.arange(43)) == pytest.approx((auc, error), abs=5e-5)


def test_degrees_of_freedom_are_those_of_the_patients_who_make_the_error() -> None:
    # 200 pairs of classes apart, and as many pairs of the wrong order in the middle as `wrong`.
    def freedom(wrong: int) -> float:
        logits = np.r_[np.full(200 - wrong, -9.0), np.ones(wrong), np.full(200 - wrong, 9.0), -np.ones(wrong)]
        return auc_error(np.repeat([0, 1], 200), special.expit(logits), np.arange(400))[2]

    found = [freedom(wrong) for wrong in (1, 2, 4, 8, 16)]
    assert found == sorted(found)
    # Each class's error is a count of `wrong` among 200: the variance of s² of such a count, by its fourth moment.
    for wrong, value in zip((1, 2, 4, 8, 16), found, strict=True):
        share = wrong / 200
        second, fourth = share * (1 - share), share * (1 - share) * (1 - 3 * share * (1 - share))
        assert value == pytest.approx(2 * 2 * 200 / (fourth / second**2 - 1), rel=1e-6)
