import math
import time

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk

from pneumonia import metrics
from pneumonia.calibration import fit_calibration
from pneumonia.intervals import intervals, wilson


def draw(seed: int, *, negative: int = 80, positive: int = 240, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits in a shuffled order, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], [negative, positive]))
    return labels, np.round(rng.normal(gap * (2 * labels - 1), 2.0), 1)


def test_wilson_by_reference() -> None:
    from scipy.stats import binomtest

    for successes, n in ((0, 7), (3, 10), (50, 50), (371, 390)):
        theirs = binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_plain_intervals_where_each_film_is_its_own_patient() -> None:
    y, x = draw(0)
    p = special.expit(x)
    found = intervals(y, p, 0.5, patients=np.arange(y.size), draws=2)
    (tn, fp), (fn, tp) = metrics.confusion(y, p, 0.5)
    assert found["sensitivity"] == pytest.approx(wilson(tp, tp + fn))
    assert found["specificity"] == pytest.approx(wilson(tn, tn + fp))
    assert found["precision"] == pytest.approx(wilson(tp, tp + fp))
    assert found["accuracy"] == pytest.approx(wilson(tn + tp, y.size))

    # DeLong 1988 from its definition: the variance of each film's share of pairs won.
    won = np.sign(p[y == 1][:, None] - p[y == 0]) / 2 + 0.5
    auc, error = won.mean(), math.sqrt(won.mean(1).var(ddof=1) / y.sum() + won.mean(0).var(ddof=1) / (1 - y).sum())
    half = 1.959964 * error / (auc * (1 - auc))
    assert found["auc"] == pytest.approx(special.expit(special.logit(auc) + [-half, half]), abs=1e-7)


def test_films_of_one_patient_count_for_less() -> None:
    y, x = draw(1)
    p = special.expit(x)
    plain = intervals(y, p, 0.5, patients=np.arange(y.size), draws=300)
    again = intervals(np.repeat(y, 3), np.repeat(p, 3), 0.5, patients=np.repeat(np.arange(y.size), 3), draws=300)
    for name, (low, high) in plain.items():
        low_again, high_again = again[name]
        assert high_again - low_again == pytest.approx(high - low, rel=0.2), name


def test_auc_of_patients_with_films_of_both_classes() -> None:
    # Each patient shifts all of its films alike, so that its negative and its positive film move together.
    rng = np.random.default_rng(0)
    patient, y = np.repeat(np.arange(150), 2), np.tile([0, 1], 150)
    x = y + 2 * rng.normal(size=150)[patient] + 0.5 * rng.normal(size=300)
    low, high = intervals(y, special.expit(x), 0.5, patients=patient, draws=2)["auc"]
    draws = []
    for _ in range(400):
        taken = (2 * rng.integers(0, 150, 150)[:, None] + [0, 1]).ravel()
        draws.append(sk.roc_auc_score(y[taken], x[taken]))
    assert high - low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.15)


def test_intervals_of_perfect_scores_have_a_width() -> None:
    y = np.repeat([0, 1], [20, 50])
    found = intervals(y, y * 0.8 + 0.1, 0.5, patients=np.arange(70), draws=20)
    for name in ("auc", "sensitivity", "specificity", "accuracy", "precision"):
        low, high = found[name]
        assert 0.8 < low < 1, name
        assert high == pytest.approx(1), name
    assert found["auc"] == pytest.approx(wilson(20, 20))


@pytest.mark.slow
def test_intervals_hold_the_truth_for_clustered_films() -> None:
    rng = np.random.default_rng(0)

    def sample(patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        patient = np.repeat(np.arange(patients), rng.choice([1, 1, 1, 2, 2, 3, 4], patients))
        y = (rng.random(patients) < 0.62).astype(int)[patient]
        x = 2.2 * (2 * y - 1) + rng.normal(0, 1.5, patients)[patient] + rng.normal(0, 1.2, patient.size)
        return y, special.expit(1.6 * x), patient

    y, p, _ = sample(200_000)
    truth, held = metrics.score(y, p, 0.5), dict.fromkeys(metrics.score(y, p, 0.5), 0)
    for seed in range(200):
        y, p, patient = sample(330)
        for name, (low, high) in intervals(y, p, 0.5, patients=patient, draws=200, seed=seed).items():
            held[name] += low <= truth[name] <= high
    assert all(count >= 170 for count in held.values()), held


def test_intervals_are_repeatable_hold_the_score_and_are_fast() -> None:
    y, x = draw(2, negative=234, positive=390)
    p = fit_calibration(y, x).apply(x)
    patients = [f"person{i // 2}" for i in range(y.size)]
    start = time.perf_counter()
    found = intervals(y, p, 0.4, patients=patients)
    assert time.perf_counter() - start < 5
    assert found == intervals(y, p, 0.4, patients=patients)
    assert found != intervals(y, p, 0.4, patients=patients, seed=1)
    for name, value in metrics.score(y, p, 0.4).items():
        low, high = found[name]
        assert 0 <= low < high, name
        assert low < value < high or name == "ece", name
    with pytest.raises(ValueError, match="one patient a film"):
        intervals(y, p, 0.4, patients=patients[1:])


@pytest.mark.parametrize(("label", "kept"), [(0, "specificity"), (1, "sensitivity")])
def test_a_missing_class_leaves_only_intervals_that_have_a_meaning(label: int, kept: str) -> None:
    found = intervals([label] * 40, np.linspace(0.1, 0.9, 40), 0.5, patients=range(40), draws=50)
    assert {name for name, (low, high) in found.items() if low <= high} == {"accuracy", "brier", "ece", kept}
