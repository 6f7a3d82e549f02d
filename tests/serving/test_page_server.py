"""The page's server, over HTTP on a free port, with a tiny model."""

import base64
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from tempfile import SpooledTemporaryFile
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import requests

from pneumonia.serving import export, page_server
from pneumonia.serving.about import About
from pneumonia.serving.page_server import Refused, check_sender
from tests.served.conftest import deep, dicom, film, write

ABOUT = About("pneumonia", "3", "http://127.0.0.1:5000/#/models/pneumonia/versions/3")
JPEG, PNG = (cv2.imencode(kind, film(300, 400))[1].tobytes() for kind in (".jpg", ".png"))
DICOM = dicom(deep(), BitsStored=12)


@contextmanager
def served(model: Any, **options: Any) -> Iterator[str]:
    """The address of a page of `model`."""
    at = page_server.listen("127.0.0.1", 0)
    threading.Thread(target=page_server.serve, args=(page_server.app(model, ABOUT, **options), at), daemon=True).start()
    yield f"http://127.0.0.1:{at.getsockname()[1]}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        mlflow.pyfunc.save_model(folder / "model", **export.pyfunc_arguments(write(folder / "package")))
    return mlflow.pyfunc.load_model(str(folder / "model"))


@pytest.fixture(scope="module")
def url(model: Any) -> Iterator[str]:
    with served(model) as url:
        yield url


def post(url: str, data: Any, kind: str | None = None, **options: Any) -> requests.Response:
    headers = {**({"Content-Type": kind} if kind else {}), **options.pop("headers", {})}
    return requests.post(f"{url}/invocations", data=data, headers=headers, timeout=30, **options)


def expected(model: Any, *films: bytes, **params: Any) -> dict[str, Any]:
    table = model.predict(pd.DataFrame({"image": list(films)}), params=params or None)
    return {"predictions": table.to_dict(orient="records")}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def test_it_answers_in_mlflow_s_forms(url: str, model: Any) -> None:
    films = [JPEG, PNG, DICOM]
    for body in (
        {"dataframe_records": [{"image": text(data)} for data in films]},
        {"dataframe_split": {"columns": ["image"], "data": [[text(data)] for data in films]}},
        {"inputs": [text(data) for data in films]},
    ):
        assert post(url, json.dumps(body), "application/json").json() == expected(model, *films)
    table = pd.DataFrame({"image": [text(data) for data in films]})
    assert post(url, table.to_csv(), "text/csv").json() == expected(model, *films)
    assert post(url, table.to_parquet(), "application/vnd.apache.parquet").json() == expected(model, *films)
    asked = {"dataframe_records": [{"image": text(JPEG)}], "params": {"explain": True}}
    assert post(url, json.dumps(asked), "application/json").json() == expected(model, JPEG, explain=True)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(JPEG, "image/jpeg"), (PNG, "image/png"), (DICOM, "application/dicom"), (PNG, "application/octet-stream")],
)
def test_a_film_is_taken_as_a_file(url: str, model: Any, data: bytes, kind: str) -> None:
    assert post(url, data, kind).json() == expected(model, data)
    with_map = post(url, data, kind, params={"explain": "true", "any_dicom": "false"})
    assert with_map.json() == expected(model, data, explain=True)


def test_films_are_taken_as_a_form(url: str, model: Any) -> None:
    parts = [("films", ("a.jpeg", JPEG)), ("films", ("b.png", PNG)), ("other", ("c", DICOM))]
    assert post(url, None, files=parts).json() == expected(model, JPEG, PNG, DICOM)
    bad = [*parts, ("films", ("d.txt", b"secret words"))]
    answer = post(url, None, files=bad)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("record 3: the file is text")
    answer = post(url, {"errors": "return", "explain": "true"}, files=bad).json()["predictions"]
    assert answer[:3] == expected(model, JPEG, PNG, DICOM, explain=True)["predictions"]
    assert answer[3]["error"].startswith("the file is text")


