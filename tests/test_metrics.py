import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from pneumonia import metrics


def draw(seed: int, *, negative: int = 80, positive: int = 240, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits in a shuffled order, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], [negative, positive]))
    return labels, np.round(rng.normal(gap * (2 * labels - 1), 2.0), 1)


def binary(draws: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Both classes, few distinct probabilities."""
    rest = draws(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), max_size=30))
    pairs = [(0, draws(st.integers(0, 8))), (1, draws(st.integers(0, 8))), *rest]
    return np.array([label for label, _ in pairs]), np.array([step / 8 for _, step in pairs])


films = st.composite(binary)()


@settings(max_examples=60, deadline=None)
@given(films, st.integers(0, 8))
def test_scores_are_scikit_learn_s(drawn: tuple[np.ndarray, np.ndarray], step: int) -> None:
    y, p = drawn
    called = (p >= step / 8).astype(int)
    s = metrics.score(y, p, step / 8)
    assert s["auc"] == pytest.approx(sk.roc_auc_score(y, p))
    assert s["average_precision"] == pytest.approx(sk.average_precision_score(y, p))
    assert s["accuracy"] == pytest.approx(sk.accuracy_score(y, called))
    assert s["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, called))
    assert s["sensitivity"] == pytest.approx(sk.recall_score(y, called))
    assert s["specificity"] == pytest.approx(sk.recall_score(y, called, pos_label=0))
    assert s["brier"] == pytest.approx(sk.brier_score_loss(y, p))
    assert s["f1"] == pytest.approx(sk.f1_score(y, called, zero_division=0))
    assert s["precision"] == (
        pytest.approx(sk.precision_score(y, called)) if called.any() else pytest.approx(math.nan, nan_ok=True)
    )
    weights = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    assert s["log_loss"] == pytest.approx(sk.log_loss(y, clipped, sample_weight=weights), abs=1e-6)
    assert metrics.confusion(y, p, step / 8).tolist() == sk.confusion_matrix(y, called).tolist()


@settings(max_examples=30, deadline=None)
@given(films)
def test_curves_are_scikit_learn_s(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = drawn
    fpr, tpr, _ = sk.roc_curve(y, p, drop_intermediate=False)
    for ours, theirs in zip(metrics.roc_curve(y, p), (fpr, tpr), strict=True):
        np.testing.assert_allclose(ours, theirs)
    precision, recall, _ = sk.precision_recall_curve(y, p)
    ours_recall, ours_precision = metrics.precision_recall_curve(y, p)
    np.testing.assert_allclose(ours_recall, recall[-2::-1])  # scikit-learn appends the point (0, 1)
    np.testing.assert_allclose(ours_precision, precision[-2::-1])


def test_ece_by_hand() -> None:
    # Two bins of two films each: |.05 - .5| and |.95 - 1|.
    s = metrics.score([0, 1, 1, 1], [0.05, 0.05, 0.95, 0.95], 0.5)
    assert s["ece"] == pytest.approx((0.45 + 0.05) / 2)
    mean, observed, count = metrics.reliability_bins([0, 1, 1, 1], [0.05, 0.05, 0.95, 1.0])
    assert (count[0], count[-1], count.sum()) == (2, 2, 4)
    assert (mean[-1], observed[0]) == (pytest.approx(0.975), 0.5)
    assert np.isnan(mean[1:-1]).all()


@pytest.mark.parametrize(("label", "kept"), [(0, "specificity"), (1, "sensitivity")])
def test_a_missing_class_leaves_only_what_has_a_meaning(label: int, kept: str) -> None:
    s = metrics.score([label] * 40, np.linspace(0.1, 0.9, 40), 0.5)
    assert {name for name, value in s.items() if math.isfinite(value)} == {"accuracy", "brier", "ece", kept}
    found = metrics.intervals([label] * 40, np.linspace(0.1, 0.9, 40), 0.5, patients=range(40), draws=50)
    assert {name for name, (low, high) in found.items() if low <= high} == {"accuracy", "brier", "ece", kept}
    (warning,) = metrics.warnings_for([label] * 40, classes=("NORMAL", "PNEUMONIA"))
    assert ("NORMAL", "PNEUMONIA")[1 - label] in warning
    assert metrics.roc_curve([label], [0.3])[0].size == metrics.precision_recall_curve([label], [0.3])[0].size == 0


def test_a_small_class_is_warned_of() -> None:
    assert metrics.warnings_for([0] * 30 + [1] * 30) == []
    (warning,) = metrics.warnings_for([0] * 10 + [1] * 1000)
    assert warning.startswith("only 10 negative films: specificity")
    assert metrics.warnings_for([0] + [1] * 30)[0].startswith("only 1 negative film:")


@pytest.mark.parametrize(
    ("labels", "probabilities", "said"),
    [
        ([], [], "empty"),
        ([0, 1], [0.5], "shapes"),
        ([0, 2], [0.5, 0.5], r"0 or 1, but hold \[2\]"),
        ([0, 1], [0.5, math.nan], "1 of 2 are not"),
        ([0, 1], [0.5, 1.5], "run from 0.5 to 1.5"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(labels: list[int], probabilities: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        metrics.score(labels, probabilities, 0.5)


def test_wilson_by_reference() -> None:
    from scipy.stats import binomtest

    for successes, n in ((0, 7), (3, 10), (50, 50), (371, 390)):
        theirs = binomtest(successes, n).proportion_ci(method="wilson")
        assert metrics.wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_plain_intervals_where_each_film_is_its_own_patient() -> None:
    y, x = draw(0)
    p = special.expit(x)
    found = metrics.intervals(y, p, 0.5, patients=np.arange(y.size), draws=2)
    (tn, fp), (fn, tp) = metrics.confusion(y, p, 0.5)
    assert found["sensitivity"] == pytest.approx(metrics.wilson(tp, tp + fn))
    assert found["specificity"] == pytest.approx(metrics.wilson(tn, tn + fp))
    assert found["precision"] == pytest.approx(metrics.wilson(tp, tp + fp))
    assert found["accuracy"] == pytest.approx(metrics.wilson(tn + tp, y.size))

    # DeLong 1988 from its definition: the variance of each film's share of pairs won.
    won = np.sign(p[y == 1][:, None] - p[y == 0]) / 2 + 0.5
    auc, error = won.mean(), math.sqrt(won.mean(1).var(ddof=1) / y.sum() + won.mean(0).var(ddof=1) / (1 - y).sum())
    half = 1.959964 * error / (auc * (1 - auc))
    assert found["auc"] == pytest.approx(special.expit(special.logit(auc) + [-half, half]), abs=1e-7)


def test_films_of_one_patient_count_for_less() -> None:
    y, x = draw(1)
    p = special.expit(x)
    plain = metrics.intervals(y, p, 0.5, patients=np.arange(y.size), draws=300)
    again = metrics.intervals(
        np.repeat(y, 3), np.repeat(p, 3), 0.5, patients=np.repeat(np.arange(y.size), 3), draws=300
    )
    for name, (low, high) in plain.items():
        low_again, high_again = again[name]
        assert high_again - low_again == pytest.approx(high - low, rel=0.2), name


def test_auc_of_patients_with_films_of_both_classes() -> None:
    # Each patient shifts all of its films alike, so that its negative and its positive film move together.
    rng = np.random.default_rng(0)
    patient, y = np.repeat(np.arange(150), 2), np.tile([0, 1], 150)
    x = y + 2 * rng.normal(size=150)[patient] + 0.5 * rng.normal(size=300)
    low, high = metrics.intervals(y, special.expit(x), 0.5, patients=patient, draws=2)["auc"]
    draws = []
    for _ in range(400):
        taken = (2 * rng.integers(0, 150, 150)[:, None] + [0, 1]).ravel()
        draws.append(sk.roc_auc_score(y[taken], x[taken]))
    assert high - low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.15)


def test_intervals_of_perfect_scores_have_a_width() -> None:
    y = np.repeat([0, 1], [20, 50])
    found = metrics.intervals(y, y * 0.8 + 0.1, 0.5, patients=np.arange(70), draws=20)
    for name in ("auc", "sensitivity", "specificity", "accuracy", "precision"):
        low, high = found[name]
        assert 0.8 < low < 1, name
        assert high == pytest.approx(1), name
    assert found["auc"] == pytest.approx(metrics.wilson(20, 20))


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
        for name, (low, high) in metrics.intervals(y, p, 0.5, patients=patient, draws=200, seed=seed).items():
            held[name] += low <= truth[name] <= high
    assert all(count >= 170 for count in held.values()), held


def test_intervals_are_repeatable_hold_the_score_and_are_fast() -> None:
    y, x = draw(2, negative=234, positive=390)
    p = metrics.fit_calibration(y, x).apply(x)
    patients = [f"person{i // 2}" for i in range(y.size)]
    start = time.perf_counter()
    found = metrics.intervals(y, p, 0.4, patients=patients)
    assert time.perf_counter() - start < 5
    assert found == metrics.intervals(y, p, 0.4, patients=patients)
    assert found != metrics.intervals(y, p, 0.4, patients=patients, seed=1)
    for name, value in metrics.score(y, p, 0.4).items():
        low, high = found[name]
        assert 0 <= low < high, name
        assert low < value < high or name == "ece", name
    with pytest.raises(ValueError, match="one patient a film"):
        metrics.intervals(y, p, 0.4, patients=patients[1:])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("negative", "positive"), [(80, 240), (3, 300), (1, 2)])
def test_calibration_is_platt_s(seed: int, negative: int, positive: int) -> None:
    y, x = draw(seed, negative=negative, positive=positive)
    targets = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(at: np.ndarray) -> float:
        line = at[0] * x + at[1]
        return float((np.logaddexp(0, line) - targets * line).mean())

    best = optimize.minimize(loss, [1.0, 0.0], bounds=[(1e-4, None), (None, None)]).fun
    fitted = metrics.fit_calibration(y, x)
    assert fitted.slope > 0
    assert loss(np.array([fitted.slope, fitted.intercept])) <= best + 1e-3 * (negative + positive < 10) + 1e-5


def test_calibration_mends_a_network_that_is_too_sure_at_the_films_own_share() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(1, 2, 20_000)
    y = (rng.random(true.size) < special.expit(true)).astype(int)
    fitted = metrics.fit_calibration(y, 4 * true - 3)
    assert (fitted.slope, fitted.intercept) == (pytest.approx(0.25, abs=0.01), pytest.approx(0.75, abs=0.05))
    assert fitted.apply(4 * true - 3).mean() == pytest.approx(y.mean(), abs=1e-3)
    assert metrics.score(y, fitted.apply(4 * true - 3), 0.5)["ece"] < 0.02


HARD = {
    "separable": ([0] * 20 + [1] * 60, np.r_[np.full(20, -9.0), np.full(60, 9.0)]),
    "one value": ([0] * 20 + [1] * 60, np.full(80, 3.0)),
    "wrong way round": ([0] * 20 + [1] * 60, np.r_[np.linspace(1, 3, 20), np.linspace(-3, 2, 60)]),
    "huge": ([0] * 20 + [1] * 60, 1e8 * np.r_[np.linspace(-3, 1, 20), np.linspace(-1, 3, 60)]),
    "far off": ([0] * 20 + [1] * 60, 1e4 + np.r_[np.linspace(-3, 1, 20), np.linspace(-1, 3, 60)]),
    "one outlier": ([0] * 20 + [1] * 60, np.r_[np.linspace(-3, 1, 20), np.linspace(-1, 3, 59), -1e5]),
    "tiny classes": ([0, 1], np.array([1.0, 2.0])),
    "one class": ([1] * 10, np.linspace(-1, 1, 10)),
}


@pytest.mark.parametrize("case", HARD)
def test_calibration_keeps_the_order_and_is_finite(case: str) -> None:
    labels, x = HARD[case]
    fitted = metrics.fit_calibration(labels, x)
    p = fitted.apply(x)
    assert fitted.slope > 0
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert (np.diff(p[np.argsort(x)]) >= 0).all()
    assert abs(p.mean() - np.mean(labels)) < 0.26 if len(labels) < 20 else abs(p.mean() - np.mean(labels)) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_objective_is_the_balanced_loss_of_the_best_line(seed: int) -> None:
    y, x = draw(seed)
    model = LogisticRegression(C=1e6, class_weight="balanced", tol=1e-10).fit(x[:, None], y)
    weights = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    theirs = sk.log_loss(y, model.predict_proba(x[:, None]), sample_weight=weights)
    assert metrics.objective(y, x) == pytest.approx(theirs, abs=1e-5)
    assert metrics.objective(y, 0.1 * x - 7) == pytest.approx(theirs, abs=1e-5)


def test_objective_falls_with_separation_and_where_auc_no_longer_rises() -> None:
    losses = [metrics.objective(*draw(0, gap=gap)) for gap in (0.5, 1, 2, 4, 8, 12)]
    assert losses == sorted(losses, reverse=True)
    aucs = [metrics.score(y, special.expit(x), 0.5)["auc"] for y, x in (draw(0, gap=8), draw(0, gap=12))]
    assert aucs == [1, 1]
    assert losses[-1] < losses[-2] / 2


@pytest.mark.parametrize("case", HARD)
def test_objective_lies_between_0_and_chance(case: str) -> None:
    loss = metrics.objective(*HARD[case])
    if case == "one class":
        assert math.isnan(loss)
    else:
        assert 0 <= loss <= math.log(2) + 1e-9
    if case in ("one value", "wrong way round"):
        assert loss == pytest.approx(math.log(2))


def test_objective_is_fast() -> None:
    y, x = draw(0, negative=200, positive=600)
    start = time.perf_counter()
    for _ in range(50):
        metrics.objective(y, x)
    assert (time.perf_counter() - start) / 50 < 0.01  # 0.4 ms on an idle core


def plain_threshold(y: np.ndarray, p: np.ndarray) -> float:
    fpr, tpr, at = sk.roc_curve(y, p, drop_intermediate=False)
    return float(np.clip(at[np.argmax(tpr - fpr)], 1e-7, 1 - 1e-7))


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
        fitted = metrics.fit_calibration(y, x)
        p = fitted.apply(x)
        for name, threshold in (("plain", plain_threshold(y, p)), ("ours", metrics.choose_threshold(y, p))):
            at = (special.logit(threshold) - fitted.intercept) / fitted.slope
            chosen[name].append(at)
            gained[name].append(((x_new >= at)[y_new == 1].mean() + (x_new < at)[y_new == 0].mean()) / 2)
    assert np.std(chosen["ours"]) < 0.6 * np.std(chosen["plain"])
    assert np.mean(gained["ours"]) > np.mean(gained["plain"])


def test_threshold_of_classes_that_do_not_overlap_is_between_them() -> None:
    assert metrics.choose_threshold([0, 0, 1, 1], [0, 0, 1, 1]) == pytest.approx(0.5, abs=0.01)
    assert 0.1 < metrics.choose_threshold([0, 0, 1, 1], [0.05, 0.1, 0.9, 0.95]) < 0.9
    assert metrics.choose_threshold([0, 1], [0.3, 0.3]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="both classes"):
        metrics.choose_threshold([1, 1], [0.2, 0.4])
