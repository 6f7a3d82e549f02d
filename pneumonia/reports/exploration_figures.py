"""The figures of the exploration of the films. They have the size and the colours of the figures of a run (`plots`)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pneumonia.reports.plots import BLUE, GREEN, GREY, HIGH_INCHES, ORANGE, WIDE_INCHES, plain
from pneumonia.results.exploration import Exploration

WORDS = {
    "bytes_per_pixel": "bytes a pixel of the file",
    "quantisation": "JPEG quantisation, mean step of the luminance table",
    "pixels": "pixels of the film",
    "aspect": "aspect of the film, width over height",
    "grey_mean": "mean grey level of the film",
    "grey_sd": "standard deviation of its grey levels",
}
SHADES = (GREY, "#999999", "#CCCCCC"), (BLUE, "#56B4E9", GREEN)  # of the subtypes of each class
COLOURS = GREY, BLUE  # of the negative and the positive class, as in the figures of a model
BINS = 40


def balance(e: Exploration) -> Figure:
    """Films of each class in each split; a class's commonest subtypes apart, the others together."""
    subtypes, groups = e.films["subtype"].copy(), []
    for label in (0, 1):
        of_class = e.films["label"] == label
        names = subtypes[of_class].value_counts().index.tolist()
        if len(names) > len(SHADES[label]):
            names = [*names[: len(SHADES[label]) - 1], "other"]
            subtypes[of_class & ~subtypes.isin(names)] = "other"
        groups += [(label, name, shade) for name, shade in zip(names, SHADES[label], strict=False)]
    figure, (axes,) = _canvas(1, f"Classes and subtypes, n = {len(e.films):,} films")
    positions, width = np.arange(len(e.splits)), 0.8 / len(groups)
    for number, (label, subtype, shade) in enumerate(groups):
        mine = e.films[(e.films["label"] == label) & (subtypes == subtype)]
        counts = mine["split"].value_counts().reindex(e.splits, fill_value=0)
        left = positions + (number - (len(groups) - 1) / 2) * width
        bars = axes.bar(left, counts, width, color=shade, label=plain(f"{e.index.classes[label]} {subtype}".strip()))
        axes.bar_label(bars, fmt="{:,.0f}", fontsize="small")
    axes.set_xticks(positions, e.splits)
    axes.set(xlabel="split", ylabel="films")
    axes.margins(y=0.12)
    axes.legend(fontsize="small")
    return figure


def films_a_patient(e: Exploration) -> Figure:
    """How many patients have one film, two, and so on."""
    patients = e.patients()
    figure, (axes,) = _canvas(1, f"Films a patient, {e.films['patient'].nunique():,} patients")
    most = int(patients["films"].max())
    edges = np.arange(0.5, most + 1.5)
    for label, name in enumerate(_names(e)):
        mine = patients.loc[patients["label"] == label, "films"]
        if len(mine):
            axes.stairs(
                np.histogram(mine, edges)[0],
                edges,
                **_style(label),
                label=f"{name}: {len(mine):,} patients, mean {mine.mean():.2f}, most {mine.max()}",
            )
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set(xlabel="films of the patient", ylabel="patients (log)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def sizes(e: Exploration) -> Figure:
    """Width against height of every film."""
    figure, (axes,) = _canvas(1, f"Sizes, n = {len(e.films):,} films")
    for label, name in enumerate(_names(e)):
        mine = e.films[e.films["label"] == label]
        axes.scatter(
            mine["width"],
            mine["height"],
            s=10,
            alpha=0.35,
            color=COLOURS[label],
            marker="ox"[label],
            linewidths=0.8,
            label=f"{name}, n = {len(mine):,}",
        )
    longest = float(e.films[["width", "height"]].to_numpy().max())
    axes.plot([0, longest], [0, longest], color=GREY, linestyle=":", linewidth=1, label="square")
    axes.set(xlabel="width, pixels", ylabel="height, pixels", xlim=(0, 1.05 * longest), ylim=(0, 1.05 * longest))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize="small")
    return figure


