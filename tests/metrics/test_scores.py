import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.metrics import scores as metrics


def binary(draws: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Both classes, few distinct probabilities."""
    rest = draws(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), max_size=30))
    pairs = [(0, draws(st.integers(0, 8))), (1, draws(st.integers(0, 8))), *rest]
    return np.array([label for label, _ in pairs]), np.array([step / 8 for _, step in pairs])


films = st.composite(binary)()


def by_definition(y: np.ndarray, p: np.ndarray, threshold: float) -> dict[str, float]:
    """The scores by their definitions, film by film and pair by pair."""
    tp, fp, fn, tn = (
        sum(label == of and (value >= threshold) == called for label, value in zip(y.tolist(), p.tolist(), strict=True))
        for of, called in ((1, True), (0, True), (1, False), (0, False))
    )
    won = [(a > b) + (a == b) / 2 for a in p[y == 1] for b in p[y == 0]]
    precisions = [(y[p >= value] == 1).mean() for value in p[y == 1]]  # with each positive film's as the threshold
    losses = [-math.log(max(value if label else 1 - value, 1e-7)) for label, value in zip(y, p, strict=True)]
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "auc": float(np.mean(won)),
        "average_precision": float(np.mean(precisions)),
        "accuracy": (tp + tn) / y.size,
        "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": tp / (tp + fp) if tp + fp else math.nan,
        "npv": tn / (tn + fn) if tn + fn else math.nan,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / spread if spread else 0.0,
        "brier": float(np.mean((p - y) ** 2)),
        "log_loss": float(np.mean([np.mean([x for x, of in zip(losses, y, strict=True) if of == c]) for c in (0, 1)])),
    }


@settings(max_examples=60, deadline=None)
@given(films, st.integers(0, 8))
def test_scores_are_those_of_their_definitions(drawn: tuple[np.ndarray, np.ndarray], step: int) -> None:
    y, p = drawn
    found = metrics.score(y, p, step / 8)
    assert {name: found[name] for name in found if name != "ece"} == pytest.approx(
        by_definition(y, p, step / 8), abs=1e-12, nan_ok=True
    )
    assert metrics.auc(y, 3 * p - 7) == pytest.approx(found["auc"], abs=1e-12)
    (tn, fp), (fn, tp) = metrics.confusion(y, p, step / 8).tolist()
    assert (tn + fp, fn + tp) == ((y == 0).sum(), (y == 1).sum())
    assert (fp, tp) == tuple(((p >= step / 8) & (y == label)).sum() for label in (0, 1))


def test_scores_by_hand() -> None:
    # Called at .4: films 2, 5 and 6. The positive films win 2 + 3 + 3 of 9 pairs: film 3 loses to film 2.
    y, p = [0, 0, 1, 0, 1, 1], [0.1, 0.4, 0.3, 0.2, 0.8, 0.9]
    s = metrics.score(y, p, 0.4)
    assert metrics.confusion(y, p, 0.4).tolist() == [[2, 1], [1, 2]]
    assert [s[name] for name in ("sensitivity", "specificity", "precision", "npv", "f1")] == pytest.approx([2 / 3] * 5)
    assert s["auc"] == pytest.approx(8 / 9)
    assert s["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert s["mcc"] == pytest.approx(1 / 3)
    assert s["brier"] == pytest.approx((0.01 + 0.16 + 0.49 + 0.04 + 0.04 + 0.01) / 6)
    assert s["log_loss"] == pytest.approx(-(math.log(0.9 * 0.6 * 0.8) / 3 + math.log(0.3 * 0.8 * 0.9) / 3) / 2)
    sure = metrics.score([0, 0, 1], [0.0, 1.0, 1.0], 0.5)
    assert sure["log_loss"] == pytest.approx(-math.log(1e-7) / 4, abs=1e-12)


def test_curves_by_hand() -> None:
    y, p = [0, 1, 0, 1, 1, 0], [0.1, 0.3, 0.3, 0.6, 0.9, 0.6]
    fpr, tpr = metrics.roc_curve(y, p)
    np.testing.assert_allclose(fpr, np.array([0, 0, 1, 2, 3]) / 3)
    np.testing.assert_allclose(tpr, np.array([0, 1, 2, 3, 3]) / 3)
    recall, precision = metrics.precision_recall_curve(y, p)
    np.testing.assert_allclose(recall, np.array([1, 2, 3, 3]) / 3)
    np.testing.assert_allclose(precision, [1, 2 / 3, 3 / 5, 3 / 6])


@settings(max_examples=30, deadline=None)
@given(films)
def test_curves_have_a_point_for_each_probability(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = drawn
    at = np.unique(p)[::-1]
    called = p >= at[:, None]
    tp, fp = (called & (y == 1)).sum(1), (called & (y == 0)).sum(1)
    for found, expected in zip(
        (*metrics.roc_curve(y, p), *metrics.precision_recall_curve(y, p)),
        (np.r_[0, fp / fp[-1]], np.r_[0, tp / tp[-1]], tp / tp[-1], tp / (tp + fp)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


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
    (warning,) = metrics.warnings_for([label] * 40, classes=("NORMAL", "PNEUMONIA"))
    assert ("NORMAL", "PNEUMONIA")[1 - label] in warning
    assert math.isnan(metrics.auc([label] * 3, [5, -7, 2]))
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


@pytest.mark.parametrize("ties", [False, True])
def test_the_best_accuracy_is_that_of_the_best_threshold(ties: bool) -> None:
    rng = np.random.default_rng(0)
    for films in (1, 2, 50):
        labels = rng.integers(0, 2, films)
        scores = rng.normal(size=films) + labels
        scores = scores.round() if ties else scores
        best = max(((scores >= at) == labels).mean() for at in [*scores, np.inf])
        assert metrics.best_accuracy(labels, scores) == pytest.approx(best)
