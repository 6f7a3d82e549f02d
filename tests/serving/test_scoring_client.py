"""The client against a server that answers as it is told; tests/system/test_serving.py has the real one."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pneumonia.serving import example_film, scoring_client
from pneumonia.serving.film_batches import score
from pneumonia.serving.scoring_client import ScoringClient, ServerError
from tests.serving.fake_scorer import FakeScorer, numbered

Answer = tuple[int, Any, dict[str, str]]
EXAMPLE = {"probability": 0.2, "label": "NORMAL", "threshold": 0.5, "familiarity": 1.0, "familiar": True, "error": ""}


class Told(ThreadingHTTPServer):
    """Answers as `FakeScorer`; `said` are answers that come before, `refuses` is asked of the films."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.said: list[Answer] = []
        self.refuses: Callable[[list[bytes]], Answer | None] = lambda films: None
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.scorer = FakeScorer()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, body: dict[str, Any]) -> Answer:
        self.asked.append(body)
        films = [base64.b64decode(record["image"]) for record in body["dataframe_records"]]
        if self.said:
            return self.said.pop(0)
        if refused := self.refuses(films):
            return refused
        rows = [EXAMPLE if film == example_film.jpeg() else self.scorer._row(film) for film in films]
        rows = [{name: None if value != value else value for name, value in row.items()} for row in rows]
        return 200, {"predictions": rows}, {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        code, said, headers = self.server.answer(json.loads(body))
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    monkeypatch.setattr(scoring_client, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(scoring_client, "FIRST_WAITS", (0.01,))
    server = Told()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def rows(server: ScoringClient, paths: list[Path]) -> list[dict[str, Any]]:
    return list(score(server, [(path, 10) for path in paths]))


def test_the_table_is_that_of_a_model_here(told: Told, tmp_path: Path) -> None:
    paths = numbered(tmp_path, 200, bad=[5, 77])
    server = ScoringClient(told.url, any_dicom=True)
    assert rows(server, paths) == list(score(FakeScorer(), [(path, 10) for path in paths]))
    assert all(body["params"] == {"errors": "return", "any_dicom": True} for body in told.asked)
    assert max(len(body["dataframe_records"]) for body in told.asked) == 64


def test_heatmaps_come_with_the_answers(told: Told, tmp_path: Path) -> None:
    told.refuses = lambda films: (200, {"predictions": [{**EXAMPLE, "heatmap": "bWFw"} for _ in films]}, {})
    server = ScoringClient(told.url, explain=True)
    list(score(server, [(path, 10) for path in numbered(tmp_path / "films", 3)], heatmaps=tmp_path / "maps"))
    assert {path.read_bytes() for path in (tmp_path / "maps").iterdir()} == {b"map"}
    assert told.asked[0]["params"] == {"errors": "return", "explain": True}
    told.refuses = lambda films: None
    with pytest.raises(ServerError, match="gives no heatmaps"):
        ScoringClient(told.url, explain=True)


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(code: int, told: Told, tmp_path: Path) -> None:
    server = ScoringClient(told.url)
    told.said = [(code, {}, {"Retry-After": "0"})] * 3
    assert [row["error"] for row in rows(server, numbered(tmp_path, 5))] == [""] * 5


def refuse_third(refusal: Answer) -> Callable[[list[bytes]], Answer | None]:
    return lambda films: refusal if b"3" in films else None


def test_one_film_at_which_the_server_fails_is_one_row(told: Told, tmp_path: Path) -> None:
    """As of a version that does not know errors=return, and of a proxy that hides what went wrong."""
    server = ScoringClient(told.url)
    for refusal, said in (
        ((400, {"message": "record 0: the JPEG is damaged"}, {}), "the JPEG is damaged"),
        ((413, {"message": "the request is too large: send fewer films at once"}, {}), "the request is too large"),
        ((500, b"<html>", {}), "the server fails on it (HTTP 500)"),
        ((502, {"message": "the scoring server does not answer"}, {}), "the scoring server does not answer"),
    ):
        told.refuses = refuse_third(refusal)
        found = rows(server, numbered(tmp_path, 6))
        assert [bool(row["error"]) for row in found] == [number == 3 for number in range(6)]
        assert found[3]["error"].startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {}, {}), "asks for a login .HTTP 401.: put a name and password into ~/.netrc, or a token"),
        ((403, {}, {}), "asks for a login"),
        ((404, {}, {}), "is no scoring server .HTTP 404"),
        ((200, b"<html>", {}), "answers with something else than predictions"),
        ((200, {"predictions": []}, {}), "answers with something else than predictions"),
        ((200, {"predictions": [{"probability": 1}]}, {}), "a model that is not one of this program's"),
        ((200, {"predictions": [{**EXAMPLE, "error": "no"}]}, {}), "refuses a film that is right: no"),
        ((400, {"message": "no such column"}, {}), "refuses a film that is right: no such column"),
    ],
)
def test_a_server_that_refuses_is_said_in_one_sentence(answer: Answer, said: str, told: Told) -> None:
    told.said = [answer]
    with pytest.raises(ServerError, match=f"at {told.url} .*{said}") as caught:
        ScoringClient(told.url)
    assert "\n" not in str(caught.value)


def test_a_server_that_goes_away_is_said(told: Told, tmp_path: Path) -> None:
    server = ScoringClient(told.url)
    told.said = [(503, {}, {})] * 100
    told.shutdown()
    told.server_close()
    with pytest.raises(ServerError, match=r"does not answer: is it running"):
        rows(server, numbered(tmp_path, 3))
    with pytest.raises(ServerError, match=r"does not answer: is it running"):
        ScoringClient(told.url)


def test_a_version_without_any_dicom_is_told_by_its_answer(told: Told) -> None:
    old = {name: EXAMPLE[name] for name in ("probability", "label", "threshold")}
    told.refuses = lambda films: (200, {"predictions": [old for _ in films]}, {})
    assert ScoringClient(told.url).score([b"1"]) == [old]
    with pytest.raises(ServerError, match="earlier version, which has no any_dicom"):
        ScoringClient(told.url, any_dicom=True)


def test_another_model_at_the_same_address_is_told_by_its_answer(told: Told) -> None:
    before = ScoringClient(told.url).about
    assert ScoringClient(told.url).about == before
    told.refuses = lambda films: (200, {"predictions": [{**EXAMPLE, "probability": 0.21}]}, {})
    assert ScoringClient(told.url).about != before


def test_a_token_is_sent_and_a_password_in_the_address_refused(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMONIA_TOKEN", "secret")
    ScoringClient(f"{told.url}/invocations")
    assert told.headers[-1]["Authorization"] == "Bearer secret"
    with pytest.raises(ValueError, match="holds a password") as caught:
        ScoringClient("http://me:hunter2@localhost:5001")
    assert "hunter2" not in str(caught.value)
    for wrong in ("localhost:5001", "ftp://host", "http://", "http://host:abc", "models:/pneumonia@champion"):
        with pytest.raises(ValueError, match="is no address of a server"):
            ScoringClient(wrong)