def grey_levels(e: Exploration) -> Figure:
    """The grey levels of the classes' pixels, and the means of their films."""
    seen = e.films[e.films["split"] != "test"]
    figure, (above, below) = _canvas(2, f"Grey levels\n{_of_seen(e)}")
    figure.subplots_adjust(top=0.87)
    edges = np.linspace(0, 255, BINS + 1)
    for label, name in enumerate(_names(e)):
        style = {"color": COLOURS[label], "linewidth": 2, "label": name}
        above.stairs(100 * e.grey[label], np.arange(257), **style)
        means = seen.loc[seen["label"] == label, "grey_mean"]
        below.stairs(100 * np.histogram(means, edges)[0] / max(len(means), 1), edges, **style)
    # Film markers and black margins make spikes at both ends that would flatten everything else.
    inner = e.grey[:, 3:253]
    above.set_ylim(0, 110 * float(inner.max()))
    above.set(ylabel="share of pixels, %")
    below.set(xlabel="grey level (0 black, 255 white)", ylabel="share of films, %\n(by mean level)", xlim=(0, 255))
    above.set_xlim(0, 255)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def mean_films(e: Exploration) -> Figure:
    """Mean and standard deviation over films of each class at each place, and the differences between the classes."""
    figure = _figure(f"Mean and spread at each place\n{_of_seen(e)}")
    panels = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.03, right=0.99, bottom=0.06, top=0.84, wspace=0.1, hspace=0.3)
    for line, (maps, what) in enumerate(((e.mean, "mean"), (np.sqrt(e.variance), "deviation"))):
        low, high = float(maps.min()), float(maps.max())
        difference = maps[1] - maps[0]
        widest = float(np.abs(difference).max())
        drawn = [
            (maps[0], f"{what}, {_names(e)[0]}", {"cmap": "gray", "vmin": low, "vmax": high}),
            (maps[1], f"{what}, {_names(e)[1]}", {"cmap": "gray", "vmin": low, "vmax": high}),
            (difference, "difference (second - first)", {"cmap": "PuOr", "vmin": -widest, "vmax": widest}),
        ]
        for axes, (image, title, style) in zip(panels[line], drawn, strict=True):
            shown = axes.imshow(image, **style)
            axes.set_title(title, fontsize="small")
            axes.set_xticks([])
            axes.set_yticks([])
            bar = figure.colorbar(shown, ax=axes, orientation="horizontal", pad=0.03, fraction=0.06)
            bar.ax.tick_params(labelsize="x-small")
    figure.text(0.5, 0.008, "grey levels", ha="center", fontsize="small")
    return figure


def samples(e: Exploration, label: int) -> Figure:
    """Films of one class, by turns of its subtypes, chosen by their hash."""
    mine = [(line, film) for line, film in e.samples if e.films["label"].iloc[line] == label]
    figure = _figure(f"{len(mine)} films of {_names(e)[label]}, train and val", high=3.6)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.87, wspace=0.04, hspace=0.18)
    panels = figure.subplots(3, 6).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (line, film) in zip(panels, mine, strict=False):
        axes.imshow(film, cmap="gray", vmin=0, vmax=255)
        axes.set_title(plain(e.films["subtype"].iloc[line] or e.films["split"].iloc[line]), fontsize="x-small", pad=2)
    return figure


def by_split(e: Exploration, statistic: str) -> Figure:
    """How a file statistic is spread in the classes of each split, with its AUC; outermost films in the end bins."""
    values = e.films[statistic]
    low, high = np.percentile(values[values.notna()], [0.5, 99.5])
    if high == low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    title = WORDS[statistic]
    figure, panels = _canvas(len(e.splits), title[:1].upper() + title[1:])
    figure.subplots_adjust(top=0.82, hspace=0.3)
    aucs = e.aucs()
    for axes, split in zip(panels, e.splits, strict=True):
        counts = []
        for label, name in enumerate(_names(e)):
            mine = values[(e.films["split"] == split) & (e.films["label"] == label)].dropna()
            counts.append(f"{len(mine):,}")
            share = 100 * np.histogram(mine.clip(low, high), edges)[0] / max(len(mine), 1)
            axes.stairs(share, edges, label=name, **_style(label))
        auc = aucs[split][statistic]
        words = f"AUC {auc:.3f}" if math.isfinite(auc) else "no AUC"
        axes.set_title(f"{split}, n = {' and '.join(counts)}: {words}", loc="left", fontsize="small", pad=3)
        axes.set_ylabel("films, %")
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.945), ncols=2)
    return figure


