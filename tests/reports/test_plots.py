import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pneumonia.metrics import scores as metrics
from pneumonia.metrics.bands import bands
from pneumonia.metrics.calibration import Calibration
from pneumonia.reports import plots

pytestmark = pytest.mark.figures

rng = np.random.default_rng(0)
Y = np.repeat([0, 1], [40, 120])
P = Calibration(1.0, 0.0).apply(rng.normal(4 * Y - 2, 1.5))
SCORES = metrics.score(Y, P, 0.4)
HISTORY = [{"train/loss": 0.7 / e, "val/loss": 0.6 / e, "val/auc": 1 - 0.2 / e} for e in range(1, 9)]
SEEDS = {"auc": [0.95, 0.97, 0.96], "log_loss": [0.1, np.nan, 0.2], "brier": [0.1, 0.1, 0.1]}

FIGURES: dict[str, Callable[[], Figure]] = {
    "confusion_matrix": lambda: plots.confusion_matrix(metrics.confusion(Y, P, 0.4), ("NORMAL", "PNEUMONIA")),
    "roc": lambda: plots.roc(Y, P, 0.4, SCORES),
    "precision_recall": lambda: plots.precision_recall(Y, P, 0.4, SCORES),
    "reliability": lambda: plots.reliability(Y, P, 0.4, ece=SCORES["ece"]),
    "roc with a band": lambda: plots.roc(Y, P, 0.4, SCORES, bands(Y, P, patients=np.arange(Y.size))[0]),
    "histograms": lambda: plots.histograms({"NORMAL": P[Y == 0], "PNEUMONIA": P[Y == 1]}, 0.4),
    "learning_curves": lambda: plots.learning_curves(HISTORY),
    "seeds": lambda: plots.seeds({"": SEEDS}),
    "seeds of two recipes": lambda: plots.seeds({"_one, of $x$": SEEDS, "two": SEEDS}),
}


