"""The comparison of recipes, each of several seeds, as one HTML page."""

import numpy as np
from markupsafe import Markup

from pneumonia.data.index import Index
from pneumonia.reports.comparison_page import comparison, scores_table
from pneumonia.reports.page import Section, picture, row, table
from pneumonia.results.recipes import Recipes

APART_ROWS = 100


def html(found: Recipes, index: Index, *, seeds: bytes) -> str:
    """The page: what the tests say, the scores, the seeds (a PNG), and the films on which the recipes differ most."""
    names = found.numbered
    trained = ", ".join(f"{name} with {len(of.seeds)}" for name, of in zip(names, found.recipes, strict=True))
    sections = [
        Section(
            "Scores",
            [
                scores_table(
                    found.table(),
                    "recipe",
                    names,
                    caption="Mean ± standard deviation over seeds, each model at its own threshold; differences of the "
                    "means with 95% intervals.",
                )
            ],
        ),
        Section("Seeds", [row(picture(seeds, alt="Scores of every seed of each recipe"))]),
        Section("Films on which they differ", [_apart(found)]),
    ]
    return comparison("recipes", found, index, sections, more=f"Trained with so many seeds: {trained}. ")


def _apart(found: Recipes) -> Markup:
    """The films that some recipe's seeds call right more often than another's."""
    labels, paths = found.rows["label"].to_numpy(), found.rows["path"].to_numpy()
    right = [
        ((of.probabilities >= np.array(of.thresholds)[:, np.newaxis]) == (labels == 1)).sum(axis=0)
        for of in found.recipes
    ]
    sizes = [len(of.seeds) for of in found.recipes]
    gap = np.ptp([count / size for count, size in zip(right, sizes, strict=True)], axis=0)
    apart = np.flatnonzero(gap > 0)
    farthest = apart[np.argsort(-gap[apart], kind="stable")][:APART_ROWS]
    rows = [
        (
            paths[at],
            found.classes[labels[at]],
            *(f"{count[at]} of {size}" for count, size in zip(right, sizes, strict=True)),
        )
        for at in farthest
    ]
    caption = f"How many seeds call the film right; {len(rows)} of {len(apart)} films, the farthest apart first"
    return table(["film", "is", *(f"#{number}" for number in range(1, len(sizes) + 1))], rows, caption=caption)
