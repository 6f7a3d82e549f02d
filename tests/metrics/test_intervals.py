import math
import sys
import time

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sk
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from experiments.interval_coverage import PREVALENCE, SCORES, coverage, sample, served, truth
from pneumonia.metrics import scores as metrics
from pneumonia.metrics.calibration import fit_calibration
from pneumonia.metrics.delong import auc_error
from pneumonia.metrics.intervals import combined, intervals, mean_error, proportion, wilson
from pneumonia.metrics.resampling import weighted_scores
from pneumonia.metrics.subgroups import predictive_values
from tests.metrics.conftest import draw


@pytest.fixture
def quick_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the scores themselves `intervals` wants to know which have a meaning, and the ECE, which one draw of the
    bootstrap tells too: scikit-learn would take most of the time of a simulation."""

    names = metrics.score([0, 1], [0.0, 1.0], 0.5)

    def score(y: np.ndarray, p: np.ndarray, threshold: float) -> dict[str, float]:
        found = weighted_scores(y, p, threshold, np.ones((1, y.size)))
        return dict.fromkeys(names, 0.0) | {name: float(value) for name, (value,) in found.items()}

    monkeypatch.setattr(sys.modules[intervals.__module__], "score", score)


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

    # DeLong 1988 from its definition: the variance of each film's share of pairs won.
    won = np.sign(p[y == 1][:, None] - p[y == 0]) / 2 + 0.5
    auc, error = won.mean(), math.sqrt(won.mean(1).var(ddof=1) / y.sum() + won.mean(0).var(ddof=1) / (1 - y).sum())
    half = stats.t.ppf(0.975, auc_error(y, p, np.arange(y.size))[2]) * error / (auc * (1 - auc))
    assert found["auc"] == pytest.approx(special.expit(special.logit(auc) + [-half, half]), abs=1e-7)


def test_wilson_where_each_film_is_its_own_patient_is_statsmodels() -> None:
    y, x = draw(3)
    found = intervals(y, special.expit(x), 0.7, patients=np.arange(y.size), draws=2)
    called = special.expit(x) >= 0.7
    for name, right in {
        "sensitivity": called[y == 1],
        "specificity": ~called[y == 0],
        "precision": y[called] == 1,
        "npv": y[~called] == 0,
    }.items():
        theirs = proportion_confint(right.sum(), right.size, alpha=0.05, method="wilson")
        assert found[name] == pytest.approx(theirs, abs=1e-12), name


def test_balanced_accuracy_where_each_film_is_its_own_patient_is_newcombe_s() -> None:
    """It is half of one and Youden's J, the difference of sensitivity and the false positive rate."""
    y, x = draw(3)
    p = special.expit(x)
    (tn, fp), (fn, tp) = metrics.confusion(y, p, 0.7)
    theirs = confint_proportions_2indep(tp, tp + fn, fp, tn + fp, method="newcomb")
    found = intervals(y, p, 0.7, patients=np.arange(y.size), draws=2)
    assert found["balanced_accuracy"] == pytest.approx((1 + np.array(theirs)) / 2, abs=1e-12)


def test_accuracy_is_squared_and_added_by_the_classes_shares() -> None:
    y, x = draw(5, negative=50, positive=150)
    p = special.expit(x)
    found, score = intervals(y, p, 0.5, patients=np.arange(200)), metrics.score(y, p, 0.5)
    for side, sign in ((0, -1), (1, 1)):
        quarter, three = (abs(found[name][side] - score[name]) for name in ("specificity", "sensitivity"))
        theirs = score["accuracy"] + sign * math.hypot(0.25 * quarter, 0.75 * three)
        assert found["accuracy"][side] == pytest.approx(theirs, abs=1e-12)