def batches(e: Exploration) -> Figure:
    """The share of positive films in each batch, and how often each train film is drawn, without and with weights."""
    labels = e.films.loc[e.films["split"] == "train", "label"].to_numpy()
    figure, (above, below) = _canvas(
        2, f"One epoch of batches of {e.draws[0].batch_size}, {len(labels):,} train films", sharex=False
    )
    figure.subplots_adjust(hspace=0.35)
    edges = np.linspace(0, 1, BINS + 1)
    for draws, colour in zip(e.draws, (GREEN, ORANGE), strict=True):
        words = f"{draws.sampler}: {len(draws.shares):,} batches, mean {draws.shares.mean():.3f}"
        above.stairs(np.histogram(draws.shares, edges)[0], edges, color=colour, linewidth=2, label=words)
    above.axvline(labels.mean(), color=GREY, linestyle=":", linewidth=1, label=f"the folder, {labels.mean():.3f}")
    above.set(xlabel=f"share of {_names(e)[1]} in a batch", ylabel="batches", xlim=(0, 1))
    above.set_ylim(top=1.7 * above.get_ylim()[1])  # room for the legend
    weighted = e.draws[1]
    most = int(weighted.times.max())
    for label, name in enumerate(_names(e)):
        times = weighted.times[labels == label]
        share = 100 * np.bincount(times, minlength=most + 1) / times.size
        words = f"{name}, n = {times.size:,}, mean {times.mean():.2f}"
        at = np.arange(most + 1) + (label - 0.5) * 0.4
        below.bar(at, share, 0.4, color=COLOURS[label], label=words)
    below.set(xlabel="times that a film is drawn in an epoch, weighted", ylabel="films of the class, %")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def figures(e: Exploration) -> dict[str, Callable[[Exploration], Figure]]:
    """What draws each figure, by its name; the quantisation's only where there are JPEGs."""
    return {
        "balance": balance,
        "films_a_patient": films_a_patient,
        "sizes": sizes,
        "aspect": partial(by_split, statistic="aspect"),
        "grey_levels": grey_levels,
        "mean_films": mean_films,
        "samples_negative": partial(samples, label=0),
        "samples_positive": partial(samples, label=1),
        "bytes_per_pixel": partial(by_split, statistic="bytes_per_pixel"),
        **(
            {"quantisation": partial(by_split, statistic="quantisation")}
            if e.films["quantisation"].notna().any()
            else {}
        ),
        "batches": batches,
    }


def _figure(title: str, high: float = HIGH_INCHES) -> Figure:
    figure = Figure(figsize=(WIDE_INCHES, high))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.1, top=0.92, hspace=0.12)
    figure.suptitle(title, fontsize="medium")
    return figure


def _canvas(panels: int, title: str, *, sharex: bool = True) -> tuple[Figure, NDArray[Any]]:
    """A figure of panels below each other, and their axes."""
    figure = _figure(title)
    return figure, figure.subplots(panels, 1, sharex=sharex, squeeze=False)[:, 0]


def _style(label: int) -> dict[str, Any]:
    """A filled histogram for the negative class and an outline for the positive one: both show where they overlap."""
    return {"color": COLOURS[label], "fill": label == 0, "alpha": (0.5, 1.0)[label], "linewidth": 2}


def _names(e: Exploration) -> list[str]:
    return [plain(name) for name in e.index.classes]


def _of_seen(e: Exploration) -> str:
    labels = e.films.loc[e.films["split"] != "test", "label"]
    counts = [f"{(labels == label).sum():,} {name}" for label, name in enumerate(_names(e))]
    return f"n = {len(labels):,} train and val films: {', '.join(counts)}"
