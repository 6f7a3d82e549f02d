"""Films that a manifest names by addresses: fetched once, kept by content, and listed where they cannot be had."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pneumonia.data import cache, remote
from pneumonia.data.index import DataError, scan
from pneumonia.runtime.disk import DiskFullError
from tests.conftest import ROOT

MARK = "hunter2"


class Web(ThreadingHTTPServer):
    """Answers with `films` by path; `faults` are what is answered before: a status, or "cut" for half of the film."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.films: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.asked: list[str] = []
        self.go = threading.Event()
        self.go.set()


class Answer(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(self.path)
        self.server.go.wait(30)
        fault = self.server.faults.get(path, [])
        what = fault.pop(0) if fault else 200 if path in self.server.films else 404
        content = self.server.films.get(path, b"nothing")
        self.send_response(200 if what == "cut" else int(what))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if what == "cut" else content)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.01)
    server = Web()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.go.set()
    server.shutdown()
    server.server_close()


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 50), dtype=np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


@pytest.fixture
def manifest(web: Web, tmp_path: Path) -> Path:
    """Twelve films of six patients, by addresses."""
    rows = []
    for number in range(12):
        path = f"/set/person{number // 2}_virus_{number}.png"
        web.films[path] = picture(number)
        rows.append({"path": web.url + path, "label": ("NORMAL", "PNEUMONIA")[number // 2 % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "films.csv", index=False)
    return tmp_path / "films.csv"


def test_the_films_of_addresses_are_an_index_like_any(web: Web, manifest: Path, tmp_path: Path) -> None:
    index = scan(manifest, fetch_to=tmp_path / "kept")
    assert len(index.table) == 12
    assert index.root == tmp_path / "kept"
    assert all((index.root / path).read_bytes() in web.films.values() for path in index.table["path"])
    assert index.table["patient"].nunique() == 6  # by the names that the films had
    assert all(path.startswith(sha256) for path, sha256 in zip(index.table["path"], index.table["sha256"], strict=True))
    decoded = cache.decode(index, size=32, home=tmp_path / "home")
    assert decoded.failures == []


def test_a_film_is_asked_for_once(web: Web, manifest: Path, tmp_path: Path) -> None:
    first = scan(manifest, fetch_to=tmp_path / "kept")
    assert len(web.asked) == 12
    other = manifest.with_name("others.csv")
    other.write_text(manifest.read_text())
    assert scan(other, fetch_to=tmp_path / "kept").fingerprint == first.fingerprint
    assert len(web.asked) == 12


def test_two_addresses_of_one_film_take_its_room_once(web: Web, tmp_path: Path) -> None:
    web.films = {"/a/one.png": picture(1), "/b/one.png": picture(1)}
    got = remote.fetch([web.url + path for path in web.films], tmp_path / "kept")
    assert len(set(got.values())) == 1


@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_what_passes_is_tried_again(web: Web, tmp_path: Path, fault: int | str) -> None:
    web.films["/one.png"] = picture(1)
    web.faults["/one.png"] = [fault, fault]
    (got,) = remote.fetch([f"{web.url}/one.png"], tmp_path / "kept").values()
    assert Path(got).read_bytes() == web.films["/one.png"]
    assert len(web.asked) == 3


@pytest.mark.parametrize(
    ("fault", "why", "asked"),
    [
        (403, "the server answered 403", 1),
        (404, "the server answered 404", 1),
        (500, "the server answered 500, 4 times", 4),
        ("cut", "the connection failed or broke, 4 times", 4),
    ],
)
def test_a_film_that_cannot_be_had_is_listed_with_the_reason(
    web: Web, manifest: Path, tmp_path: Path, fault: int | str, why: str, asked: int
) -> None:
    path = "/set/person3_virus_7.png"
    web.faults[path] = [fault] * 4
    index = scan(manifest, fetch_to=tmp_path / "kept")
    (((address, reason)),) = index.report.corrupt
    assert address == web.url + path
    assert reason == f"{why}; film 8 of films.csv (line 9), column path"
    assert len(index.table) == 11
    assert web.asked.count(path) == asked
    web.faults.clear()
    assert len(scan(manifest, fetch_to=tmp_path / "kept").table) == 12  # and it is tried by the next command


def test_a_film_that_is_too_large_is_left(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.films["/one.png"] = bytes(3 << 20)
    monkeypatch.setattr("pneumonia.served.MAX_BYTES", 2 << 20)
    assert remote.fetch([f"{web.url}/one.png"], tmp_path / "kept") == {f"{web.url}/one.png": "it is larger than 2 MiB"}
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def test_the_disk_is_not_filled(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.films["/one.png"] = picture(1)
    monkeypatch.setattr(remote, "KEPT_FREE", 1 << 62)
    with pytest.raises(DiskFullError, match="the disk is full"):
        remote.fetch([f"{web.url}/one.png"], tmp_path / "kept")
    assert web.asked == []


def test_a_fetched_film_that_was_cut_short_on_the_disk_is_fetched_again(web: Web, tmp_path: Path) -> None:
    web.films["/one.png"] = picture(1)
    for _ in range(2):
        (got,) = remote.fetch([f"{web.url}/one.png"], tmp_path / "kept").values()
        assert Path(got).read_bytes() == web.films["/one.png"]
        os.truncate(got, 10)
    assert len(web.asked) == 2


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/person1_bacteria_2.jpeg", "person1_bacteria_2.jpeg"),
        ("/a/..%2F..%2Fetc%2Fpasswd.png", "_.._etc_passwd.png"),
        ("/.hidden.png", "hidden.png"),
        ("/", "film"),
        (f"/{'x' * 300}.png", "x" * 116 + ".png"),
    ],
)
def test_an_address_names_no_place_outside_the_folder(web: Web, tmp_path: Path, path: str, name: str) -> None:
    web.films[path] = picture(1)
    (got,) = remote.fetch([web.url + path], tmp_path / "kept").values()
    assert Path(got).name.lstrip("_") == name.lstrip("_")
    assert Path(got).resolve().is_relative_to((tmp_path / "kept").resolve())


def test_secrets_of_addresses_are_shown_and_kept_nowhere(web: Web, tmp_path: Path) -> None:
    address = web.url.replace("://", f"://me:{MARK}@")
    rows = [f"{address}/{n}.png?X-Amz-Signature={MARK},{label}" for n, label in enumerate(["a", "b"] * 2)]
    web.films = {f"/{n}.png": picture(n) for n in range(3)}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "films.csv").write_text("\n".join(["path,label", *rows]))
    index = scan(tmp_path / "set" / "films.csv", fetch_to=tmp_path / "kept", positive="b")
    assert len(index.table) == 3
    assert MARK not in json.dumps(index.report.as_dict()) + index.table.to_csv()
    assert "me:***@" in json.dumps(index.report.as_dict())
    for path in (tmp_path / "kept").rglob("*"):
        assert MARK not in str(path)
        assert path.is_dir() or MARK.encode() not in path.read_bytes()


class Bucket(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Stands for a store in a cloud, whose own file system is not installed for the tests."""

    protocol = "s3"
    store: dict[str, object] = {}  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("s3://", "/"))


def test_other_addresses_go_by_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.01)
    fsspec.register_implementation("s3", Bucket, clobber=True)
    bucket = fsspec.filesystem("s3")
    bucket.pipe("/films/a.png", picture(1))
    bucket.pipe("/films/b.png", picture(2))
    local = tmp_path / "c.png"
    local.write_bytes(picture(3))
    rows = ["s3://films/a.png,x", "s3://films/b.png,y", "s3://films/gone.png,y", f"{local.name},x"]
    (tmp_path / "films.csv").write_text("\n".join(["path,label", *rows]))
    index = scan(tmp_path / "films.csv", fetch_to=tmp_path / "kept", positive="y")
    assert index.root == tmp_path  # some films are here
    assert sorted((index.root / path).read_bytes() for path in index.table["path"]) == sorted(
        picture(seed) for seed in (1, 2, 3)
    )
    (((address, why)),) = index.report.corrupt
    assert (address, why.partition(";")[0]) == ("s3://films/gone.png", "there is no such object")


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "from pathlib import Path; from pneumonia.data import remote\n"
        f"remote.fetch(['gs://bucket/a.png'], Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert re.search(r"DataError: films at gs:// take .* `uv sync --inexact --extra cloud`", done.stderr)


def test_other_schemes_are_no_addresses(tmp_path: Path) -> None:
    """Nothing of this machine is read by way of one."""
    for text in (
        "file:///etc/passwd",
        "local:///etc/passwd",
        "simplecache::http://host/a",
        "ftp://host/a",
        "zip://a::http://h",
    ):
        assert not remote.is_address(text)
    (tmp_path / "films.csv").write_text("path,label\nhttp://127.0.0.1:1/a.png,x\nb.png,y\n")
    with pytest.raises(DataError, match="names films by addresses, such as http://127"):
        scan(tmp_path / "films.csv")


def test_a_stop_does_not_wait_for_a_server(web: Web, tmp_path: Path) -> None:
    """And what had come by then is not asked for again."""
    web.films = {f"/{n}.png": picture(n) for n in range(4)}
    addresses = [web.url + path for path in web.films]
    remote.fetch(addresses[:2], tmp_path / "kept")
    web.go.clear()
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a shell's background
        "from pathlib import Path; from pneumonia.data import remote\n"
        f"remote.fetch({addresses!r}, Path({str(tmp_path / 'kept')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=ROOT)
    end = time.monotonic() + 60
    while len(web.asked) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(2)
    process.wait(10)
    web.go.set()
    remote.fetch(addresses, tmp_path / "kept")
    assert web.asked.count("/0.png") == web.asked.count("/1.png") == 1
    assert web.asked.count("/3.png") == 2
