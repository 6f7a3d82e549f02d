"""The objective: the balanced loss of the best line, also where AUC no longer rises."""

import math
import time

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from pneumonia.metrics import objective as objectives
from pneumonia.metrics import scores as metrics
from tests.metrics.conftest import HARD, draw


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
