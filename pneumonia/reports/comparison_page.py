"""The comparison of models as one HTML page."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from pneumonia.data.index import Index
from pneumonia.reports.page import Section, bullets, page, picture, row, table, text
from pneumonia.results.comparison import Comparison
from pneumonia.results.evaluation import NAMES
from pneumonia.results.recipes import Recipes

DISAGREED_ROWS = 100


def html(found: Comparison, index: Index, *, curves: bytes) -> str:
    """The page: what the tests say, the scores, the curves (a PNG), and the films on which the models disagree."""
    names = found.numbered
    alone = [
        (name, pair.alone[0], pair.alone[1], f"{pair.differences['accuracy'].p:.3g}")
        for name, pair in zip(names[1:], found.pairs, strict=True)
    ]
    sections = [
        Section(
            "Scores",
            [
                scores_table(
                    found.table(),
                    "model",
                    names,
                    caption="With 95% intervals; each model at its own threshold. Differences of AUC by DeLong, by "
                    "patient, the others by bootstrap over patients; p-values after Holm.",
                ),
                table(
                    ["model", "right by the reference alone", "right by the model alone", "p"],
                    alone,
                    caption="Films that one of the two calls right. Exact sign test over patients, which is McNemar's "
                    "where each film is its own patient.",
                ),
            ],
        ),
        Section("Curves", [row(picture(curves, alt="ROC curves of all models"))]),
        Section("Films on which they disagree", [_disagreed(found)]),
    ]
    return comparison("models", found, index, sections)


def scores_table(scores: pd.DataFrame, column: str, names: Sequence[str], *, caption: str) -> Markup:
    """The scores of what is compared and, below them, of the differences to the first; `column` names the rows."""
    differences = [f"#{number} - #1" for number in range(2, len(names) + 1)]
    rows = scores.assign(**{column: [*names, *differences]})
    header = [NAMES.get(name, name.replace("_", " ")) for name in rows.columns]
    return table(header, rows.itertuples(index=False), caption=caption)


def comparison(of: str, found: Comparison | Recipes, index: Index, sections: list[Section], *, more: str = "") -> str:
    """The page of a comparison: around its own sections the films, what the tests say, and the films that could not be
    scored. `more` is a sentence for its beginning.
    """
    rows, (negative, positive) = found.rows, found.classes
    ill = int(rows["label"].sum())
    intro = text(
        f"{len(found.numbered)} {of} on the same {len(rows):,} validation films of {rows['patient'].nunique():,} "
        f"patients in {index.root.name}: {ill:,} {positive}, {len(rows) - ill:,} {negative}. {more}"
        f"The reference is {found.numbered[0]}.",
        *found.notes,
    )
    said = Section("What the tests say", [bullets(found.sentences())])
    lost = [f"{path}: {error}" for path, error in found.failures]
    unscored = [Section("Not scored", [bullets(lost)])] if lost else []
    footer = "For research and teaching; not a medical device."
    return page(f"Comparison of {of}", [said, *sections, *unscored], intro=intro, footer=footer)


def _disagreed(found: Comparison) -> Markup:
    called = found.probabilities >= np.array(found.thresholds)[:, np.newaxis]
    apart = np.flatnonzero(called.any(axis=0) & ~called.all(axis=0))
    farthest = apart[np.argsort(-np.ptp(found.probabilities[:, apart], axis=0), kind="stable")]
    paths, labels = found.rows["path"].to_numpy(), found.rows["label"].to_numpy()
    rows = [
        (paths[at], found.classes[labels[at]], *map(float, found.probabilities[:, at]))
        for at in farthest[:DISAGREED_ROWS]
    ]
    caption = f"Probability of {found.classes[1]}; {len(rows)} of {len(apart)} films, the farthest apart first"
    return table(["film", "is", *(f"#{number}" for number in range(1, len(found.models) + 1))], rows, caption=caption)
