"""Searches of one study at a time: one leads, the others join."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from pneumonia.config import SearchConfig
from pneumonia.data import index as data
from pneumonia.runs.context import RunContext
from pneumonia.search import leader, run
from pneumonia.search.worker import Task
from pneumonia.tracking.store import Tracker


def test_of_those_who_joined_only_who_claims_the_lead_has_it(
    index: data.Index, home: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first leader dies; another of those who joined is quicker, and this one joins that."""
    joined = []
    leaders = iter([{"run_id": "first"}, None, None, {"run_id": "second"}, {"run_id": "second"}])

    def join(study: optuna.Study, task: Task, workers: int, leader: str, listener: Any) -> run.Outcome:
        joined.append((leader, task.base.disturb, task.base.opacity))
        return run.Outcome(study=study.study_name, run_id=leader, table=study.trials_dataframe(), best_params={})

    monkeypatch.setattr(run, "_join", join)
    monkeypatch.setattr(leader, "holder", lambda study: next(leaders))
    monkeypatch.setattr(leader, "claim", lambda study: False)
    config = SearchConfig(data="films", disturb=0.7, opacity=0.3).for_data(cores=1, films=4400)
    outcome = run.search(config, index, RunContext(home=home, tracker=tracker))
    assert joined == [("first", 0.7, 0.3), ("second", 0.7, 0.3)]
    assert outcome.run_id == "second"
