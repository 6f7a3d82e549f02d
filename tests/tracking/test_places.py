"""Files that were left behind when a project's folder was moved: said, with what to type, and nothing is written."""

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from pneumonia.cli import cli
from pneumonia.registry.gate import gone
from pneumonia.registry.versions import RegistryError, champion_gone, enter, promote
from pneumonia.serving import predict
from pneumonia.tracking import places
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from tests.command import Lab
from tests.conftest import TrackingServer


def store() -> str:
    """MLflow's default store of the folder where the test is; absolute, since MLflow keeps stores by their address."""
    return f"sqlite:///{Path('mlflow.db').absolute()}"


def go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store())
    return folder


@pytest.fixture
def project(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with an empty store, where the test is."""
    folder = tmp_path / "mine" / "my project"
    folder.mkdir(parents=True)
    shutil.copy(empty_database, folder / "mlflow.db")
    return go(folder, monkeypatch)


@pytest.fixture
def champion(project: Path, copy_trained: Callable[..., Record]) -> None:
    """Version 1 of `pneumonia`, in the experiment of that name."""
    record = copy_trained("one", register="pneumonia", role="final")
    record.finish("COMPLETE")
    tracker = Tracker(store())
    tracker.send(record)
    enter(tracker, record)


def left_behind(name: str = "pneumonia") -> str | None:
    return places.left_behind(MlflowClient(store()), store(), name)


def typed(said: str) -> None:
    """Types the command that a sentence says."""
    commands = re.findall(r"`((?:mkdir|ln) [^`]*)`", said)
    assert len(commands) == 1, said
    subprocess.run(["bash", "-c", commands[0]], check=True)


@pytest.mark.parametrize("old_place", ["gone", "taken by another", "its parents are gone", "a link to the last place"])
def test_a_project_that_was_moved_is_mended_by_what_is_said(
    champion: None, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_place: str
) -> None:
    moved = go(project.rename(tmp_path / "moved it's"), monkeypatch)
    if old_place == "taken by another":  # a clone, whose mlruns holds a note
        (project / "mlruns").mkdir(parents=True)
    if old_place == "a link to the last place":
        project.symlink_to(tmp_path / "between")
    if old_place == "its parents are gone":
        project.parent.rmdir()
    said = left_behind()
    assert said is not None
    assert str(project) in said
    assert str(moved) in said
    with pytest.raises(predict.ModelError, match=re.escape(str(project))):
        predict.load("models:/pneumonia@champion")
    with pytest.raises(RegistryError, match=re.escape(str(project))):
        promote(Tracker(store()), "pneumonia", "1")
    typed(said)
    assert left_behind() is None
    assert predict.load("models:/pneumonia@champion").size == 32
    assert promote(Tracker(store()), "pneumonia", "1").startswith("pneumonia version 1 is champion by hand")


def test_files_that_are_nowhere_are_said(
    champion: None, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.move("mlflow.db", tmp_path / "elsewhere")
    go(tmp_path / "elsewhere", monkeypatch)
    assert left_behind() is None  # the files are where they were
    shutil.rmtree(project)
    said = left_behind()
    assert said is not None
    assert f"{project} is not there" in said
    assert f"`mkdir -p {shlex.quote(str(project))}`" in said
    project.mkdir()
    assert left_behind() is None


def test_what_is_new_is_not_taken_for_moved(project: Path, tmp_path: Path) -> None:
    client = MlflowClient(store())
    client.create_run(client.create_experiment("pneumonia"))
    assert left_behind() is None  # mlruns is made with the first file
    assert left_behind("none") is None
    own = client.create_experiment("own", artifact_location=str(tmp_path / "disk" / "lab" / "files"))
    assert left_behind("own") is None
    run = client.create_run(own).info.run_id
    assert places.left_behind(client, store(), "own", adopted=run) is None
    client.create_run(client.create_experiment("away", artifact_location="s3://bucket/files"))
    client.create_run(client.create_experiment("served", artifact_location="mlflow-artifacts:/7"))
    assert left_behind("away") is left_behind("served") is None
    assert places.left_behind(client, "http://127.0.0.1:9", "pneumonia") is None


@pytest.mark.slow
def test_a_server_s_places_are_its_own(server: TrackingServer) -> None:
    tracker = Tracker(server.uri)
    tracker.experiment_id("pneumonia")
    assert places.left_behind(tracker.client, server.uri, "pneumonia") is None


def test_a_champion_without_its_files_is_said_before_a_search(champion: None, project: Path) -> None:
    tracker = Tracker(store())
    assert champion_gone(tracker, "pneumonia") is None
    assert champion_gone(tracker, "other") is None
    folder = Path(tracker.client.get_model_version_download_uri("pneumonia", "1"))
    shutil.rmtree(folder)
    said = champion_gone(tracker, "pneumonia")
    assert said is not None
    assert "version 1, cannot be read" in said
    assert str(folder) in said
    assert "`pneumonia promote VERSION`" in said
    with pytest.raises(predict.ModelError, match=re.escape(str(folder))):
        predict.load("models:/pneumonia@champion")


def test_a_model_that_lost_a_file_names_its_own_folder(champion: None, project: Path) -> None:
    folder = Path(MlflowClient(store()).get_model_version_download_uri("pneumonia", "1"))
    (folder / "MLmodel").unlink()
    with pytest.raises(predict.ModelError, match=re.escape(str(folder))) as caught:
        predict.load("models:/pneumonia@champion")
    assert "pneumonia-model-" not in str(caught.value)  # our scratch folder


@pytest.mark.slow
def test_the_search_itself_says_so_before_it_writes_anything(
    champion: None, project: Path, films: Path, tmp_path: Path
) -> None:
    folder = Path(MlflowClient(store()).get_model_version_download_uri("pneumonia", "1"))
    shutil.rmtree(folder)
    command = Lab(project, films, tracking="sqlite:///mlflow.db").start("search", "--data", str(tmp_path / "none"))
    assert command.end() == 2
    gone, refused = command.text().splitlines()
    assert f"{folder}" in gone
    assert "`pneumonia promote VERSION`" in gone
    assert refused.startswith("error: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        *(["search", "--trials", "1"], ["train", "--epochs", "1"], ["evaluate"], ["eda"]),
        *(["compare", "models:/pneumonia/1", "models:/pneumonia@champion"], ["predict", "FILMS"], ["promote", "1"]),
    ],
    ids=lambda words: words[0],
)
def test_no_command_writes_into_a_project_that_was_moved(
    champion: None, project: Path, films: Path, tmp_path: Path, words: list[str]
) -> None:
    moved = project.rename(tmp_path / "moved")
    before = hashlib.sha256((moved / "mlflow.db").read_bytes()).hexdigest()
    words = [str(films) if word == "FILMS" else word for word in words]
    if words[0] not in ("predict", "promote"):
        words += ["--data", str(films)]
    lab = Lab(moved, films, tracking="sqlite:///mlflow.db")
    command = lab.start(*words)
    assert command.end() in (1, 2)
    (line,) = command.text().splitlines()
    assert f"`ln -s {moved} {shlex.quote(str(project))}`" in line
    assert not project.exists()
    assert not lab.home.exists()
    assert hashlib.sha256((moved / "mlflow.db").read_bytes()).hexdigest() == before


def test_sync_sends_nothing_into_a_project_that_was_moved(
    champion: None, project: Path, home: Path, copy_trained: Callable[..., Record], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    copy_trained("late").finish("COMPLETE")
    moved = go(project.rename(tmp_path / "moved"), monkeypatch)
    result = CliRunner().invoke(cli, ["sync"])
    assert (result.exit_code, project.exists()) == (1, False)
    assert f"`ln -s {moved} " in result.stderr
    project.symlink_to(moved)
    assert CliRunner().invoke(cli, ["sync"]).stderr.startswith("1 runs sent, 0 still to be sent")


def test_what_was_half_sent_before_a_project_was_moved_is_sent_then(
    project: Path, home: Path, new_record: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = new_record()
    run_id = Tracker(store()).send(record)
    record.finish("COMPLETE")
    moved = go(project.rename(tmp_path / "moved"), monkeypatch)
    project.symlink_to(moved)
    assert Tracker(store()).sync(home) == ([record], [])
    assert MlflowClient(store()).get_run(run_id).info.status == "FINISHED"


def test_a_server_s_version_is_promoted_where_its_files_cannot_be_seen() -> None:
    """They may stand on the server's disk alone."""

    class Client:
        def get_model_version_download_uri(self, name: str, version: str) -> str:
            return "/srv/none/mlruns/1/models/m-1/artifacts"

    assert gone(Tracker("http://lab:5000", _client=Client()), "pneumonia", "1") is None  # type: ignore[arg-type]
    assert gone(Tracker(store(), _client=Client()), "pneumonia", "1") is not None  # type: ignore[arg-type]