def test_films_of_a_form_are_never_written_to_the_disk(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def rollover(file: Any) -> None:
        raise AssertionError("a film is written to the disk")

    monkeypatch.setattr(SpooledTemporaryFile, "rollover", rollover)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000), dtype=np.uint8)
    large = cv2.imencode(".png", noise)[1].tobytes()
    assert len(large) > 3 * 2**20
    assert post(url, None, files=[("film", ("a.png", large))]).status_code == 200


@pytest.mark.parametrize(
    ("data", "kind", "status", "words"),
    [
        (b"", "image/jpeg", 400, "record 0: the film is empty"),
        (b"secret words", "image/jpeg", 400, "record 0: the file is text"),
        (JPEG, "text/plain", 415, "the Content-Type must be"),
        (JPEG, None, 415, "the Content-Type must be"),
        ("secret", "application/json", 400, "none that is known here"),
        ('{"secret": 1}', "application/json", 400, "none that is known here"),
        ("[" * 100_000, "application/json", 400, "none that is known here"),
        ('{"dataframe_records": [{"image": ' + "9" * 5000 + "}]}", "application/json", 400, "none that is known here"),
        ('{"dataframe_records": [{"secret": 1}]}', "application/json", 400, "no records with a column 'image'"),
        ('{"dataframe_records": [], "params": {"explain": "secret"}}', "application/json", 400, "none that is known"),
        (b"\xff", "application/json", 400, "none that is known here"),
        (b"secret", "application/vnd.apache.parquet", 400, "none that is known here"),
        (b"secret\n1\n", "text/csv", 400, "no records with a column 'image'"),
        ("{}", "application/json; charset=secret", 415, "none that is known here"),
        (b"secret", "multipart/form-data", 400, "the form is damaged"),
        (b"secret", "multipart/form-data; boundary=x", 400, "the form"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "the form holds no files"),
    ],
    ids=range(17),
)
def test_what_cannot_be_scored_gets_one_sentence(url: str, data: Any, kind: str, status: int, words: str) -> None:
    answer = post(url, data, kind)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error_code", "message"}
    assert words in answer.json()["message"]
    assert len(answer.json()["message"]) < 150
    for trace in ("Traceback", "stack_trace", "secret", "site-packages"):
        assert trace not in answer.text


@pytest.mark.parametrize("given", [{"secret": "1"}, {"explain": "secret"}, {"errors": "secret"}, {"explain": ""}])
def test_wrong_params_are_refused(url: str, given: dict[str, str]) -> None:
    for answer in (
        post(url, JPEG, "image/jpeg", params=given),
        post(url, given, files=[("film", ("a.jpeg", JPEG))]),
    ):
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("there may be explain and any_dicom")


def test_a_body_is_bounded_said_or_not(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "MAX_BODY", 100_000)
    form = b'--x\r\nContent-Disposition: form-data; name="film"; filename="a.png"\r\n\r\n'
    for kind in ("application/json", "image/jpeg", "multipart/form-data; boundary=x"):
        head = form if "form" in kind else b""
        for body in (head + b"-" * 100_001, iter([head, *[b"-" * 1000] * 101])):
            answer = post(url, body, kind)
            assert answer.status_code == 413, kind
            assert answer.json()["message"] == "the request is too large: send fewer films at once"
    monkeypatch.setattr(page_server, "MAX_FILMS", 3)
    answer = post(url, None, files=[("film", (str(n), b"x")) for n in range(4)])
    assert answer.status_code == 400
    assert answer.json()["message"] == "the form is damaged, or holds more than 3 films"


