"""What a worker keeps of its trials."""

from dataclasses import replace

import pytest

from pneumonia.runtime.signals import Stop
from pneumonia.search import connection, pruning, worker
from pneumonia.search import study as studies
from pneumonia.search.worker import Task
from pneumonia.tracking.store import Tracker
from tests.search.conftest import Always


@pytest.mark.slow
def test_pruned_trials_count_among_the_models_that_are_kept(
    task: Task, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = Always(1)
    monkeypatch.setattr(pruning, "pruner", lambda kind, epochs, long: pruner)
    worker.work(replace(task, goal=3, keep_models=1), Stop())
    trials = studies.trials(studies.load(connection.connect(task.storage), task.study, seed=0, pruner=pruner))
    best = min(trials, key=studies.value)
    for trial in trials:
        run_id = trial.user_attrs["run_id"]
        assert tracker.has_model(run_id) == (trial.number == best.number)
        assert ("model.dropped" in tracker.client.get_run(run_id).data.tags) == (trial.number != best.number)
