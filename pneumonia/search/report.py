"""What a search shows of itself: the table of trials and Optuna's plots."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.trial import TrialState

from pneumonia import plots
from pneumonia.config import search_space
from pneumonia.search import study as studies
from pneumonia.trial import OBJECTIVE


def table(study: optuna.Study) -> pd.DataFrame:
    """A row a trial, the best first: number, state, objective, val AUC, the parameters, seconds, the reason."""
    rows = []
    for trial in studies.trials(study):
        if trial.user_attrs.get("reason") == "surplus" or trial.state == TrialState.WAITING:
            continue
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name,
                OBJECTIVE: trial.value if trial.state == TrialState.COMPLETE else None,
                "val/auc": trial.user_attrs.get("val/auc"),
                **{name: trial.params.get(name) for name in search_space()},
                "epochs": len(trial.intermediate_values),
                "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
                "reason": trial.user_attrs.get("reason", ""),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.sort_values(OBJECTIVE, na_position="last", ignore_index=True) if rows else frame


def figures(study: optuna.Study, folder: Path) -> None:
    """Optuna's history, importance, slice and parallel-coordinate plots, as PNG files in `folder`.

    Importance needs at least two complete trials that differ in value; with fewer it is left out.
    """
    from optuna.visualization import matplotlib as visualization

    complete = {trial.value for trial in studies.trials(study, TrialState.COMPLETE)}
    drawings: dict[str, Callable[[], Any]] = {
        "history": lambda: visualization.plot_optimization_history(study),
        "slice": lambda: visualization.plot_slice(study),
        "parallel_coordinate": lambda: visualization.plot_parallel_coordinate(study),
    }
    if len(complete) > 1:
        drawings["importance"] = lambda: visualization.plot_param_importances(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the matplotlib back end calls itself experimental
        for name, draw in drawings.items():
            axes = draw()
            first = axes.flat[0] if hasattr(axes, "flat") else axes
            plots.save(cast(Figure, first.figure), folder / f"{name}.png")
