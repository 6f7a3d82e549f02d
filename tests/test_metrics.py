import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumonia import metrics


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
    (weighted,) = metrics.weighted_scores(y, p, step / 8, np.ones((1, y.size)))["auc"]
    assert weighted == pytest.approx(s["auc"])
    assert s["mcc"] == pytest.approx(sk.matthews_corrcoef(y, called))
    assert s["npv"] == (
        pytest.approx(sk.precision_score(y, called, pos_label=0))
        if not called.all()
        else pytest.approx(math.nan, nan_ok=True)
    )
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


@pytest.mark.parametrize("ties", [False, True])
def test_the_best_accuracy_is_that_of_the_best_threshold(ties: bool) -> None:
    rng = np.random.default_rng(0)
    for films in (1, 2, 50):
        labels = rng.integers(0, 2, films)
        scores = rng.normal(size=films) + labels
        scores = scores.round() if ties else scores
        best = max(((scores >= at) == labels).mean() for at in [*scores, np.inf])
        assert metrics.best_accuracy(labels, scores) == pytest.approx(best)
