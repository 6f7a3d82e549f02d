"""How an experiment of ours looks in MLflow's UI."""

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
from mlflow import MlflowClient

from pneumonia.reports import gallery
from pneumonia.tracking import views
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import get_or_create_experiment, sent
from pneumonia.tracking.views import KIND, SAVED_VIEW, TRAINING


def state(value: str) -> dict[str, Any]:
    return json.loads(json.loads(value)["state"])


def test_an_experiment_that_we_make_is_one_of_training_with_three_views(store: str) -> None:
    client = MlflowClient(store)
    tags = client.get_experiment(Tracker(store).experiment_id("new")).tags
    assert tags[KIND] == TRAINING
    names = {json.loads(value)["name"] for key, value in tags.items() if key.startswith(SAVED_VIEW)}
    assert names == {"trials", "curves", "films"}


def test_one_that_is_there_gets_what_it_lacks_and_keeps_what_somebody_set(store: str) -> None:
    client = MlflowClient(store)
    mine = {KIND: "finetuning", SAVED_VIEW + "trials": "of my own", SAVED_VIEW + "other": "too", "team": "radiology"}
    client.create_experiment("theirs", tags=mine)
    for _ in range(2):
        found = get_or_create_experiment(client, "theirs")
    tags = client.get_experiment(found.experiment_id).tags
    assert mine.items() <= tags.items()
    assert {SAVED_VIEW + "curves", SAVED_VIEW + "films"} <= tags.keys()


def test_other_experiments_are_left_alone(store: str, new_record: Callable[..., Record]) -> None:
    client = MlflowClient(store)
    client.create_experiment("somebody's")
    Tracker(store).send(new_record())
    assert KIND not in client.get_experiment_by_name("somebody's").tags


def test_a_tag_is_short_enough_for_any_store() -> None:
    """5,000 characters, MLflow's bound before 2.20."""
    for key, value in [*views.experiment_tags().items(), views.under("a" * 32, "search chest_xray")]:
        assert len(value) <= 5000, key
        assert len(key) <= 250


def test_the_views_filter_finds_trainings_from_their_first_parameter_on(
    tracker: Tracker, new_record: Callable[..., Record]
) -> None:
    parent, trial, other = new_record("p", role="search"), new_record("t", role="trial"), new_record("e", role="eda")
    parent.add_params({"trials": 3, "best/lr": 0.1})
    trial.add_params({"lr": 1e-3})
    other.add_params({"data": "films"})
    parent_id = tracker.send(parent)
    trial.update(parent=parent_id)
    for record in (trial, other):
        tracker.send(record)
    filters = [state(value)["searchFilter"] for key, value in views.experiment_tags().items() if key != KIND]
    filters.append(state(views.under(parent_id, "search films")[1])["searchFilter"])
    for one in filters:
        found = tracker.client.search_runs(["1"], one, order_by=["metrics.`val/objective` ASC"])
        assert [run.info.run_id for run in found] == [sent(trial)["run_id"]], one


def test_the_gallery_s_view_names_the_pictures_that_a_training_logs() -> None:
    (card,) = state(views.experiment_tags()[SAVED_VIEW + "films"])["compareRunCharts"]
    rows = pd.DataFrame({"label": [0, 1] * 20, "subtype": "", "sha256": [f"{i:02d}" for i in range(40)]})
    shown = [rows.iloc[position] for position in gallery.chosen(rows)]
    assert card["imageKeys"] == [gallery.key(number, row) for number, row in enumerate(shown, start=1)]
