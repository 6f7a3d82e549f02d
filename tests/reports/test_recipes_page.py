"""The page of a comparison of recipes."""

from pneumonia.data.index import Index
from pneumonia.reports.recipes_page import html
from tests.results.test_recipes import compared


def test_the_page_shows_recipes_and_the_films_they_differ_on(index: Index) -> None:
    found = compared(1.0)
    page = html(found, index, seeds=b"\x89PNG")
    right = [(of.probabilities >= 0.5) == (found.rows["label"].to_numpy() == 1) for of in found.recipes]
    apart = (right[0].sum(axis=0) != right[1].sum(axis=0)).sum()
    assert f"of {apart} films, the farthest apart first" in page
    for sentence in found.sentences():
        assert sentence in page
