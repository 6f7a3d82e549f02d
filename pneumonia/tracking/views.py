"""How an experiment looks in MLflow's UI: its kind, and the saved views that the links of `ui` open.

A saved view is a tag of the experiment, `mlflow.sharedViewState.KEY`, which the address `...?viewStateShareKey=KEY`
applies and the menu of views shows by its name. Its value is what MLflow 3.17 writes there itself: a name, times, and
the state of the page as JSON within the JSON.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from pneumonia.tracking.tags import TRIAL_STATE

KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"  # without it an experiment counts as one of the GenAI half of the UI
SAVED_VIEW = "mlflow.sharedViewState."

TRAININGS = "params.lr LIKE '%'"  # runs with a learning rate: trials, final and single trainings
OBJECTIVE = "metrics.`val/objective`"
COLUMNS = {  # pixels, in the order shown: settings beside results
    f"tags.`{TRIAL_STATE}`": 110,
    OBJECTIVE: 100,
    "params.`lr`": 90,
    "params.`width`": 60,
    "metrics.`val/auc`": 90,
    "metrics.`val/sensitivity`": 110,
    "metrics.`val/specificity`": 110,
    "metrics.`val/log_loss`": 100,
}
FIXED = {"attributes.`Run Name`": 130, "runDateAndNestInfo": 150}  # pixels; shown before all others
# The gallery's pictures, where there are enough films of both classes.
FILMS = tuple(f"films/{number}_{'negative' if number <= 4 else 'positive'}" for number in range(1, 9))
CURVES = ("val/objective", "val/auc", "val/loss", "train/loss")
OTHERS = (
    "val",
    "train",
    "films",
    "data",
    "record",
    "System metrics",
)  # sections that MLflow makes for all other charts


def experiment_tags() -> dict[str, str]:
    """The tags that an experiment of ours has."""
    gallery = {"type": "IMAGE", "uuid": "gallery", "imageKeys": list(FILMS), "step": 0, "showRunParams": False}
    curves = [{"type": "LINE", "uuid": name, "metricKey": name, "selectedMetricKeys": [name]} for name in CURVES]
    states = {
        "films": charts("gallery", [gallery], columns=1, height=900),
        "curves": charts("curves", curves, columns=2, height=360),
        "trials": table(TRAININGS),
    }
    return {KIND: TRAINING, **{SAVED_VIEW + name: saved(name, state) for name, state in states.items()}}


def under(run_id: str, name: str) -> tuple[str, str]:
    """The tag of the view of the runs under one, such as a search's trials; opened by the key `run_id`."""
    return SAVED_VIEW + run_id, saved(f"{name} {run_id[:8]}", table(f"tags.mlflow.parentRunId = '{run_id}'"))


def saved(name: str, state: dict[str, Any]) -> str:
    """A saved view as MLflow stores it."""
    now = time.time_ns() // 1_000_000
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})


def table(runs: str) -> dict[str, Any]:
    """The state of a page that shows the runs of a search filter, the best first."""
    return {
        "searchFilter": runs,
        "orderByKey": OBJECTIVE,
        "orderByAsc": True,
        "selectedColumns": list(COLUMNS),
        "columnOrder": [*FIXED, *COLUMNS],
        "columnWidths": {**FIXED, **COLUMNS},
    }


def charts(section: str, cards: Sequence[dict[str, Any]], *, columns: int, height: int) -> dict[str, Any]:
    """The state of a page whose charts are `cards`, `columns` side by side and `height` pixels high; the charts of all
    other metrics and pictures are there below, folded away.
    """
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False, "runsCountToCompare": 10}
    first = {"uuid": section, "name": section, "display": True, "columns": columns, "cardHeight": height}
    folded = [{"uuid": f"all-{name}", "name": name, "display": False} for name in OTHERS]
    return {
        **table(TRAININGS),
        "compareRunCharts": [{**card, **common} for card in cards],
        "compareRunSections": [{"isReordered": False, "deleted": False, **one} for one in (first, *folded)],
        "isAccordionReordered": True,  # or the first section would be sorted by its name
    }
