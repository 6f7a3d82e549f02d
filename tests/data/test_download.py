"""The download, against a real HTTP server on the loopback: resumed, checked, unpacked inside its folder only."""

import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pneumonia.data import download as module
from pneumonia.data.download import DownloadError, download
from pneumonia.runtime.disk import DiskFullError


def zipped(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return out.getvalue()


GOOD = zipped(
    {
        "chest_xray/": b"",
        "chest_xray/train/NORMAL/IM-0001-0001.jpeg": bytes(range(256)) * 400,
        "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg": b"film",
        "chest_xray/.DS_Store": b"x",
        "chest_xray/train/.DS_Store": b"x",
        "__MACOSX/chest_xray/._train": b"x",
    }
)


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut` breaks transfers off after so many bytes, one a request; `status` answers first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = GOOD
        self.ranges = self.announced = True
        self.cut: list[int] = []
        self.status: list[int] = []
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file_downloaded"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers["Range"]
        server.asked.append(wanted)
        if server.status:
            self.send_response(server.status.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if first >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[first:]
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        if server.announced:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut.pop(0)] if server.cut else body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("pneumonia.data.download.time.sleep", lambda _: None)
    monkeypatch.setattr(module, "BLOCK", 1000)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


def fetch(server: Server, dest: Path, content: bytes | None = None) -> Path:
    content = server.content if content is None else content
    sha256 = hashlib.sha256(content).hexdigest()
    return download(dest, url=server.url, sha256=sha256, size=len(content), progress=False)


def check_whole(dest: Path) -> None:
    films = {path.relative_to(dest).as_posix() for path in dest.rglob("*") if path.is_file()}
    assert films == {
        "chest_xray/train/NORMAL/IM-0001-0001.jpeg",
        "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg",
    }
    assert (dest / "chest_xray/train/NORMAL/IM-0001-0001.jpeg").read_bytes() == bytes(range(256)) * 400
    assert [path.name for path in dest.iterdir()] == ["chest_xray"]


def test_fresh_and_again(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "new/folder"
    assert fetch(server, dest) == dest / "chest_xray"
    check_whole(dest)
    fetch(server, dest)
    assert server.asked == [None]


def test_a_broken_transfer_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.cut = [40_000, 20_000]
    server.status = [503]
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert server.asked[:2] == [None, None]
    first, second = (int(str(asked).removeprefix("bytes=").rstrip("-")) for asked in server.asked[2:])
    assert 0 < first <= 40_000
    assert first < second <= 60_000


def test_the_next_call_takes_it_up_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ChestXRay2017.zip.part").write_bytes(GOOD[:50_000])
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert server.asked == ["bytes=50000-"]


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "ChestXRay2017.zip.part").write_bytes(b"x" * 50_000)
    fetch(server, tmp_path)
    check_whole(tmp_path)


def test_a_range_that_is_refused_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ChestXRay2017.zip.part").write_bytes(GOOD[:1000])
    server.status = [416]
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("there", [0, 1000, len(GOOD) + 1])
@pytest.mark.parametrize("announced", [True, False])
def test_a_server_with_less_than_the_data_set(server: Server, tmp_path: Path, there: int, announced: bool) -> None:
    longer = GOOD + b"more"
    server.announced = announced
    (tmp_path / "ChestXRay2017.zip.part").write_bytes(longer[:there])
    with pytest.raises(
        DownloadError, match=r"holds .* bytes and not the" if announced else "the same command continues"
    ):
        fetch(server, tmp_path, longer)
    assert len(server.asked) <= 2 * module.ATTEMPTS


@pytest.mark.parametrize("name", ["ChestXRay2017.zip", "ChestXRay2017.zip.part"])
def test_a_zip_that_came_whole_is_only_unpacked(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD)
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert server.asked == []


def test_a_zip_put_there_by_hand_is_checked_and_kept(server: Server, tmp_path: Path) -> None:
    by_hand = tmp_path / "ChestXRay2017.zip"
    by_hand.write_bytes(GOOD[:-1])
    with pytest.raises(DownloadError, match=r"has the SHA-256 .* move it away"):
        fetch(server, tmp_path)
    assert by_hand.read_bytes() == GOOD[:-1]


def test_other_content_is_removed(server: Server, tmp_path: Path) -> None:
    other = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
    with pytest.raises(DownloadError, match=r"SHA-256 .* it was removed"):
        fetch(server, tmp_path, other)
    assert list(tmp_path.iterdir()) == []


def test_more_than_expected_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="and not the 5,000 of the data set"):
        fetch(server, tmp_path, GOOD[:5000])
    server.announced = False
    with pytest.raises(DownloadError, match="sent more than the 5,000 bytes"):
        fetch(server, tmp_path, GOOD[:5000])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "asked"), [([404], 1), ([500] * 20, module.ATTEMPTS)])
def test_refusals(server: Server, tmp_path: Path, status: list[int], asked: int) -> None:
    server.status = list(status)
    with pytest.raises(DownloadError, match=f"the server answered {status[0]}"):
        fetch(server, tmp_path)
    assert len(server.asked) == asked


def test_no_connection_is_one_sentence(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=r"^the download stopped at 0 of .*connection failed") as error:
        fetch(server, tmp_path)
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)


def link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        entry = zipfile.ZipInfo("chest_xray/train")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(entry, "/tmp")
        file.writestr("chest_xray/train/a.jpeg", b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"chest_xray/../../escaped.jpeg": b"x"}), "outside its folder"),
        (zipped({"/chest_xray/escaped.jpeg": b"x"}), "outside its folder"),
        (zipped({"chest_xray\\..\\..\\escaped.jpeg": b"x"}), "outside its folder"),
        (zipped({"C:/chest_xray/escaped.jpeg": b"x"}), "outside its folder"),
        (link(), "holds a link"),
        (zipped({"other/a.jpeg": b"x"}), "holds no files in a folder chest_xray"),
        (b"PK, but no zip", "cannot be unpacked"),
        (GOOD[:200] + b"damage" + GOOD[206:], "cannot be unpacked"),
    ],
)
def test_evil_zips(server: Server, tmp_path: Path, content: bytes, message: str) -> None:
    server.content = content
    dest = tmp_path / "dest"
    with pytest.raises(DownloadError, match=message):
        fetch(server, dest)
    assert [path.name for path in tmp_path.rglob("*")] == ["dest", "ChestXRay2017.zip"]


def test_a_folder_that_is_something_else_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "chest_xray").mkdir()
    with pytest.raises(DownloadError, match="exists and has no train folder"):
        fetch(server, tmp_path)
    assert server.asked == []


def test_a_full_disk_is_seen_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="the disk is full: 2,000,000,000,000,000,000 bytes are needed"):
        download(tmp_path, url=server.url, size=10**18, progress=False)
    assert server.asked == []
