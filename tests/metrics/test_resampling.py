"""Scores of weighted films."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.metrics import scores as metrics
from pneumonia.metrics.resampling import weighted_scores


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=1, max_size=40), st.integers(0, 30))
def test_the_bootstrap_s_scores_of_the_films_as_they_are_are_the_scores(
    pairs: list[tuple[int, int]], step: int
) -> None:
    """With one class too, and for 15 bins' edges; nothing is said of what has no meaning."""
    y, p = np.array([label for label, _ in pairs]), np.array([value / 30 for _, value in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.score(y, p, step / 30)
        metrics.confusion(y, p, step / 30)
        metrics.roc_curve(y, p)
        metrics.precision_recall_curve(y, p)
    weighted = weighted_scores(y, p, step / 30, np.ones((1, y.size)))
    for name, (value,) in weighted.items():
        assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
