"""`pneumonia page`, as a user starts and ends it."""

import re
import signal
from pathlib import Path

import pytest
import requests

from pneumonia.tracking.record import Record
from tests.command import Command, Lab, until
from tests.conftest import NO_SERVER


def started(command: Command) -> str:
    """The address of a page that answers."""
    until(lambda: "page " in command.text() or command.process.poll() is not None, "its address", seconds=300)
    (address,) = re.findall(r"^page +(http://127\.0\.0\.1:\d+)/", command.text(), flags=re.MULTILINE)
    return str(address)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_champion_says_which_it_is_and_ends_at_a_signal(
    tmp_path: Path, films: Path, store: str, registered: Record, signum: signal.Signals
) -> None:
    lab = Lab(tmp_path / "lab", films, tracking=store)
    try:
        command = lab.start("page", "--port", "0")
        address = started(command)
        about = requests.get(f"{address}/model", timeout=30).json()
        assert (about["name"], about["version"]) == ("pneumonia", "1")
        assert about["link"].startswith("http://127.0.0.1:5000/#/models/pneumonia/versions/1")
        film = next((films / "chest_xray" / "test").rglob("*.jpeg"))
        answer = requests.post(
            f"{address}/invocations", data=film.read_bytes(), headers={"Content-Type": "image/jpeg"}, timeout=30
        )
        assert 0 <= answer.json()["predictions"][0]["probability"] <= 1
        assert "For research. Not a medical device." in requests.get(address, timeout=30).text
        command.signal(signum)
        assert command.end(20) == 128 + signum
        assert command.last_line() == f"stopped by {signum.name}"
        assert "Traceback" not in command.text()
    finally:
        lab.stop()


@pytest.mark.slow
def test_a_folder_is_served_while_the_tracking_server_is_away(tmp_path: Path, films: Path, trained: Record) -> None:
    lab = Lab(tmp_path / "lab", films, tracking=NO_SERVER)
    try:
        address = started(lab.start("page", "--port", "0", "--model", str(trained.folder / "model")))
        assert requests.get(f"{address}/model", timeout=30).json() == {"name": "model", "version": "", "link": ""}
    finally:
        lab.stop()


@pytest.mark.slow
def test_what_it_cannot_serve_is_one_sentence(tmp_path: Path, films: Path, store: str) -> None:
    lab = Lab(tmp_path / "lab", films, tracking=store)
    for words, said in (
        (("--model", "nothing-here"), "error: there is no model at "),
        (("--port", "70000"), "error: port must be from 0 to 65535"),
        (("--host", "203.0.113.7"), "error: nothing can listen at 203.0.113.7"),
    ):
        command = lab.start("page", "--port", "0", *words)
        assert command.end() == 2
        assert command.last_line().startswith(said)
