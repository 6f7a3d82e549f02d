"""What the environment and the folder say of the tracking store."""

import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pneumonia.cli import context
from pneumonia.tracking.connection import TrackingError
from tests.command import Lab

NOISE = re.compile(r"\w+Warning\b|Traceback|\.py:\d")


def test_old_runs_leave_the_default_store_as_it_is(old_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And are told of until the store is there."""
    assert context.store().uri == f"sqlite:///{old_runs / 'mlflow.db'}"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "migrate-filestore" in said
    assert context.store().uri == f"sqlite:///{old_runs / 'mlflow.db'}"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value", "uri"),
    [
        ("MLFLOW_TRACKING_URI", "http://tracker:5000", "http://tracker:5000"),
        ("MLFLOW_TRACKING_URI", "file:///data/mlruns", "file:///data/mlruns"),
        ("MLFLOW_ALLOW_FILE_STORE", "true", None),
    ],
)
def test_a_store_that_is_named_is_taken(
    name: str, value: str, uri: str | None, old_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert context.store().uri == (uri or f"file://{old_runs / 'mlruns'}")


def test_a_folder_of_artifacts_is_none_of_old_runs(old_runs: Path) -> None:
    for file in old_runs.glob("mlruns/*/meta.yaml"):
        file.unlink()
    (old_runs / "mlruns" / "models").mkdir()
    (old_runs / "mlruns" / "models" / "meta.yaml").touch()
    assert context.store().uri == f"sqlite:///{old_runs / 'mlflow.db'}"
    assert "MLFLOW_TRACKING_URI" not in context.os.environ


def test_files_are_refused_in_one_line_where_they_are_named(old_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{old_runs / 'mlruns'}")
    with pytest.raises(TrackingError, match="migrate-filestore") as refused:
        context.store().experiment_id("pneumonia")
    assert "\n" not in str(refused.value)


class TestExperiment:
    @pytest.fixture(autouse=True)
    def alone(self, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        self.lab = MlflowClient(store).create_experiment("lab")

    def test_none_is_named(self) -> None:
        assert context.tracking()[1:] == ("pneumonia", None)

    def test_by_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", self.lab)
        assert context.tracking()[1] == "lab"
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lab")
        assert context.tracking()[1] == "lab"
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
        with pytest.raises(ValueError, match="is 1, which is 'lab', but MLFLOW_EXPERIMENT_NAME is 'another'"):
            context.tracking()

    def test_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")
        assert context.tracking()[1] == "another"

    def test_of_the_run_that_mlflow_run_made(self, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        run_id = MlflowClient(store).create_run(self.lab).info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
        assert context.tracking()[1:] == ("lab", run_id)

    @pytest.mark.parametrize("number", ["77", "lab", "-1"])
    def test_one_that_is_not_there(self, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
        with pytest.raises((ValueError, TrackingError), match=number) as refused:
            context.tracking()
        assert "\n" not in str(refused.value)

    def test_one_that_was_deleted(self, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        MlflowClient(store).delete_experiment(self.lab)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", self.lab)
        tracker, name, _ = context.tracking()
        with pytest.raises(TrackingError, match="'lab' was deleted"):
            tracker.experiment_id(name)


@pytest.mark.slow
def test_a_command_in_a_folder_with_old_runs(old_runs: Path, empty_database: Path, films: Path) -> None:
    """The real command: it says so once, does its work, and nothing else is on the terminal."""
    lab = Lab(old_runs, films, tracking=f"sqlite:///{empty_database}")
    lab.tracking = ""  # the variable is as good as not there
    first = lab.start("sync")
    assert first.end() == 0, first.text()
    assert re.fullmatch(
        r"mlruns holds runs of MLflow's old file store.*\n0 runs sent, 0 still to be sent\n", first.text()
    )
    shutil.copy(empty_database, old_runs / "mlflow.db")
    second = lab.start("promote", "1")
    assert second.end() == 1
    assert not NOISE.search(second.text())
    assert second.text().count("\n") == 1