def test_scores_of_both_classes_allow_for_patients_who_have_both() -> None:
    """Against draws of patients, where a patient who is called wrong in one class is right or wrong in the other."""
    rng = np.random.default_rng(0)
    patient, y = np.repeat(np.arange(400), 2), np.tile([0, 1], 400)
    hard = rng.random(400) < 0.3
    for sign in (-1, 1):
        other = hard if sign == 1 else ~hard
        right = rng.random(800) > np.where(np.column_stack([hard, other]).ravel(), 0.35, 0.02)
        low, high = combined(right, y, patient)[1]
        draws = [right.reshape(400, 2)[rng.integers(0, 400, 400)].mean() for _ in range(1000)]
        assert high - low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.08)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_points")
def test_the_auc_s_interval_holds_the_truth_near_1_for_films_that_are_nearly_alike() -> None:
    """By the normal quantile 91 to 92 times in 100 (experiments/interval_coverage.py at a correlation of .9)."""
    rows = coverage(0.99, "balanced", correlation=0.9, draws=800, seed=0)
    assert 0.93 < rows[SCORES.index("auc")]["coverage"] < 0.97  # Monte Carlo error .008


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
    for name in ("average_precision", "f1", "mcc", "ece"):  # of a bootstrap in which nothing changes
        assert np.isnan(found[name]).all(), name


def test_one_mistake_among_patients_of_many_films_is_near_to_none() -> None:
    patient = np.repeat(np.arange(40), 3)
    right = np.full(120, True)
    assert proportion(right, patient) == wilson(40, 40)
    right[0] = False
    low, high = proportion(right, patient)
    as_films, as_patients = wilson(119, 120), wilson(119 / 3, 40)
    assert as_patients[0] < low < as_films[0]
    assert as_films[1] < high < as_patients[1]


def test_the_simulation_s_truth_is_what_its_films_have_in_the_mean() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        y, noise, patient = sample(rng, 0.5)
        assert np.unique(patient, return_counts=True)[1].max() <= 4
        p, at = served(0.97, "sensitive", y, noise)
        (elsewhere,) = predictive_values(y, p, at, [PREVALENCE], patients=patient)
        right = (p >= at) == (y == 1)
        score = {"auc": metrics.auc(y, p), "accuracy": right.mean(), "ppv": elsewhere.ppv, "npv": elsewhere.npv}
        score |= {"sensitivity": right[y == 1].mean(), "specificity": right[y == 0].mean()}
        found.append([score[name] for name in SCORES])
    errors = np.std(found, axis=0) / math.sqrt(len(found))
    true = truth(0.97, "sensitive")
    assert (np.abs(np.mean(found, axis=0) - [true[name] for name in SCORES]) < 4 * errors).all()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_points")
@pytest.mark.parametrize(
    ("threshold", "correlation", "least"),
    # 400 draws have a Monte Carlo error of .011 at .95.
    [("balanced", 0.5, 0.92), ("sensitive", 0.9, 0.92)],
)
def test_intervals_hold_the_truth_of_binormal_films(threshold: str, correlation: float, least: float) -> None:
    rows = coverage(0.97, threshold, correlation=correlation, draws=400, seed=0)
    assert [row["score"] for row in rows] == list(SCORES)
    assert all(row["coverage"] > least for row in rows), rows


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


@pytest.mark.slow
def test_intervals_are_fast() -> None:
    y, x = draw(2, negative=234, positive=390)
    start = time.perf_counter()
    intervals(y, fit_calibration(y, x).apply(x), 0.4, patients=[f"person{i // 2}" for i in range(y.size)])
    assert time.perf_counter() - start < 5


def test_intervals_are_repeatable_and_hold_the_score() -> None:
    y, x = draw(2, negative=234, positive=390)
    p = fit_calibration(y, x).apply(x)
    patients = [f"person{i // 2}" for i in range(y.size)]
    found = intervals(y, p, 0.4, patients=patients)
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


def test_a_mean_s_error_counts_patients() -> None:
    values, patients = np.random.default_rng(0).normal(size=60), np.arange(60)
    alone = mean_error(values, patients)
    assert alone == pytest.approx(values.std(ddof=1) / math.sqrt(60))
    assert mean_error(np.tile(values, 4), np.tile(patients, 4)) == pytest.approx(alone)  # copies tell nothing new
    assert math.isnan(mean_error(values, np.zeros(60)))