@contextmanager
def begun(url: str) -> Iterator[socket.socket]:
    """A request whose body does not come."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /invocations HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
    with closing(socket.create_connection((host, int(port)), timeout=30)) as connection:
        connection.sendall(head.encode())
        yield connection


def test_a_body_that_does_not_come_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "BODY_SECONDS", 0.3)
    with begun(url) as connection:
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 408
        assert "has not arrived" in json.loads(reply.read())["message"]


def test_few_requests_are_under_way_at_once_and_who_breaks_off_makes_room(model: Any) -> None:
    with served(model) as url:
        connections = [begun(url) for _ in range(page_server.MAX_AT_ONCE)]
        for connection in connections:
            connection.__enter__()
        deadline = time.monotonic() + 20
        while (answer := post(url, PNG, "image/png")).status_code != 429:
            assert time.monotonic() < deadline
        assert answer.headers["Retry-After"] == "1"
        for connection in connections:
            connection.__exit__(None, None, None)
        while post(url, PNG, "image/png").status_code != 200:
            assert time.monotonic() < deadline


def test_clients_at_once_each_get_what_a_single_client_gets(url: str, model: Any) -> None:
    films = [cv2.imencode(".jpg", np.roll(film(300, 400), 40 * n, 1))[1].tobytes() for n in range(4)]
    answers = [expected(model, data) for data in films]

    def ask(number: int) -> bool:
        return bool(post(url, films[number % 4], "image/jpeg").json() == answers[number % 4])

    with ThreadPoolExecutor(page_server.MAX_AT_ONCE) as pool:
        assert all(pool.map(ask, range(40)))


def test_only_its_own_page_and_programs_of_this_machine_are_heard(url: str) -> None:
    at = url.removeprefix("http://")
    port = at.split(":")[1]
    for headers, status in (
        ({"Origin": url}, 200),
        ({"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1:{int(port) - 1}"}, 403),
        ({"Host": f"evil.example:{port}"}, 403),
        ({"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}, 403),
    ):
        answer = post(url, PNG, "image/png", headers=headers)
        assert answer.status_code == status, headers
        if status == 403:
            assert answer.json().keys() == {"error_code", "message"}
            assert requests.get(f"{url}/model", headers=headers, timeout=10).status_code == 403
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("host", "heard"),
    [
        ("localhost", True),
        ("LOCALHOST:5002", True),
        ("[::1]:5002", True),
        ("192.168.3.4:5002", True),
        ("Ward7:5002", True),
        ("ward7.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_this_machine_is_asked_by_its_addresses_and_names(host: str, heard: bool) -> None:
    if heard:
        check_sender({"Host": host}, {"localhost", "ward7"})
    else:
        with pytest.raises(Refused):
            check_sender({"Host": host}, {"localhost", "ward7"})


class Loads(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "link", "img"):
            self.found.append(values.get("src") or values.get("href") or "inline")
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""


def test_the_page_loads_nothing_from_elsewhere_and_forbids_it(url: str) -> None:
    answer = requests.get(url, timeout=10)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for header, value in page_server.HEADERS.items():
        assert answer.headers[header] == value
    loads = Loads()
    loads.feed(answer.text)
    assert sorted(loads.found) == ["data:,", "page.css", "page.js"]
    policy = dict(part.strip().split(" ", 1) for part in loads.policy.split(";"))
    assert policy["default-src"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} <= {
        "'none'",
        "'self'",
        "blob:",
        "data:",
    }
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "For research. Not a medical device." in answer.text
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        file = requests.get(f"{url}/{name}", timeout=10)
        assert file.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert not re.search(r"https?://(?!127)\w|@import|url\(|innerHTML|\beval\b", file.text)


def test_it_says_which_model_answers_and_that_it_is_well(url: str) -> None:
    assert requests.get(f"{url}/model", timeout=10).json() == {
        **{"name": "pneumonia", "version": "3"},
        "link": "http://127.0.0.1:5000/#/models/pneumonia/versions/3",
    }
    assert requests.get(f"{url}/version", timeout=10).text == mlflow.__version__
    for address in ("/ping", "/health"):
        assert requests.get(url + address, timeout=10).ok
    for method, address, status in (
        ("GET", "/docs", 404),
        ("GET", "/page.py", 404),
        ("GET", "/../page_server.py", 404),
        ("GET", "/invocations", 405),
        ("POST", "/", 405),
    ):
        answer = requests.request(method, url + address, timeout=10)
        assert (answer.status_code, answer.json().keys()) == (status, {"error_code", "message"}), address


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with page_server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"nothing can listen at 127.0.0.1, port {port}: .*--port 0"):
            page_server.listen("127.0.0.1", port)
    with pytest.raises(ValueError, match="port must be from 0"):
        page_server.listen("127.0.0.1", 70_000)
    with pytest.raises(ValueError, match=r"nothing can listen at 203\.0\.113\.7"):
        page_server.listen("203.0.113.7", 0)
