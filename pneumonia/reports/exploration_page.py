"""The exploration of the films as one HTML page, with its figures and a table of the films beside it."""

import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from pneumonia.data.inventory import some
from pneumonia.reports.exploration_figures import WORDS, figures
from pneumonia.reports.page import Section, bullets, page, picture, row, table, text
from pneumonia.reports.plots import DPI
from pneumonia.results.exploration import Exploration

LISTED = 15  # corrupt films and groups of copies on the page; eda.json has all


def write(e: Exploration, folder: Path, *, progress: bool = False) -> None:
    """Writes eda.html, films.csv and figures/*.png into a folder."""
    pictures: dict[str, bytes] = {}
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, drawn in tqdm(figures(e).items(), desc="drawing figures", unit="figure", disable=not progress):
        file = io.BytesIO()
        drawn(e).savefig(file, format="png", dpi=DPI)
        pictures[name] = file.getvalue()
        (folder / "figures" / f"{name}.png").write_bytes(pictures[name])
    (folder / "eda.html").write_text(html(e, pictures), encoding="utf-8")
    films = e.films[["path", "split", "label", "patient", "subtype", "bytes", "width", "height"]].copy()
    films["label"] = np.asarray(e.index.classes)[films["label"].to_numpy()]
    films.to_csv(folder / "films.csv", index=False)


def html(e: Exploration, pictures: dict[str, bytes]) -> str:
    """The page. `pictures` are PNGs of the figures by name."""
    report = e.index.report

    captions = {
        "grey_levels": "Above over pixels, cut where the black of margins would flatten the rest; below over films, "
        "by their mean level",
        "mean_films": f"The differences are {e.index.classes[1]} minus {e.index.classes[0]}; purple where that is "
        "above 0, orange where it is below. Structure at the edges is of the film, not of the lung",
        "samples_negative": "Of each class the films with the lowest SHA-256: the same ones in every run",
        "bytes_per_pixel": "One film in 200 at either end is counted in the outermost bin",
    }

    def shown(*names: str) -> Markup:
        there = [name for name in names if name in pictures]
        return row(*(picture(pictures[n], alt=n.replace("_", " "), caption=captions.get(n, "")) for n in there))

    intro = text(
        f"{len(e.films):,} films of {e.films['patient'].nunique():,} patients in {e.index.root.name}: "
        f"{int(e.films['label'].sum()):,} {e.index.classes[1]}, {int((1 - e.films['label']).sum()):,} "
        f"{e.index.classes[0]}.",
        "Test films are described by their files alone: bytes, hashes, and the size and compression in the header. "
        "Grey levels, mean films and samples come from train and val; no pixel of a test film was looked at, and "
        "nothing was chosen by what is said of them here. A test film whose pixels are damaged behind a good header "
        "is therefore not found.",
    )
    sections = [
        Section("Films", [*_films(e), shown("balance", "films_a_patient"), _patients(e)]),
        Section("Sizes", [_sizes(e), shown("sizes", "aspect"), _kinds(e)]),
        Section("Grey levels", [shown("grey_levels", "mean_films")]),
        Section("Samples", [shown("samples_negative", "samples_positive")]),
        Section("Copies", _copies(e)),
        Section("Shortcuts", [*_shortcuts(e), shown("bytes_per_pixel", "quantisation")]),
        Section("Batches", [*_batches(e), shown("batches")]),
    ]
    if report.notes:
        intro += bullets(report.notes)
    footer = "For research and teaching; not a medical device. The figures are in eda.json, the films in films.csv."
    return page(f"The films of {e.index.root.name}", sections, intro=intro, footer=footer)


def _films(e: Exploration) -> list[Markup]:
    report = e.index.report
    flow = [
        *report.flow(),
        *((f"no film: {reason}", n) for reason, n in report.ignored.items()),
    ]
    of_split = e.films["split"].value_counts()
    counts = [
        (
            count["split"],
            str(count["class"]),
            count["subtype"] or "-",
            count["films"],
            f"{int(count['films']) / of_split[count['split']]:.1%}",
            count["patients"],
        )
        for count in report.counts
    ]
    parts = [
        row(
            table(["files", "number"], flow, caption="From the folder to the films in use"),
            table(["split", "class", "subtype", "films", "of the split", "patients"], counts, caption="Films in use"),
        )
    ]
    if report.corrupt:
        parts += [
            text(f"{len(report.corrupt):,} films cannot be read:"),
            bullets([f"{path}: {reason}" for path, reason in report.corrupt[:LISTED]]),
        ]
    return parts


def _patients(e: Exploration) -> Markup:
    rows = [
        (one["split"], one["class"], one["mean"], f"{one['median']:g}", one["largest"])
        for one in e.as_dict()["films_a_patient"]
    ]
    return table(
        ["split", "class", "mean", "median", "most"],
        rows,
        caption="Films a patient. Films of one patient are alike: intervals count patients, and splits keep them whole",
    )


