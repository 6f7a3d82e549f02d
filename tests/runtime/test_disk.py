"""A full disk is one sentence, with the path and the bytes, or is waited for."""

import errno
from pathlib import Path

import pytest

from pneumonia.runtime import disk
from pneumonia.runtime.disk import DiskFullError
from tests.small_disk import full, small_disk


def test_what_fills_the_disk_is_said_with_path_and_bytes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as place:
        said = rf"^the disk is full: 100,000 bytes are needed at {place}/new/file$"
        with pytest.raises(DiskFullError, match=said), disk.room(place / "new" / "file", 100_000):
            raise AssertionError("there is no room")
        with pytest.raises(DiskFullError, match="10 bytes are needed"), disk.room(place / "file", 10):
            (place / "file").write_bytes(bytes(100_000))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk.room(tmp_path / "file", 10):
        (tmp_path / "file").read_bytes()
    assert not disk.is_full(FileNotFoundError(errno.ENOENT, "no such file"))
    assert disk.is_full(OSError(errno.EDQUOT, "quota"))


def test_room_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.time, "sleep", lambda seconds: None)
    looks = []
    with small_disk(tmp_path / "disk", "1m") as place, full(place):
        with pytest.raises(DiskFullError):
            disk.wait_for_room(place, 1000, seconds=0, meanwhile=lambda: None)

        def free() -> None:
            looks.append(1)
            if len(looks) == 3:
                (place / "filling").write_bytes(b"")

        disk.wait_for_room(place, 1000, seconds=60, meanwhile=free)
    assert len(looks) == 3


def test_a_quota_is_noticed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, start: int, length: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(disk.os, "posix_fallocate", refuse)
    with pytest.raises(DiskFullError, match="1,000 bytes are needed"):
        disk.wait_for_room(tmp_path, 1000, seconds=0, meanwhile=lambda: None)
    assert list(tmp_path.iterdir()) == []
