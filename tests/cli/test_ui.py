"""`pneumonia ui`, as a user starts and ends it."""

import re
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.command import Command, Lab, until
from tests.conftest import NO_SERVER, TrackingServer


def links(text: str) -> list[str]:
    return re.findall(r"http://\S+viewStateShareKey=\w+", text)


def started(lab: Lab, *words: str) -> tuple[Command, str]:
    """`pneumonia ui` that answers, and its address."""
    command = lab.start("ui", "--port", "0", *words)
    until(lambda: links(command.text()) or command.process.poll() is not None, "its links", seconds=300)
    return command, links(command.text())[0].split("/#/")[0]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_its_server_at_a_signal(tmp_path: Path, films: Path, store: str, signum: signal.Signals) -> None:
    lab = Lab(tmp_path / "lab", films, tracking=store)
    try:
        command, _ = started(lab)
        assert len(lab.processes()) > 1
        command.signal(signum)
        assert command.end(20) == 128 + signum
        assert command.last_line() == f"stopped by {signum.name}"
        assert lab.processes() == []
    finally:
        lab.stop()


@pytest.mark.slow
def test_in_an_empty_folder_it_spoils_no_later_run(tmp_path: Path, films: Path) -> None:
    """MLflow's server by itself gives the experiments that it makes a place for files that it alone can write to."""
    folder = tmp_path / "lab"
    store = f"sqlite:///{folder / 'mlflow.db'}"
    lab = Lab(folder, films, tracking=store)
    try:
        command, address = started(lab)
        made = MlflowClient(address).create_experiment("made in the UI")
        command.signal(signal.SIGINT)
        command.end(20)
        client = MlflowClient(store)
        places = {one.name: one.artifact_location for one in client.search_experiments()}
        assert set(places) == {"Default", "pneumonia", "made in the UI"}
        assert all("mlflow-artifacts" not in place for place in places.values())
        for experiment_id in ("0", made, client.get_experiment_by_name("pneumonia").experiment_id):
            run = client.create_run(experiment_id)
            client.log_text(run.info.run_id, "words", "file.txt")
            assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["file.txt"]
    finally:
        lab.stop()


@pytest.mark.slow
def test_where_a_server_is_named_it_says_the_server_s_address(
    server: TrackingServer, tmp_path: Path, films: Path
) -> None:
    lab = Lab(tmp_path / "lab", films, tracking=server.uri)
    command = lab.start("ui")
    assert command.end() == 0
    assert {link.split("/#/")[0] for link in links(command.text())} == {server.uri}


@pytest.mark.slow
def test_a_server_that_is_away_is_one_sentence(tmp_path: Path, films: Path) -> None:
    command = Lab(tmp_path / "lab", films, tracking=NO_SERVER).start("ui")
    assert command.end() == 1
    assert command.last_line().startswith("error: no MLflow server answers")
