"""The cache: films aligned with their rows, damage found, and nothing half-written ever read."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from pneumonia.data import cache, decoding
from pneumonia.data.cache import decode
from pneumonia.data.index import DataError, scan
from pneumonia.runtime.disk import DiskFullError
from pneumonia.served import read_film
from tests.conftest import ROOT
from tests.data.conftest import SIZE, expected, jpeg
from tests.small_disk import small_disk


def only_place(home: Path) -> Path:
    """The one cache in `home`; there is nothing else beside it."""
    (place,) = (home / "cache").iterdir()
    return place


def test_films_are_aligned_and_read_only(folder: Path, tmp_path: Path) -> None:
    index = scan(folder)
    home = tmp_path / "home"
    decoded = decode(index, size=SIZE, home=home)
    assert isinstance(decoded.films, np.memmap)
    assert not decoded.films.flags.writeable
    assert decoded.films.dtype == np.uint8
    np.testing.assert_array_equal(decoded.films, expected(index))
    assert decoded.failures == []
    assert decoded.index.table.equals(index.table)
    np.testing.assert_array_equal(np.load(only_place(home) / "films.npy"), decoded.films)


def test_the_second_start_decodes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    first = decode(scan(folder), size=SIZE, home=home)
    monkeypatch.setattr(cache, "decode_films", lambda *_: pytest.fail("decoded again"))
    second = decode(scan(folder), size=SIZE, home=home)
    np.testing.assert_array_equal(first.films, second.films)
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert decode(scan(moved), size=SIZE, home=home).index.root == moved


def test_another_size_or_content_is_another_cache(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    decode(scan(folder), size=SIZE, home=home)
    decode(scan(folder), size=16, home=home)
    next(folder.rglob("*.jpeg")).write_bytes(jpeg(99))
    index = scan(folder)
    np.testing.assert_array_equal(decode(index, size=SIZE, home=home).films, expected(index))
    assert len(list((home / "cache").iterdir())) == 3


def damaged() -> dict[str, tuple[bytes, str]]:
    whole = jpeg(50)
    flipped = bytearray(whole)
    for at in range(1000, len(whole) - 10, 500):  # one flipped bit often leaves a JPEG that no decoder objects to
        flipped[at] ^= 16
    return {
        "truncated": (whole[: len(whole) // 2], "cut short"),
        "zero": (b"", "film"),
        "text": (b"this is a film, honestly", "film"),
        "html": (b"<!DOCTYPE html><html>404</html>", "film"),
        "flipped": (bytes(flipped), "the JPEG is damaged or cut short"),
    }


@pytest.mark.parametrize("workers", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_films_are_listed_and_left_out(
    folder: Path, tmp_path: Path, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "FILMS_A_PROCESS", 15)  # two processes, or this one
    monkeypatch.setattr(cache, "MIN_GOOD_SHARE", 0.8)
    for name, (content, _) in damaged().items():
        (folder / f"train/NORMAL/{name}.jpeg").write_bytes(content)
    for _ in ("built", "opened again"):
        decoded = decode(scan(folder), size=SIZE, home=tmp_path / "home", workers=workers)
        reasons = {Path(path).stem: reason for path, reason in decoded.failures}
        assert reasons.keys() == damaged().keys()
        for name, (_, part) in damaged().items():
            assert part in reasons[name]
        assert decoded.index.report.corrupt == tuple(decoded.failures)
        assert len(decoded.index.table) == 24
        np.testing.assert_array_equal(decoded.films, expected(decoded.index))


def test_too_few_good_films_stop_it(folder: Path, tmp_path: Path) -> None:
    for n in range(4):
        (folder / f"train/NORMAL/zero{n}.jpeg").write_bytes(b"")
    with pytest.raises(DataError, match=r"only 24 of 28 films .* 90% .* 4 times: .*failures.tsv$") as error:
        decode(scan(folder), size=SIZE, home=tmp_path / "home")
    listed = Path(str(error.value).rsplit(" ", 1)[1]).read_text()
    assert listed.count("\n") == 4
    assert listed.startswith("train/NORMAL/zero0.jpeg\t")


def test_no_good_film_at_all_stops_it(folder: Path, tmp_path: Path) -> None:
    for n, path in enumerate(folder.rglob("*.jpeg")):
        path.write_text(f"no film {n}")
    for _ in ("built", "opened again"):
        with pytest.raises(DataError, match=r"no train film of the class NORMAL .* 24 times: the file is text"):
            decode(scan(folder), size=SIZE, home=tmp_path / "home")


def test_a_class_that_is_all_damaged_stops_it(folder: Path, tmp_path: Path) -> None:
    (folder / "test/NORMAL").mkdir(parents=True)
    (folder / "test/NORMAL/a.jpeg").write_bytes(b"no film")
    with pytest.raises(DataError, match="no test film of the class NORMAL could be read"):
        decode(scan(folder), size=SIZE, home=tmp_path / "home")


def test_harmless_bytes_are_no_damage(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Zeros before a segment change no pixel: the film is used, and the decoder's complaint is not shown."""
    path = folder / "train/NORMAL/04.jpeg"
    good = path.read_bytes()
    at = good.index(b"\xff\xc4")
    path.write_bytes(good[:at] + bytes(5) + good[at:])
    (folder / "train/NORMAL/flipped.jpeg").write_bytes(damaged()["flipped"][0])
    decoded = decode(scan(folder), size=SIZE, home=tmp_path / "home")
    assert [path for path, _ in decoded.failures] == ["train/NORMAL/flipped.jpeg"]
    row = decoded.index.table["path"].tolist().index("train/NORMAL/04.jpeg")
    np.testing.assert_array_equal(decoded.films[row], read_film(good, SIZE))
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(jpeg(77)), "was changed since it was indexed"),
        (lambda path: path.unlink(), "could be read when it was indexed"),
    ],
)
def test_a_file_changed_after_indexing_stops_it(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    index = scan(folder)
    change(folder / index.table["path"].iloc[3])
    with pytest.raises(DataError, match=message):
        decode(index, size=SIZE, home=tmp_path / "home")
    assert list((tmp_path / "home/cache").iterdir()) == []


def tear_films(place: Path) -> None:
    os.truncate(place / "films.npy", 5000)


def tear_bytes(place: Path) -> None:
    with (place / "films.npy").open("r+b") as file:
        file.seek(4000)
        file.write(bytes(100))


def tear_mark(place: Path) -> None:
    (place / "done.json").write_text('{"key": ')


def foreign_mark(place: Path) -> None:
    mark = json.loads((place / "done.json").read_text())
    (place / "done.json").write_text(json.dumps(mark | {"key": "0" * 64}))


def no_mark(place: Path) -> None:
    (place / "done.json").unlink()


def a_file(place: Path) -> None:
    shutil.rmtree(place)
    place.write_text("not a folder")


@pytest.mark.parametrize("tear", [tear_films, tear_bytes, tear_mark, foreign_mark, no_mark, a_file])
def test_a_torn_cache_is_rebuilt(folder: Path, tmp_path: Path, tear: Callable[[Path], None]) -> None:
    home = tmp_path / "home"
    index = scan(folder)
    decode(index, size=SIZE, home=home)
    tear(only_place(home))
    np.testing.assert_array_equal(decode(index, size=SIZE, home=home).films, expected(index))
    only_place(home)


def test_a_faster_process_wins(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    index = scan(folder)
    real = decoding.decode_films
    won: list[int] = []

    def overtaken(*args: object) -> dict[int, str]:
        if not won:
            won.append(1)
            decode(index, size=SIZE, home=home)
            won.append((only_place_but_building(home) / "films.npy").stat().st_ino)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "decode_films", overtaken)
    decoded = decode(index, size=SIZE, home=home)
    np.testing.assert_array_equal(decoded.films, expected(index))
    assert (only_place(home) / "films.npy").stat().st_ino == won[1]


def only_place_but_building(home: Path) -> Path:
    (place,) = (path for path in (home / "cache").iterdir() if not path.name.startswith("."))
    return place


SCRIPT = """
import sys
from pathlib import Path
from pneumonia.data.cache import decode
from pneumonia.data.index import scan
print(decode(scan(sys.argv[1]), size=32, home=Path(sys.argv[2]), workers=2).films.sum(), flush=True)
"""


def start(folder: Path, home: Path) -> subprocess.Popen[str]:
    """Unguarded and from -c, as a user may well run it."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_two_processes_at_once(folder: Path, tmp_path: Path) -> None:
    both = [start(folder, tmp_path / "home") for _ in range(2)]
    sums = {process.communicate()[0].strip() for process in both}
    assert sums == {str(expected(scan(folder)).sum())}
    only_place(tmp_path / "home")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_is_left_and_nothing_torn(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    home = tmp_path / "home"
    process = start(folder, home)
    me = psutil.Process(process.pid)
    deadline = time.monotonic() + 30
    while not (children := me.children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children
    process.send_signal(how)
    process.communicate()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, gone
    index = scan(folder)
    np.testing.assert_array_equal(decode(index, size=SIZE, home=home).films, expected(index))


def test_a_full_disk_is_seen_before_writing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 990, 10))
    with pytest.raises(DiskFullError, match=r"the disk is full: 1,073,152 bytes are needed at .*home") as error:
        decode(scan(folder), size=SIZE, home=tmp_path / "home")
    assert error.value.needed == 24 * SIZE * SIZE + (1 << 20)
    assert not (tmp_path / "home").exists()


def test_a_disk_that_fills_up(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "home", "64k") as home:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, 1 << 40))
        with pytest.raises(DiskFullError, match="bytes are needed at"):
            decode(scan(folder), size=96, home=home)
        assert list((home / "cache").iterdir()) == []


def test_what_killed_processes_left_is_removed(folder: Path, tmp_path: Path) -> None:
    old, new = (tmp_path / f"home/cache/.building-{age}" for age in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "films.npy").write_bytes(b"half")
    for path in (old / "films.npy", old):
        os.utime(path, (1, 1))
    decode(scan(folder), size=SIZE, home=tmp_path / "home")
    assert not old.exists()
    assert new.exists()
