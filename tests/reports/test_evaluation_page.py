"""The page of an evaluation holds what was found, also of one class alone."""

import pytest

from pneumonia.data.index import Index
from pneumonia.metrics.reliability import reliability
from pneumonia.reports.evaluation_page import html
from tests.results.test_evaluation import assess, tables

PICTURES = dict.fromkeys(("confusion_matrix", "roc", "precision_recall", "histograms"), b"\x89PNG")


@pytest.mark.figures
def test_the_page_holds_counts_scores_and_wrong_films(index: Index) -> None:
    result = assess(*tables())
    none = reliability(result.rows["label"], result.probabilities, patients=result.rows["patient"])
    page = html(
        result,
        index,
        model="<b>models:/pneumonia/7",
        openings=3,
        pictures=PICTURES,
        calibrations=[("test", none, none)],
        heatmaps=[b"\x89PNG"] * 2,
    )
    assert "<b>" not in page
    assert "opening number 3" in page
    assert page.count("heatmap over") == 2
    for name, value in result.scores.items():
        low, high = result.intervals[name]
        assert f'<td class="number">{value:.3f}</td><td class="number">{low:.3f} to {high:.3f}</td>' in page
    for film in result.wrong():
        assert film.path in page
    for path, reason in result.failures:
        assert f"{path}: {reason}" in page


@pytest.mark.figures
@pytest.mark.parametrize("label", [0, 1])
def test_the_page_can_do_without_a_class(label: int, index: Index) -> None:
    result = assess(*tables(negative=20 * (1 - label), positive=20 * label, failed=0))
    none = reliability(result.rows["label"], result.probabilities, patients=result.rows["patient"])
    page = html(
        result, index, model="m", openings=1, pictures=PICTURES, calibrations=[("test", none, none)], heatmaps=[]
    )
    assert ">nan" not in page
    assert "have no meaning" in page
