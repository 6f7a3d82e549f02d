"""The tests that count days: held against SciPy, and against made films whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from pneumonia.metrics.drift import Reference, drift, excess, mean_of_days


def validation(rng, films=400, patients=250, share=0.6) -> Reference:
    """Films of patients, whose logits go together."""
    patient = rng.integers(0, patients, films)
    ill = (rng.random(patients) < share)[patient].astype(int)
    of_patient, of_film = rng.normal(size=patients)[patient], rng.normal(size=films)
    return Reference(np.where(ill, 2.5, -2.5) + 1.5 * (of_patient + of_film) / np.sqrt(2), ill, patient)


def served(rng, days, *, films=40, share=0.6, shift=0.0, day_spread=0.5):
    """Logits and days of films whose days differ in their level, their number of films and their share of ill ones."""
    logits, of = [], []
    for day in range(days):
        count = 1 + rng.poisson(films * np.exp(0.5 * rng.normal()))
        odds = share / (1 - share) * np.exp(day_spread * rng.normal())
        ill = rng.random(count) < odds / (1 + odds)
        level = day_spread * rng.normal() + shift
        logits.append(np.where(ill, 2.5, -2.5) + 1.5 * rng.normal(size=count) + level)
        of.append(np.full(count, day))
    return np.concatenate(logits), np.concatenate(of)


def looked(rng, seed, **changed):
    x, days = served(rng, 20, **changed)
    return drift(x, days, validation(rng), draws=400, seed=seed)


def test_the_distance_is_scipy_s():
    rng = np.random.default_rng(0)
    val, (x, days) = validation(rng, films=80), served(rng, 4, films=10, shift=0.7)
    found = drift(x, days, val, draws=50)
    assert found.distance == pytest.approx(stats.ks_2samp(x, val.logits).statistic)
    assert found.shift == pytest.approx(x.mean() - val.logits.mean())


def test_with_a_film_a_day_it_is_the_t_test():
    x = np.random.default_rng(1).normal(0.3, 1, 12)
    days = np.arange(12)
    assert excess(x, days, 0) == pytest.approx(stats.ttest_1samp(x, 0, alternative="greater").pvalue)
    interval = stats.ttest_1samp(x, 0).confidence_interval()
    mean, bounds = mean_of_days(x, days)
    assert (mean, *bounds) == pytest.approx((x.mean(), interval.low, interval.high))


@pytest.mark.parametrize("days", [4, 12])
def test_alike_films_raise_no_more_alarms_than_stated(days):
    rng, logs = np.random.default_rng(days), 150
    found = []
    for seed in range(logs):
        val, (x, of) = validation(rng), served(rng, days)
        found.append((drift(x, of, val, draws=200, seed=seed), stats.ks_2samp(x, val.logits).pvalue))
    most = stats.binom.ppf(0.9999, logs, 0.05)
    assert sum(one.p < 0.05 for one, _ in found) <= most
    assert sum(one.rest_p < 0.05 for one, _ in found) <= most
    assert sum(not one.shift_interval[0] <= 0 <= one.shift_interval[1] for one, _ in found) <= most
    assert sum(p < 0.05 for _, p in found) > most  # the test that counts films


def test_a_shift_is_found():
    rng = np.random.default_rng(2)
    found = [looked(rng, seed, shift=1.5) for seed in range(20)]
    assert sum(one.p < 0.01 for one in found) >= 18
    assert sum(one.rest_p < 0.01 for one in found) >= 16
    assert all(one.shift > 0 for one in found)


def test_another_share_of_ill_films_is_told_from_other_films():
    rng = np.random.default_rng(3)
    found = [looked(rng, seed, share=0.15) for seed in range(20)]
    assert all(one.p < 0.01 for one in found)
    assert sum(one.rest_p < 0.05 for one in found) <= 4
    assert np.mean([one.share for one in found]) == pytest.approx(0.15, abs=0.05)


def test_more_films_on_the_same_days_are_no_more_evidence():
    rng = np.random.default_rng(4)
    val, (x, days) = validation(rng), served(rng, 8, shift=0.6)
    once = drift(x, days, val, draws=2000)
    again = drift(np.repeat(x, 20), np.repeat(days, 20), val, draws=2000)
    assert again.p == pytest.approx(once.p, abs=0.03)
    assert again.shift_interval == pytest.approx(once.shift_interval)


def test_two_days_say_nothing():
    rng = np.random.default_rng(5)
    x, days = served(rng, 2, shift=5)
    found = drift(x, days, validation(rng))
    assert np.isnan([found.p, found.rest_p, *found.shift_interval, excess(x, days, 0)]).all()
    assert found.distance > 0.5


def test_what_all_films_say_is_certain():
    assert excess(np.ones(30), np.arange(30) % 5, 0.05) == 0
    assert excess(np.zeros(30), np.arange(30) % 5, 0.05) == 1


def test_what_cannot_be_compared_is_refused():
    val = validation(np.random.default_rng(6))
    with pytest.raises(ValueError, match="no served films"):
        drift([], [], val)
    with pytest.raises(ValueError, match="of one class"):
        drift([0.0], [1], Reference(val.logits, np.ones_like(val.labels), val.patients))
