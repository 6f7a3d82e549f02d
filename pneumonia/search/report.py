"""The report of a search: the table of trials and Optuna's plots."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import matplotlib
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from pneumonia.reports import plots
from pneumonia.runs.train import OBJECTIVE
from pneumonia.search import attributes, connection, study_space
from pneumonia.search import study as studies

SCORES = ("val/auc", "val/sensitivity", "val/specificity", "val/log_loss")


def table(study: optuna.Study) -> pd.DataFrame:
    """A row a trial, the best first, complete and pruned ones alike: number, state, objective, scores, the parameters,
    epochs, seconds, the reason.
    """
    rows, searched = [], connection.with_retries(lambda: study_space.read(study))
    for trial in studies.trials(study):
        if trial.user_attrs.get(attributes.REASON) == attributes.SURPLUS or trial.state == TrialState.WAITING:
            continue
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name,
                OBJECTIVE: studies.value(trial) if trial.state in studies.DONE else None,
                **{name: trial.user_attrs.get(name) for name in SCORES},
                **{name: trial.params.get(name) for name in searched},
                "epochs": len(trial.intermediate_values),
                "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
                "reason": trial.user_attrs.get(attributes.REASON, ""),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.sort_values(OBJECTIVE, na_position="last", ignore_index=True) if rows else frame


def figures(study: optuna.Study, folder: Path) -> None:
    """Optuna's history, importance, slice and parallel-coordinate plots, as PNG files in `folder`.

    They are of every trial that has a value. Pruned ones, whose value is of fewer epochs, are crossed out in the
    history. Importance needs at least two values that differ; with fewer it is left out.
    """
    from optuna.visualization import matplotlib as visualization

    drawn = _all_complete(study)
    pruned = studies.trials(study, TrialState.PRUNED)
    drawings: dict[str, Callable[[], Any]] = {
        "history": lambda: visualization.plot_optimization_history(drawn, target_name=OBJECTIVE),
        "slice": lambda: visualization.plot_slice(drawn, target_name=OBJECTIVE),
        "parallel_coordinate": lambda: visualization.plot_parallel_coordinate(drawn, target_name=OBJECTIVE),
    }
    if len({trial.value for trial in drawn.trials} - {None}) > 1:
        drawings["importance"] = lambda: visualization.plot_param_importances(drawn, target_name=OBJECTIVE)
    with warnings.catch_warnings(), matplotlib.rc_context():  # Optuna sets a style that would stay for later figures
        warnings.simplefilter("ignore")  # the matplotlib back end calls itself experimental
        for name, draw in drawings.items():
            axes = draw()
            if name == "history" and pruned:
                crosses = [trial.number for trial in pruned], [studies.value(trial) for trial in pruned]
                axes.scatter(*crosses, marker="x", s=60, color=plots.ORANGE, zorder=3, label="pruned")
                axes.legend()
            first = axes.flat[0] if hasattr(axes, "flat") else axes
            plots.save(cast(Figure, first.figure), folder / f"{name}.png")


def _all_complete(study: optuna.Study) -> optuna.Study:
    """A copy in memory, numbers kept, in which trials that are done count as complete: Optuna draws no pruned one."""

    def twin(trial: FrozenTrial) -> FrozenTrial:
        if trial.state not in studies.DONE:
            return optuna.create_trial(state=TrialState.FAIL)
        return optuna.create_trial(value=studies.value(trial), params=trial.params, distributions=trial.distributions)

    copy = optuna.create_study(direction="minimize")
    copy.add_trials([twin(trial) for trial in studies.trials(study)])
    return copy
