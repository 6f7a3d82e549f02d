"""The figures of a run. Every run's have the same size and axes, so that two of them can be laid side by side.

A function takes arrays (see `metrics`) and returns a matplotlib `Figure` of the object interface: nothing is kept in
pyplot, so threads and long searches are safe. Colours are Okabe and Ito's (2008), apart for colour-blind eyes.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter
from numpy.typing import ArrayLike

from pneumonia.metrics.bands import Band
from pneumonia.metrics.intervals import wilson
from pneumonia.metrics.scores import BINS, auc, mean_and_spread, precision_recall_curve, reliability_bins, roc_curve

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#666666", "#000000"
WIDE_INCHES, HIGH_INCHES, DPI = 6.0, 5.0, 100


def confusion_matrix(matrix: ArrayLike, classes: Sequence[str]) -> Figure:
    """Heatmap of counts [[tn, fp], [fn, tp]]; the colour and the second line are the share of the row's films."""
    import seaborn  # 1 s or more to import, for this one figure

    counts = np.asarray(matrix)
    rows = counts.sum(axis=1, keepdims=True)
    percent = 100 * counts / np.maximum(rows, 1)
    cells = np.array(
        [[f"{n:,}\n{p:.1f} %" for n, p in zip(*row, strict=True)] for row in zip(counts, percent, strict=True)]
    )
    # The margin holds three lines of 12 letters.
    names = ["\n".join(plain(line) for line in textwrap.wrap(name, 12)[:3]) for name in classes]
    figure, axes = _figure(f"How {counts.sum():,} films were called")
    seaborn.heatmap(
        percent,
        annot=cells,
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=100,
        square=True,
        linewidths=2,
        annot_kws={"fontsize": 15},
        cbar_kws={"label": "share of the true class's films, %", "shrink": 0.8},
        xticklabels=names,
        yticklabels=[f"{name}\n(n = {n:,})" for name, n in zip(names, rows[:, 0], strict=True)],
        ax=axes,
    )
    axes.set(xlabel="called", ylabel="true class")
    axes.tick_params(axis="y", rotation=0, length=0)
    axes.tick_params(axis="x", length=0)
    figure.subplots_adjust(left=0.26, right=0.97, top=0.93)
    return figure


