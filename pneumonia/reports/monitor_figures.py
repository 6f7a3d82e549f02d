"""The figures of what was served. They have the size and the colours of the figures of a run (`plots`)."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from pneumonia.metrics.logistic import logit
from pneumonia.reports.plots import BLUE, GREEN, GREY, HIGH_INCHES, ORANGE, WIDE_INCHES, plain
from pneumonia.results.monitoring import LABELLED, Monitoring
from pneumonia.served import FAMILIAR

TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)  # probabilities on an axis of logits


def answers_by_day(m: Monitoring) -> Figure:
    """How many films were scored and refused on each day."""
    figure, (axes,) = _canvas(1, f"Answers by day, n = {len(m.answers):,}")
    scored = m.days["answers"] - m.days["refused"]
    axes.bar(m.days.index, scored, color=BLUE, width=0.9, label="scored")
    axes.bar(m.days.index, m.days["refused"], bottom=scored, color=ORANGE, width=0.9, label="refused")
    axes.set_ylabel("answers")
    axes.legend(fontsize="small")
    _dates(axes)
    return figure


def scores(m: Monitoring) -> Figure:
    """The distribution functions of the served films' scores and the validation films'."""
    figure, (axes,) = _canvas(1, "Which probabilities films are given")
    lines: list[tuple[str, np.ndarray, np.ndarray | None, str, str]] = [
        (f"served, n = {len(m.scored):,}", logit(m.scored["probability"].to_numpy()), None, BLUE, "-")
    ]
    if m.val is not None:
        lines.append((f"validation films, n = {m.val.logits.size:,}", m.val.logits, None, GREY, "--"))
    if m.val is not None and m.drift is not None:
        share, prevalence = m.drift.share, float(np.mean(m.val.labels))
        weights = np.where(m.val.labels == 1, share / prevalence, (1 - share) / (1 - prevalence))
        lines.append((f"the same with {share:.0%} {m.classes[1]}", m.val.logits, weights, GREEN, "-."))
    for name, x, given, colour, style in lines:
        order = np.argsort(x)
        at = np.ones(x.size) if given is None else given
        axes.step(x[order], at[order].cumsum() / at.sum(), style, where="post", color=colour, label=plain(name))
    axes.axvline(float(logit(m.threshold)), color=ORANGE, linestyle=":", label=f"threshold {m.threshold:.2f}")
    axes.set_xticks(logit(TICKS), [f"{tick:g}" for tick in TICKS])
    axes.set(xlim=(-8, 8), ylim=(-0.01, 1.01), xlabel="probability of the positive class, on the logit scale")
    axes.set_ylabel("share of films below")
    axes.legend(loc="upper left", fontsize="small")
    return figure


def shares(m: Monitoring) -> Figure:
    """The share of films called positive, and of unfamiliar ones, on each day."""
    figure, (above, below) = _canvas(2, "Shares by day; the larger the dot, the more films")
    films = m.days["answers"] - m.days["refused"]
    sizes = 10 + 60 * films / max(int(films.max()), 1)
    above.scatter(m.days.index, m.days["positive"], sizes, color=BLUE)
    above.axhline(m.positive[0], color=BLUE, linewidth=1, label=f"all {m.positive[0]:.1%}")
    if m.val is not None:
        called = float(np.mean(m.val.logits >= logit(m.threshold)))
        above.axhline(called, color=GREY, linestyle="--", linewidth=1, label=f"validation films {called:.1%}")
    above.set_ylabel(f"called {plain(m.classes[1])}")
    below.scatter(m.days.index, m.days["unfamiliar"], sizes, color=ORANGE)
    below.axhline(FAMILIAR, color=GREY, linestyle="--", linewidth=1, label=f"validation films {FAMILIAR:.0%}")
    below.set_ylabel("unfamiliar")
    for axes in (above, below):
        axes.set_ylim(-0.03, 1.03)
        axes.legend(loc="upper left", fontsize="small")
    _dates(below)
    return figure


def scores_by_period(m: Monitoring) -> Figure:
    """AUC, sensitivity and specificity of each week or month, with 95% intervals."""
    figure, (axes,) = _canvas(1, "Labelled films, scores with 95% intervals")
    at = np.arange(len(m.periods))
    marks = zip(LABELLED, (BLUE, ORANGE, GREEN), ("o", "s", "^"), itertools.count(), strict=False)
    for name, colour, mark, number in marks:
        values = np.array([period.scores[name] for period in m.periods])
        bounds = np.array([period.intervals[name] for period in m.periods]).T
        bars = np.nan_to_num(np.abs(bounds - values))
        x = at + 0.18 * (number - 1)
        label = "AUC" if name == "auc" else name
        axes.errorbar(x, values, bars, fmt=mark, color=colour, markersize=5, capsize=2, label=label)
    if m.val is not None:
        axes.axhline(m.val_auc[0], color=GREY, linestyle="--", linewidth=1, label="AUC of the validation films")
    step = max(1, -(-len(at) // 10))
    axes.set_xticks(at[::step], [f"{p.name}\n{p.films}" for p in m.periods][::step], fontsize="small")
    axes.set(xlabel="week or month, and its labelled films", ylabel="score", xlim=(-0.6, len(at) - 0.4))
    axes.set_ylim(top=1.02)
    axes.legend(loc="lower left", fontsize="small")
    return figure


def _dates(axes: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlabel("day, UTC")


def _canvas(rows: int, title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDE_INCHES, HIGH_INCHES))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.13, top=0.92, hspace=0.08)
    every = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0].tolist()
    every[0].set_title(title)
    for axes in every:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure, every