def texts(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("name", FIGURES)
def test_each_is_a_png_of_one_size_with_axes_that_say_what_they_are(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    plots.save(figure, tmp_path / "figures" / f"{name}.png")
    header = (tmp_path / "figures" / f"{name}.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (600, 500)
    assert figure.axes[0].get_title()
    assert all(axes.get_ylabel() for axes in figure.axes)
    assert any(axes.get_xlabel() for axes in figure.axes)


LARGE = {
    "long names": lambda: plots.confusion_matrix(
        [[1_234_567, 26], [5, 2_345_678]], ("no finding", "COVID-19 pneumonia")
    ),
    "one word": lambda: plots.confusion_matrix([[12, 3], [4, 56]], ("negative", "bacterialpneumonia" * 3)),
    "six groups": lambda: plots.histograms({f"subtype {n}": P for n in range(9)}, 0.4),
    "before the calibration": lambda: plots.reliability(Y, P, None, ece=0.1, of="test before"),
    "few films": lambda: plots.reliability([0, 1, 1], [0.2, 0.4, 0.9], 0.5, ece=0.1),
    "many films": lambda: plots.reliability(np.tile([0, 1], 200_000), np.tile([0.2, 0.9], 200_000), 0.5, ece=0.1),
}


def test_seeds_show_every_seed_and_what_they_say_together() -> None:
    figure = plots.seeds({"": SEEDS})
    assert [axes.get_ylabel() for axes in figure.axes] == ["auc", "log loss", "brier"]
    for axes, values in zip(figure.axes, SEEDS.values(), strict=True):
        there = [value for value in values if np.isfinite(value)]
        assert axes.lines[0].get_xdata().tolist() == there
        assert metrics.mean_and_spread(float(np.mean(there)), float(np.std(there, ddof=1))) in texts(figure)
    assert "0.9600 ± 0.0100" in texts(figure)
    assert "the first 4 of 5 recipes" in texts(plots.seeds({f"{at}": SEEDS for at in range(5)}))
    assert metrics.mean_and_spread(0.5, np.nan) == "0.5000"
    assert metrics.mean_and_spread(np.nan, np.nan) == "none"


def test_names_are_drawn_as_they_are() -> None:
    """Not as formulas, which may not parse, nor left out of the legend for a leading _."""
    odd = ("_$\\frac$", "100 $")
    drawn = texts(plots.histograms({odd[0]: P[Y == 0], odd[1]: P[Y == 1]}, 0.4))
    assert r"_\$\frac\$, n = 40" in drawn
    assert r"100 \$, n = 120" in drawn
    assert r"\$\frac\$" in texts(plots.confusion_matrix([[1, 2], [3, 4]], odd))
    figure = plots.rocs(Y, dict.fromkeys(odd, P))
    figure.canvas.draw()
    assert len(figure.axes[0].get_legend().get_texts()) == 2


@pytest.mark.parametrize("groups", [1, 5, 9])
def test_no_panel_of_the_histograms_is_empty(groups: int) -> None:
    figure = plots.histograms({f"subtype {n}": P[: 10 + n] for n in range(groups)}, 0.4)
    assert len(figure.axes) == min(groups, 6)
    assert all(axes.patches for axes in figure.axes)
    assert ("the largest 6 of 9 groups" in texts(figure)) == (groups == 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FIGURES, *LARGE])
def test_nothing_is_cut_off_at_the_edge(name: str) -> None:
    figure = {**FIGURES, **LARGE}[name]()
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= 6
    assert box.y1 <= 5


def curve(name: str, labels: ArrayLike, p: ArrayLike, threshold: float) -> Figure:
    scores = metrics.score(labels, p, threshold)
    if name == "reliability":
        return plots.reliability(labels, p, threshold, ece=scores["ece"])
    return {"roc": plots.roc, "precision_recall": plots.precision_recall}[name](labels, p, threshold, scores)


@pytest.mark.parametrize("name", ["roc", "precision_recall", "reliability"])
def test_axes_do_not_depend_on_the_films(name: str) -> None:
    other = rng.permutation(np.repeat([0, 1], [300, 900]))
    first, second = FIGURES[name](), curve(name, other, np.full(1200, 0.5) + 0.3 * other, 0.9)
    for figure in (first, second):
        figure.canvas.draw()
    assert first.axes[0].get_xlim() == second.axes[0].get_xlim()
    assert first.axes[0].get_ylim() == second.axes[0].get_ylim()
    assert first.axes[0].get_position().bounds == second.axes[0].get_position().bounds


def test_the_confusion_matrix_shows_counts_row_shares_and_classes() -> None:
    shown = texts(plots.confusion_matrix([[1234, 26], [5, 1995]], ("NORMAL", "PNEUMONIA")))
    for part in (
        "1,234\n97.9 %",
        "26\n2.1 %",
        "5\n0.2 %",
        "1,995\n99.8 %",
        "NORMAL\n(n = 1,260)",
        "PNEUMONIA\n(n = 2,000)",
    ):
        assert part in shown
    assert "0\n0.0 %" in texts(plots.confusion_matrix([[0, 0], [1, 9]], ("a", "b")))


def test_curves_say_their_scores_and_how_many_films() -> None:
    assert f"AUC {SCORES['auc']:.3f}" in texts(FIGURES["roc"]())
    assert f"average precision {SCORES['average_precision']:.3f}" in texts(FIGURES["precision_recall"]())
    assert f"ECE {SCORES['ece']:.3f}" in texts(FIGURES["reliability"]())
    for name in ("roc", "precision_recall", "reliability"):
        assert "n = 160: 120 positive, 40 negative" in texts(FIGURES[name]())


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("name", ["roc", "precision_recall", "reliability"])
def test_one_class_only_still_draws(label: int, name: str, tmp_path: Path) -> None:
    plots.save(curve(name, [label] * 5, [0.1, 0.4, 0.5, 0.6, 0.9], 0.5), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_history_with_gaps_or_nothing_still_draws(tmp_path: Path) -> None:
    for number, history in enumerate(([], [{"val/auc": 0.9}], [{"train/loss": 1.0}, {"val/auc": float("nan")}])):
        plots.save(plots.learning_curves(history), tmp_path / f"{number}.png")


def test_pyplot_is_left_alone() -> None:
    figures = [draw() for draw in FIGURES.values()]
    assert figures
    pyplot = sys.modules.get("matplotlib.pyplot")  # seaborn imports it
    assert pyplot is None or pyplot.get_fignums() == []
