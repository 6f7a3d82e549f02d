"""What counts as a right answer of a server, and what is done about ports."""

import math
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pneumonia.serving.scoring_server import (
    NotServed,
    Options,
    PortError,
    ScoringServer,
    alike,
    free_ports,
    nonsense,
)

GOOD = {"probability": 0.75, "label": "PNEUMONIA", "threshold": 0.5, "error": "", "familiar": True}
PACKAGE = {"threshold": 0.5, "classes": ["NORMAL", "PNEUMONIA"]}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"probability": 0.75 + 5e-5}, True),
        ({"probability": 0.751}, False),
        ({"probability": math.nan}, False),
        ({"probability": None}, False),
        ({"label": "NORMAL"}, False),
        ({"familiar": False}, False),
        ({"heatmap": ""}, False),
    ],
)
def test_answers_are_alike_but_for_the_last_digits(change: dict[str, object], same: bool) -> None:
    assert alike({"predictions": [GOOD]}, {"predictions": [{**GOOD, **change}]}) is same
    assert not alike({"predictions": [GOOD]}, {"predictions": [GOOD, GOOD]})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"predictions": [GOOD]}, None),
        ({"predictions": [{**GOOD, "probability": 0.25, "label": "NORMAL"}]}, None),
        ({"predictions": []}, "no predictions"),
        ({"error_code": "BAD_REQUEST"}, "no predictions"),
        ([GOOD], "no predictions"),
        ({"predictions": [{**GOOD, "probability": 7.0}]}, "the probability is 7.0"),
        ({"predictions": [{**GOOD, "probability": math.nan}]}, "the probability is nan"),
        ({"predictions": [{**GOOD, "probability": None}]}, "the probability is None"),
        ({"predictions": [{**GOOD, "threshold": 0.25}]}, "the threshold is 0.25, but 0.5 in the package"),
        ({"predictions": [{**GOOD, "label": "NORMAL"}]}, "the label is NORMAL"),
    ],
)
def test_an_answer_that_makes_no_sense(answer: object, words: str | None) -> None:
    found = nonsense(answer, PACKAGE)
    assert found is None if words is None else words in found


def test_of_a_model_of_another_kind_any_prediction_is_taken() -> None:
    assert nonsense({"predictions": [3, 4]}, {}) is None


def test_three_ports_that_are_free() -> None:
    assert len(set(free_ports("127.0.0.1", 0))) == 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        either = rf"({port - 1}|{port})"  # somebody may have the one before, too
        with pytest.raises(PortError, match=f"port {either} is taken: --port N needs N and the two after it"):
            free_ports("127.0.0.1", port - 1)
        with pytest.raises(NotServed, match=f"something else listens at port {port}"):
            ScoringServer("pneumonia", "1", None, port, Options(), print).start()


def test_a_server_that_takes_a_connection_and_says_nothing_does_not_answer() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Here) as there, socket.socket() as hanging:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        assert ScoringServer("pneumonia", "1", Path(), there.server_port, Options(), print).answers()
        assert not ScoringServer("pneumonia", "1", Path(), hanging.getsockname()[1], Options(), print).answers()
        there.shutdown()


class Here(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def test_the_files_go_when_a_server_is_stopped_for_good(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        (folder / "MLmodel").touch()
    server = ScoringServer("pneumonia", "1", folders[0], 0, Options(), print)
    server.ask_to_stop()  # it may be started again
    assert folders[0].exists()
    server.stop()
    assert list(tmp_path.iterdir()) == [folders[1]]


def test_a_port_that_is_none() -> None:
    with pytest.raises(ValueError, match="port must be"):
        free_ports("127.0.0.1", 70_000)
