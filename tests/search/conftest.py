"""An empty study in a database of its own, and trials taken from it."""

from pathlib import Path

import optuna
import pytest

from pneumonia.config import TrainConfig
from pneumonia.search import connection, pruning
from pneumonia.search import study as studies
from pneumonia.search_space import search_space

BASE = TrainConfig(size=32, epochs=3)
SPACE = search_space(long=True)
PRUNER = pruning.pruner("none", 3, long=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def study(url: str) -> optuna.Study:
    return studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True)


def claim(study: optuna.Study, goal: int = 100) -> optuna.Trial:
    def no_wait() -> bool:
        raise AssertionError("nothing to wait for")

    trial = studies.claim(study, goal, wait=no_wait)
    assert trial is not None
    return trial


class Always(optuna.pruners.BasePruner):
    """Prunes whatever it is asked about, and notes after which epochs it is asked."""

    def __init__(self, after: int) -> None:
        self.after, self.asked = after, set[int]()

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        self.asked.add(trial.last_step or 0)
        return (trial.last_step or 0) >= self.after
