import math
import time

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, special
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from pneumonia.metrics import calibration, logistic
from pneumonia.metrics import objective as objectives
from pneumonia.metrics import scores as metrics
from pneumonia.metrics import threshold as thresholds


def draw(seed: int, *, negative: int = 80, positive: int = 240, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits in a shuffled order, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], [negative, positive]))
    return labels, np.round(rng.normal(gap * (2 * labels - 1), 2.0), 1)


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
    fitted = calibration.fit_calibration(labels, x)
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
    assert objectives.objective(y, x) == pytest.approx(theirs, abs=1e-5)
    assert objectives.objective(y, 0.1 * x - 7) == pytest.approx(theirs, abs=1e-5)


def test_objective_falls_with_separation_and_where_auc_no_longer_rises() -> None:
    losses = [objectives.objective(*draw(0, gap=gap)) for gap in (0.5, 1, 2, 4, 8, 12)]
    assert losses == sorted(losses, reverse=True)
    aucs = [metrics.score(y, special.expit(x), 0.5)["auc"] for y, x in (draw(0, gap=8), draw(0, gap=12))]
    assert aucs == [1, 1]
    assert losses[-1] < losses[-2] / 2


@pytest.mark.parametrize("case", HARD)
def test_objective_lies_between_0_and_chance(case: str) -> None:
    loss = objectives.objective(*HARD[case])
    if case == "one class":
        assert math.isnan(loss)
    else:
        assert 0 <= loss <= math.log(2) + 1e-9
    if case in ("one value", "wrong way round"):
        assert loss == pytest.approx(math.log(2))


@pytest.mark.slow
def test_objective_is_fast() -> None:
    y, x = draw(0, negative=200, positive=600)
    start = time.perf_counter()
    for _ in range(50):
        objectives.objective(y, x)
    assert (time.perf_counter() - start) / 50 < 0.01  # 0.4 ms on an idle core


def plain_threshold(y: np.ndarray, p: np.ndarray) -> float:
    fpr, tpr, at = sk.roc_curve(y, p, drop_intermediate=False)
    return float(np.clip(at[np.argmax(tpr - fpr)], 1e-7, 1 - 1e-7))


@pytest.mark.slow
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
        fitted = calibration.fit_calibration(y, x)
        p = fitted.apply(x)
        for name, threshold in (("plain", plain_threshold(y, p)), ("ours", thresholds.choose_threshold(y, p))):
            at = (special.logit(threshold) - fitted.intercept) / fitted.slope
            chosen[name].append(at)
            gained[name].append(((x_new >= at)[y_new == 1].mean() + (x_new < at)[y_new == 0].mean()) / 2)
    assert np.std(chosen["ours"]) < 0.6 * np.std(chosen["plain"])
    assert np.mean(gained["ours"]) > np.mean(gained["plain"])


def test_threshold_of_classes_that_do_not_overlap_is_between_them() -> None:
    assert thresholds.choose_threshold([0, 0, 1, 1], [0, 0, 1, 1]) == pytest.approx(0.5, abs=0.01)
    assert 0.1 < thresholds.choose_threshold([0, 0, 1, 1], [0.05, 0.1, 0.9, 0.95]) < 0.9
    assert thresholds.choose_threshold([0, 1], [0.3, 0.3]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="both classes"):
        thresholds.choose_threshold([1, 1], [0.2, 0.4])


def test_a_calibration_can_be_undone() -> None:
    line, logits = calibration.Calibration(1.7, -0.4), np.linspace(-15, 15, 31)
    np.testing.assert_allclose(line.undo(line.apply(logits)), logits, rtol=1e-3, atol=1e-9)
    assert np.isfinite(line.undo([0.0, 1.0])).all()


def test_painted_normal_films_count_as_ill_for_the_objective_alone() -> None:
    labels, logits = np.array([0, 0, 1, 1] * 3), np.array([-2.0, -1.5, 1.5, 2.0] * 3)
    without, seen, missed = (
        objectives.epoch_scores(labels[:4], logits, np.array(painted)) for painted in ([], [1.5, 2.0], [-2.0, -1.5])
    )
    assert seen["val/objective"] < without["val/objective"] < missed["val/objective"]
    for values in (seen, missed):
        assert {**values, "val/objective": 0.0} == {**without, "val/objective": 0.0}
    assert np.isnan(objectives.epoch_scores(labels[:4], logits, np.array([np.nan]))["val/objective"])
    alone = objectives.epoch_scores(np.zeros(4, dtype=int), logits, np.array([2.0]))
    assert np.isnan(alone["val/objective"])  # painted films do not stand in for a class
    assert np.isfinite(alone["val/loss"])


def test_painted_films_are_a_tenth_of_the_positive_class_however_many_they_are() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) < 40
    logits = rng.normal(np.where(labels, 1.0, -1.0))
    few = rng.normal(0.5, 1.0, 30)
    assert objectives.objective(labels, logits, few) == pytest.approx(
        objectives.objective(labels, logits, np.tile(few, 50)), abs=1e-6
    )
    copies = objectives.objective(labels, logits, logits[labels])  # as the real ones
    assert copies == pytest.approx(objectives.objective(labels, logits), abs=1e-6)
    assert copies < objectives.objective(labels, logits, few)
