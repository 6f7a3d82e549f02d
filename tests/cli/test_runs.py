"""Commands that train: what they refuse beforehand, and the commands that they name at the end."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from pneumonia.cli import cli, runs
from pneumonia.runtime import working_folder
from pneumonia.tracking.store import Tracker
from tests.command import Lab
from tests.conftest import NO_SERVER


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


@pytest.mark.parametrize("demo", [True, False])
@pytest.mark.parametrize(("place", "uv"), [("checkout", ""), ("installed", "/bin/uv"), ("installed", "")])
def test_the_next_commands_are_those_that_work_where_the_program_is(
    place: str, uv: str, demo: bool, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    if place == "installed":
        monkeypatch.setattr(working_folder, "PROJECT", tmp_path / "site-packages")
    monkeypatch.setenv("UV", uv)
    if not uv:
        monkeypatch.delenv("UV")
    runs.next_commands("pneumonia", tracker, demo=demo)
    runs.say_link("see it", "http://127.0.0.1:5000", tracker)
    *lines, last = capsys.readouterr().err.strip().splitlines()[1:]
    assert len(lines) == 3
    before = "uv run " if uv or place == "checkout" else ""
    for line in lines:
        assert line.strip().startswith((f"{before}pneumonia ", f"{before}mlflow "))
    assert ("mlflow run . " in lines[2]) == (demo and place == "checkout")  # an installed package has no MLproject
    assert f"(start `{before}pneumonia ui` first)" in last


@pytest.mark.parametrize("command", ["train", "search"])
def test_weights_that_cannot_be_downloaded_are_said_in_a_sentence_before_anything_is_written(
    command: str, films: Path, tracker: Tracker, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.models

    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(weights.value, "url", f"{NO_SERVER}/resnet18-f37072fd.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    words = [command, "--data", str(films), "--network", "resnet18", "--weights", "default", "--size", "64"]
    done = CliRunner().invoke(cli, words)
    assert (done.exit_code, done.stdout) == (2, "")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the weights of resnet18 could not be downloaded (")
    assert "without a network, name a file of them with --weights" in last
    assert tracker.client.search_runs([tracker.experiment_id("pneumonia")]) == []
    assert not (home / "records").exists()
