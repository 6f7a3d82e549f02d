"""The pruner: which trials end early, and what is left of those that do."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from experiments.search_study import replay
from pneumonia.data import cache
from pneumonia.runtime.signals import Stop
from pneumonia.search import connection, pruning, report, worker
from pneumonia.search import study as studies
from pneumonia.search.worker import Task
from pneumonia.tracking.store import Tracker
from tests.search.conftest import Always


def ends(pruner: optuna.pruners.BasePruner, curves: Sequence[Sequence[float]]) -> list[int]:
    """After how many epochs each trial ends, one trial after the other."""
    study = optuna.create_study(pruner=pruner)
    lengths = []
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve, 1):
            trial.report(value, epoch)
            if trial.should_prune():
                break
        lengths.append(epoch)
    return lengths


def test_of_those_that_come_only_the_best_third_goes_on() -> None:
    first, second, third = [0.5, 0.4, 0.3, 0.2], [0.4, 0.1, 0.1, 0.1], [0.45, 0.1, 0.1, 0.1]
    fourth, fifth = [0.3, 0.2, 0.9, 0.9], [0.2, 0.1, 0.05, 0.01]
    curves = [first, second, third, fourth, fifth]
    assert ends(pruning.pruner("halving", 4, long=False), curves) == [1, 3, 1, 3, 4]


@pytest.mark.parametrize(("epochs", "first_look"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (24, 6)])
def test_the_first_look_comes_after_a_quarter(epochs: int, first_look: int) -> None:
    assert ends(pruning.pruner("halving", epochs, long=False), [[0.1] * epochs, [0.9] * epochs]) == [
        first_look,
        first_look,
    ]


def test_long_trials_are_judged_from_half_on_by_the_median_of_those_that_ended() -> None:
    study = optuna.create_study(pruner=pruning.pruner("halving", 8, long=True))
    lengths = []
    for level in (0.5, 0.6, 0.7, 0.8, 0.9, 0.4):
        trial = study.ask()
        for epoch in range(1, 9):
            trial.report(level, epoch)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, level)
        lengths.append(epoch)
    assert lengths == [8, 8, 8, 8, 4, 8]


def test_none_ends_no_trial() -> None:
    curves = [[value / 10] * 4 for value in range(1, 10)]
    assert ends(pruning.pruner("none", 4, long=False), curves) == [4] * 9


@pytest.mark.slow
@pytest.mark.parametrize(("after", "state"), [(1, TrialState.PRUNED), (2, TrialState.COMPLETE)])
def test_a_trial_but_the_recipe_is_pruned_before_its_last_epoch_or_not_at_all(
    task: Task, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, after: int, state: TrialState
) -> None:
    pruner = Always(after)
    monkeypatch.setattr(pruning, "pruner", lambda kind, epochs, long: pruner)
    worker.work(replace(task, goal=2), Stop())
    recipe, trial = studies.trials(studies.load(connection.connect(task.storage), task.study, seed=0, pruner=pruner))
    assert recipe.state == TrialState.COMPLETE
    assert len(recipe.intermediate_values) == 2
    assert trial.state == state
    assert pruner.asked == {1}
    assert len(trial.intermediate_values) == after
    run = tracker.client.get_run(trial.user_attrs["run_id"])
    assert run.data.tags["trial.state"] == state.name
    assert run.data.tags["trial.epochs"] == f"{after} of 2"
    if state == TrialState.PRUNED:
        assert run.data.tags["reason"].startswith("after epoch 1 of 2 its val/objective was not in the best third")
        assert run.info.status == "KILLED"
        assert "It ended after 1 of 2 epochs." in run.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_a_pruned_trial_holds_what_a_complete_one_does(
    task: Task, tracker: Tracker, decoded: cache.Decoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = Always(1)
    monkeypatch.setattr(pruning, "pruner", lambda kind, epochs, long: pruner)
    worker.work(replace(task, goal=3), Stop())
    study = studies.load(connection.connect(task.storage), task.study, seed=0, pruner=pruner)
    complete, *pruned = (tracker.client.get_run(trial.user_attrs["run_id"]) for trial in studies.trials(study))
    assert [run.data.tags["trial.state"] for run in (complete, *pruned)] == ["COMPLETE", "PRUNED", "PRUNED"]
    for run in pruned:
        assert run.data.metrics.keys() == complete.data.metrics.keys()
        assert run.data.params.keys() == complete.data.params.keys()
        assert files(tracker, run.info.run_id) == files(tracker, complete.info.run_id)
        model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
        assert model.metadata.signature is not None
        film = cv2.imencode(".png", np.asarray(decoded.films[0]))[1].tobytes()
        answer = model.predict(pd.DataFrame({"image": [base64.b64encode(film).decode()]}))
        assert 0 < answer["probability"].iloc[0] < 1
        matrix = json.loads(tracker.text_of(run.info.run_id, "confusion_matrix.json") or "")
        (_, fp), (fn, tp) = matrix
        assert run.data.metrics["val/sensitivity"] == pytest.approx(tp / (tp + fn))
        assert sum(map(sum, matrix)) == len(decoded.index.only("val")) > fp

    table = report.table(study)
    assert table.notna().all(axis=None)
    values = {run.data.tags["trial.number"]: run.data.metrics["val/objective"] for run in (complete, *pruned)}
    assert dict(zip(table["trial"].astype(str), table["val/objective"], strict=True)) == pytest.approx(values)
    style = dict(matplotlib.rcParams)
    report.figures(study, tmp_path / "search")
    assert dict(matplotlib.rcParams) == style  # what is drawn later looks as it did before
    assert {path.stem for path in (tmp_path / "search").iterdir()} == {
        "history",
        "importance",
        "parallel_coordinate",
        "slice",
    }


def files(tracker: Tracker, run_id: str, folder: str | None = None) -> set[str]:
    """The paths of a run's artifacts; pictures of the gallery, whose names hold the time, without it."""
    found: set[str] = set()
    for item in tracker.client.list_artifacts(run_id, folder):
        found |= (
            files(tracker, run_id, item.path)
            if item.is_dir
            else {re.sub(r"\+step.*?(\+compressed)?\.", r"\1.", item.path)}
        )
    return found


@pytest.mark.slow
def test_where_the_recipe_fails_another_trial_comes_to_its_end(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    pruner, training, faults = Always(1), worker.run_training, ["the recipe's"]

    def faulty(*args: Any, **more: Any) -> float:
        if faults:
            raise MemoryError(faults.pop())
        return training(*args, **more)

    monkeypatch.setattr(pruning, "pruner", lambda kind, epochs, long: pruner)
    monkeypatch.setattr(worker, "run_training", faulty)
    worker.work(replace(task, goal=2), Stop())
    study = studies.load(connection.connect(task.storage), task.study, seed=0, pruner=pruner)
    assert [t.state for t in studies.trials(study)] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED]


def test_a_replay_counts_epochs_and_keeps_the_best_that_was_left() -> None:
    curves = [[0.5, 0.4], [0.6, 0.1], [0.3, 0.35]]
    assert replay(curves, optuna.pruners.NopPruner()) == (6, 0.1)
    assert replay(curves, optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)) == (5, 0.3)
    with_recipe = replay(curves, pruning.pruner("halving", 2, long=False), recipe=True)
    assert with_recipe == (5, 0.3)
