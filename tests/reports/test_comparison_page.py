"""The page of a comparison of models."""

from pneumonia.data.index import Index
from pneumonia.reports.comparison_page import html
from tests.results.test_comparison import compared


def test_the_page_shows_models_and_the_films_they_disagree_on(index: Index) -> None:
    found = compared(1.0)
    page = html(found, index, curves=b"\x89PNG")
    called = found.probabilities >= 0.5
    apart = (called[0] != called[1]).sum()
    assert f"of {apart} films, the farthest apart first" in page
    for sentence in found.sentences():
        assert sentence in page