def roc(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float,
    scores: Mapping[str, float],
    band: Band | None = None,
) -> Figure:
    """The ROC curve, with the operating point and, if given, its band. `scores` are `metrics.score`'s of the same."""
    fpr, tpr = roc_curve(labels, probabilities)
    figure, axes = _figure(f"Sensitivity against false positives\n{_films(labels)}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance")
    axes.plot(fpr, tpr, color=BLUE, linewidth=2, label=f"ROC, AUC {scores['auc']:.3f}")
    _shade(axes, band)
    _point(
        axes,
        1 - scores["specificity"],
        scores["sensitivity"],
        f"threshold {threshold:.2f}: sensitivity {scores['sensitivity']:.3f},\nspecificity {scores['specificity']:.3f}",
    )
    _unit_axes(axes, "false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    corner = _corner(axes, (0.4, 0.36, 0.55, 0.4))
    corner.plot(fpr, tpr, color=BLUE, linewidth=2)
    _shade(corner, band)
    corner.plot(
        [1 - scores["specificity"]], [scores["sensitivity"]], "o", color=ORANGE, markersize=8, markeredgecolor="white"
    )
    axes.legend(loc="lower right")
    return figure


def _corner(axes: Axes, place: tuple[float, float, float, float]) -> Axes:
    """The upper left corner of a ROC diagram, enlarged at `place` (left, bottom, width, height) of `axes`."""
    corner: Axes = axes.inset_axes(place, xlim=(0, 0.3), ylim=(0.7, 1.005))
    corner.set_title("the corner, enlarged", fontsize="small")
    corner.tick_params(labelsize="small")
    corner.grid(alpha=0.3)
    return corner


def rocs(labels: ArrayLike, models: Mapping[str, ArrayLike]) -> Figure:
    """The ROC curves of several models, each name to its probabilities [N] of the same films."""
    figure, axes = _figure(f"Sensitivity against false positives\n{_films(labels)}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    corner = _corner(axes, (0.42, 0.34, 0.53, 0.34))
    # Line styles as well as colours: curves overlap, and some readers are colour-blind.
    styles = zip(itertools.cycle(("-", "--", "-.", ":", (0, (5, 1)))), itertools.cycle((BLUE, ORANGE, GREEN, BLACK)))
    for (name, probabilities), (style, colour) in zip(models.items(), styles, strict=False):
        fpr, tpr = roc_curve(labels, probabilities)
        label = f"{plain(textwrap.shorten(name, 40))}, AUC {auc(labels, probabilities):.3f}"
        for where in (axes, corner):
            where.plot(fpr, tpr, linestyle=style, color=colour, linewidth=1.5, label=label)
    _unit_axes(axes, "false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    axes.legend(loc="lower right", fontsize="small")
    return figure


def precision_recall(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float,
    scores: Mapping[str, float],
    band: Band | None = None,
) -> Figure:
    """The precision-recall curve, with the operating point, the share of positives as the floor and, if given, its
    band. `scores` are `metrics.score`'s of the same.
    """
    recall, precision = precision_recall_curve(labels, probabilities)
    share = float(np.mean(np.asarray(labels)))
    figure, axes = _figure(f"Precision against recall\n{_films(labels)}")
    axes.axhline(share, color=GREY, linestyle=":", linewidth=1, label=f"share of positives {share:.3f}")
    axes.step(
        recall,
        precision,
        where="pre",
        color=BLUE,
        linewidth=2,
        label=f"average precision {scores['average_precision']:.3f}",
    )
    _shade(axes, band)
    _point(
        axes,
        scores["sensitivity"],
        scores["precision"],
        f"threshold {threshold:.2f}: recall {scores['sensitivity']:.3f},\nprecision {scores['precision']:.3f}",
    )
    _unit_axes(axes, "recall (sensitivity)", "precision")
    axes.legend(loc="lower left")
    return figure


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float | None, *, ece: float, of: str = ""
) -> Figure:
    """Observed share of positives against the mean probability of each of 15 bins, over the histogram of films.

    Args:
        threshold: None where the probabilities are not those that films are called by.
        ece: the expected calibration error, as `metrics.score` has it.
        of: which films and probabilities these are, for the title.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    mean, observed, count = reliability_bins(y, p)
    figure = _canvas()
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.set_title(f"Can the probability be taken at its word?\n{of}{', ' * bool(of)}{_films(y)}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="perfect calibration")
    filled = count > 0
    spread = np.array([wilson(o * n, n) for o, n in zip(observed[filled], count[filled], strict=True)]).T
    axes.errorbar(
        mean[filled],
        observed[filled],
        yerr=np.abs(spread - observed[filled]),
        fmt="o-",
        color=BLUE,
        ecolor="#9CC4DD",
        markersize=5,
        label=f"films in {BINS} bins, 95% by film (Wilson); ECE {ece:.3f}",
    )
    if threshold is not None:
        axes.axvline(threshold, color=ORANGE, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    _unit_axes(axes, "", "observed share of positives")
    axes.legend(loc="lower right", fontsize="small")
    edges = np.linspace(0, 1, BINS + 1)
    for label, name, colour in ((0, "negative", GREY), (1, "positive", BLUE)):
        below.stairs(np.histogram(p[y == label], edges)[0], edges, color=colour, linewidth=2, label=name)
    below.set_yscale("log")
    below.set_ylim(0.7, max(10, 2 * y.size))  # a bin with one film shows
    below.yaxis.set_major_formatter(EngFormatter(sep=""))
    below.yaxis.set_minor_formatter(NullFormatter())
    if threshold is not None:
        below.axvline(threshold, color=ORANGE, linestyle="--", linewidth=1)
    below.set(xlabel="predicted probability of the positive class", ylabel="films (log)")
    below.legend(loc="upper center", ncols=2, fontsize="small")
    return figure


def histograms(groups: Mapping[str, ArrayLike], threshold: float) -> Figure:
    """How the probabilities of each group of films are spread: a histogram over the other, with a common scale.

    Args:
        groups: name of the group to the probabilities of its films, each [N]; the largest six are drawn.
    """
    largest = sorted(groups, key=lambda name: -len(np.asarray(groups[name])))[:6]
    shown = {name: np.asarray(p, dtype=np.float64) for name, p in groups.items() if name in largest}
    figure = _canvas()
    every = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    left = f"\nthe largest {len(shown)} of {len(groups)} groups" if len(groups) > len(shown) else ""
    every[0].set_title(f"Which probabilities the films are given{left}")
    edges = np.linspace(0, 1, 31)
    most = max(np.histogram(p, edges)[0].max() for p in shown.values())
    colours = itertools.cycle((GREY, BLUE, GREEN, BLACK))
    for axes, (name, p), colour in zip(every, shown.items(), colours, strict=False):
        axes.stairs(np.histogram(p, edges)[0], edges, color=colour, fill=True, label=f"{plain(name)}, n = {p.size:,}")
        axes.axvline(threshold, color=ORANGE, linestyle="--", linewidth=1.5)
        axes.set_yscale("log")
        axes.set_ylim(0.7, max(10, 3 * most))  # a bin with one film shows
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("films (log)")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", fontsize="small")
    every[-1].set(xlabel=f"predicted probability of the positive class; dashed: threshold {threshold:.2f}", xlim=(0, 1))
    return figure


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and validation AUC by epoch. `history` has a mapping of metric names to values for each epoch."""
    epochs = np.arange(1, len(history) + 1)
    figure = _canvas()
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_title(f"Learning, {len(history)} epochs")
    for axes, names in (
        (above, ("train/loss", "val/loss", "val/objective")),
        (below, ("val/auc", "val/balanced_accuracy")),
    ):
        for name, colour, style in zip(names, (BLUE, ORANGE, GREEN), ("-", "--", "-."), strict=False):
            values = np.array([epoch.get(name, np.nan) for epoch in history], dtype=np.float64)
            if np.isfinite(values).any():
                axes.plot(epochs, values, style, color=colour, marker="o", markersize=3, label=name)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="upper right" if axes is above else "lower right")
    above.set_ylabel("loss, nats")
    above.set_ylim(bottom=0)
    below.set(xlabel="epoch", ylabel="score on val")
    below.set_ylim(0.5, 1.005)
    below.xaxis.get_major_locator().set_params(integer=True)
    return figure


def seeds(recipes: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Each score's value for each seed as a dot, and mean ± standard deviation as a bar: a row a score, each with a
    scale of its own.

    Args:
        recipes: name of the recipe to its scores, each name to its values [S] in the order of the seeds; all recipes
            have the same scores. The first four are drawn.
    """
    shown = {
        recipe: {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
        for recipe, scores in itertools.islice(recipes.items(), 4)
    }
    names = list(next(iter(shown.values())))
    figure = _canvas()
    figure.subplots_adjust(left=0.27, right=0.77, bottom=0.11, top=0.9 if len(shown) == 1 else 0.8, hspace=0.9)
    every = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    left = f", the first {len(shown)} of {len(recipes)} recipes" if len(recipes) > len(shown) else ""
    every[0].set_title(f"Scores by seed, mean ± standard deviation{left}", fontsize="medium" if left else "large")
    for axes, name in zip(every, names, strict=True):
        for row, (recipe, scores) in enumerate(shown.items()):
            values, colour = scores[name], (BLUE, ORANGE, GREEN, BLACK)[row]
            there = np.isfinite(values)
            # Spread vertically in the order of the seeds, so that equal values do not overlap.
            heights = -row - 0.3 * np.linspace(-1, 1, values.size) if values.size > 1 else np.array([-row])
            axes.plot(values[there], heights[there], "o", color=colour, markersize=4, alpha=0.6, clip_on=False)
            if there.any():
                mean, spread = values[there].mean(), values[there].std(ddof=1) if there.sum() > 1 else np.nan
                bar = None if np.isnan(spread) else spread
                axes.errorbar(
                    mean, -row, xerr=bar, fmt="|", color=colour, markersize=14, capsize=4, label=plain(recipe)
                )
                if len(shown) < 3:  # more than two lines would overlap
                    text, at = mean_and_spread(mean, spread), 1 - (row + 0.5) / len(shown)
                    axes.text(1.03, at, text, color=colour, transform=axes.transAxes, va="center", fontsize="small")
        axes.set(yticks=[], ylim=(0.5 - len(shown), 0.5))
        axes.set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center")
        axes.margins(x=0.08)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.locator_params(axis="x", nbins=5)
        axes.tick_params(axis="x", labelsize="small")
        axes.grid(axis="x", alpha=0.3)
    every[-1].set_xlabel("score; each row has its own scale")
    if len(shown) > 1:
        handles, labels = every[0].get_legend_handles_labels()
        labels = [textwrap.shorten(label, 70) for label in labels]
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 1.0), fontsize="small", frameon=False)
    return figure


def plain(name: str) -> str:
    """A user's name as matplotlib must have it: no formula between dollars, and no leading _, which hides a legend."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG of 600 x 500 pixels; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI)


def _canvas() -> Figure:
    figure = Figure(figsize=(WIDE_INCHES, HIGH_INCHES))
    FigureCanvasAgg(figure)
    # Fixed margins, not constrained layout: the axes lie at the same place in every run's figure, in half the time.
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.1, top=0.89, hspace=0.08)
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = _canvas()
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _films(labels: ArrayLike) -> str:
    y = np.asarray(labels)
    return f"n = {y.size:,}: {int((y == 1).sum()):,} positive, {int((y == 0).sum()):,} negative"


def _point(axes: Axes, x: float, y: float, label: str) -> None:
    axes.plot([x], [y], "o", color=ORANGE, markersize=9, markeredgecolor="white", label=label, zorder=3)


def _shade(axes: Axes, band: Band | None) -> None:
    if band is not None:
        axes.fill_between(band.x, band.low, band.high, color=BLUE, alpha=0.15, linewidth=0, label="95% at each point")


def _unit_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