def _sizes(e: Exploration) -> Markup:
    rows = [
        (split, name, len(mine), *(_range(mine[column], form) for column, form in forms))
        for forms in ([("width", ",.0f"), ("height", ",.0f"), ("aspect", ".2f")],)
        for split in e.splits
        for label, name in enumerate(e.index.classes)
        for mine in (e.films[(e.films["split"] == split) & (e.films["label"] == label)],)
        if len(mine)
    ]
    header = ["split", "class", "films", "width, pixels", "height, pixels", "width over height"]
    return table(header, rows, caption="Smallest, median and largest")


def _kinds(e: Exploration) -> Markup:
    groups = e.films.groupby(["kind", "split", "label"]).size()
    rows = [
        (kind, *(int(groups.get((kind, split, label), 0)) for split in e.splits for label in (0, 1)))
        for kind in sorted(set(e.films["kind"]))
    ]
    header = ["format", *(f"{split} {name}" for split in e.splits for name in e.index.classes)]
    return table(header, rows, caption="Formats, by the header; a format that one class alone has tells the class")


def _copies(e: Exploration) -> list[Markup]:
    report = e.index.report
    parts = []
    for words, groups, left_out in (
        ("Identical files within a split", report.duplicates, report.copies),
        ("In two splits", report.leaks, report.leaked),
    ):
        if not groups:
            parts.append(text(f"{words}: none."))
            continue
        rows = [(group.why, some(group.kept, 3) or "none", some(group.left_out, 3) or "none") for group in groups]
        # The reason names the patient, so that of each patient would be another.
        kinds = Counter("the same patient" if g.why.startswith("the same patient") else g.why for g in groups)
        parts.append(bullets([f"{why}: {n:,} groups" for why, n in kinds.items()]))
        more = f"; the first {LISTED}" if len(groups) > LISTED else ""
        caption = f"{words}: {len(groups):,} groups, {left_out:,} films left out{more}"
        parts.append(table(["why", "kept", "left out"], rows[:LISTED], caption=caption))
    return [
        text(
            "Copies are found by the SHA-256 of the file. What is in two splits stays in test before val before train; "
            "test films stay, copies or not, so that scores compare with other people's."
        ),
        *parts,
    ]


def _shortcuts(e: Exploration) -> list[Markup]:
    aucs, classes = e.aucs(), e.index.classes
    rows = [
        (words, *(f"{auc:.3f}" if math.isfinite(auc := aucs[split][name]) else "none" for split in e.splits))
        for name, words in WORDS.items()
    ]
    return [
        text(
            f"What a network could learn of {classes[1]} without looking at a lung: the AUC of each number by itself. "
            f"0.5 tells nothing; below 0.5, {classes[1]} films have the lower values. A number that tells the classes "
            "apart in train, and in test does not or does it the other way round, misleads a model that leans on it."
        ),
        table(
            ["of each film", *(f"AUC, {split}" for split in e.splits)],
            rows,
            caption="None: no values, no film of some class, or pixels of test films, which are not looked at",
        ),
    ]


def _batches(e: Exploration) -> list[Markup]:
    plain, weighted = e.draws
    train = e.films[e.films["split"] == "train"].reset_index(drop=True)
    rows = []
    for label, subtype in train[["label", "subtype"]].drop_duplicates().sort_values(["label", "subtype"]).to_numpy():
        mine = train[(train["label"] == label) & (train["subtype"] == subtype)]
        times = weighted.times[mine.index]
        rows.append(
            (
                f"{e.index.classes[label]} {subtype}".strip(),
                len(mine),
                f"{len(mine) / len(train):.1%}",
                f"{times.sum() / weighted.times.sum():.1%}",
                float(times.mean()),
                f"{(times == 0).mean():.1%}",
            )
        )
    header = ["train films", "n", "of the folder", "of the weighted draws", "draws a film", "never drawn"]
    spread = [f"{100 * draws.spread:.1f}" for draws in e.draws]
    varies = (
        f" The share of {e.index.classes[1]} in a batch of {plain.batch_size} then varies by a standard deviation of "
        f"{spread[1]} percentage points about a half; without weights, by {spread[0]} about the folder's share."
    )
    return [
        text(
            "Weighted sampling draws with replacement, each class half of the time."
            + (varies if len(plain.shares) > 1 else "")
            + " The price: films of the larger class that an epoch never shows, and films of the smaller one that it "
            "shows again and again."
        ),
        table(header, rows, caption="One epoch, drawn by the sampler that a training uses, with seed 0"),
    ]


def _range(values: pd.Series, form: str) -> str:
    low, middle, high = (format(float(at), form) for at in (values.min(), values.median(), values.max()))
    return middle if low == high else f"{low}, {middle}, {high}"
