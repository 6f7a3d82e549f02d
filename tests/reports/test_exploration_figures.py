"""Figures of an exploration, of names and counts as folders have them."""

from dataclasses import replace

import numpy as np
import pytest

from pneumonia.reports.exploration_figures import balance, figures
from pneumonia.results.exploration import Exploration

PNEUMONIA = 1


def test_rare_subtypes_share_a_bar(explored: Exploration) -> None:
    films = explored.films.assign(subtype=[f"kind {number % 9}" for number in explored.films.index])
    (axes,) = balance(replace(explored, films=films)).axes
    assert sum(bar.get_height() for bar in axes.patches) == len(films)
    assert sum(label.get_text().endswith("other") for label in axes.get_legend().get_texts()) == 2


@pytest.mark.figures
def test_names_that_are_no_formulas_are_drawn(explored: Exploration) -> None:
    index = replace(explored.index, classes=(r"_$\frac$ A", "50 $ B"))
    films = explored.films.assign(subtype=np.where(explored.films["label"] == PNEUMONIA, r"$\bad$", ""))
    odd = replace(explored, index=index, films=films)
    for name, draw in figures(odd).items():
        figure = draw(odd)
        figure.canvas.draw()
        legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()] + figure.legends
        if name in ("films_a_patient", "sizes", "aspect", "grey_levels"):
            assert any("frac" in text.get_text() for legend in legends for text in legend.get_texts()), name
