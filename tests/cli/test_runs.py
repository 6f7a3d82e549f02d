"""Commands that train: what they refuse beforehand, and the commands that they name at the end."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pneumonia.cli import runs
from pneumonia.tracking.store import Tracker
from tests.command import Lab


@pytest.mark.slow
def test_a_search_s_storage_is_refused_before_anything_is_written(store: str, films: Path, tmp_path: Path) -> None:
    """The real command, on MLflow's own database."""
    ask = "SELECT name, sql FROM sqlite_master"
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        before = database.execute(ask).fetchall()
        lab = Lab(tmp_path, films, tracking=store, storage=store)
        search = lab.search()
        assert search.end() == 1
        assert search.text().count("\n") == 1
        assert "MLflow's own" in search.text()
        assert database.execute(ask).fetchall() == before
    assert not lab.home.exists()
    assert MlflowClient(store).get_experiment_by_name("pneumonia") is None


@pytest.mark.parametrize("name", ["mlflow.db", "elsewhere.db"])
def test_the_next_commands_name_the_store_that_was_used_beside_old_runs(
    name: str, old_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{old_runs / name}"
    runs.next_commands("pneumonia", Tracker(uri), demo=True)
    said = capsys.readouterr().err
    assert f"MLFLOW_TRACKING_URI={uri} uv run mlflow models serve" in said
    assert f"MLFLOW_TRACKING_URI={uri} uv run mlflow run" in said
