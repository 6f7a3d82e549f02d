"""What can go: files that nobody needs any more. Each is listed with its size, and looked at again before it goes.

What is doubtful stays: a file of a process that may live, on this machine or another, a record that the tracking store
does not have in full, the records of a study that is not finished.
"""

import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pneumonia.data import cache
from pneumonia.housekeeping.leftovers import DAY_SECONDS, HOUR_SECONDS, is_stale, readable_records
from pneumonia.housekeeping.sizes import last_touched, size_of
from pneumonia.runtime.signals import is_gone
from pneumonia.tracking.record import RUN, Record, read_json

PART = re.compile(r"\.(\d+)-\d+\.part$")  # see `record.write_json`
SCRATCH = "tmp*"  # of `tempfile`, in a record: a model that was being written
# In the folder for temporary files, by the names that this program gives them; they live for minutes.
TEMPORARY = ("pneumonia-gate-*", "pneumonia-trial-*", "pneumonia-artifact-*", "pneumonia-model-*", "pneumonia-parent-*")
SERVED, OWNER = "pneumonia-serve-*", "owner.json"  # as long as the server lives, which notes itself there
REMOVING = ".removing-"
CHECKPOINTS, CHECKPOINT_LOCK = "checkpoints", "lock"  # of a home: a folder for each training, whose process holds it


@dataclass(frozen=True)
class Removable:
    """Something that can go: its kind, where it is, its bytes, and why nobody needs it.

    `remove` returns False where it is needed after all by now, and raises OSError or TrackingError where it cannot go.
    """

    kind: str
    what: str
    size: int
    why: str
    remove: Callable[[], bool] = field(repr=False, compare=False)


def caches(home: Path, *, days: float) -> Iterator[Removable]:
    """Caches of decoded films that were not opened for `days`, or that this version of the program does not open."""

    def remove(one: cache.Stored) -> bool:
        now = [other for other in cache.stored(home) if other.place == one.place]
        if not now or not is_stale(now[0], days=days, now=time.time()):
            return False
        cache.remove(one.place)
        return True

    for one in cache.stored(home):
        if is_stale(one, days=days, now=time.time()):
            why = f"not opened for {(time.time() - one.opened) / DAY_SECONDS:.0f} days"
            if not one.current:
                why += ", of another version of the program"
            yield Removable("cache", str(one.place), size_of(one.place), why, lambda one=one: remove(one))  # type: ignore[misc]


def half_written(home: Path) -> Iterator[Removable]:
    """What killed processes left half-written in a home: caches, films, files of records, models, what was being
    removed.
    """
    for path in [
        *cache.half_written(home),
        *_old(home.glob(f"{REMOVING}*")),
        *_old(home.glob("synthetic/.synthetic-*")),
    ]:
        yield _file(path, "was never finished", lambda path=path: path.exists())  # type: ignore[misc]
    for path in home.glob("records/**/*.part"):
        if (found := PART.search(path.name)) and not psutil.pid_exists(int(found[1])) and list(_old([path])):
            yield _file(path, "its process is dead", lambda path=path: bool(list(_old([path]))))  # type: ignore[misc]
    for record in readable_records(home)[0]:
        if record.status is not None and is_gone(record.run.owner):
            for path in _old(one for one in record.folder.glob(SCRATCH) if one.is_dir()):
                yield _file(path, "a model that was never finished, whose process is dead", path.is_dir)


def checkpoints(home: Path, *, days: float) -> Iterator[Removable]:
    """Checkpoints of trainings that were stopped, and that nobody has gone on with for `days`. The end of a training
    removes its own.
    """

    def is_left(folder: Path) -> bool:
        written = [last_touched(path) for path in folder.glob("*") if path.name != CHECKPOINT_LOCK]
        return bool(written) and time.time() - max(written) > days * DAY_SECONDS

    def remove(folder: Path) -> bool:
        with suppress(Timeout), FileLock(folder / CHECKPOINT_LOCK, timeout=0):
            if is_left(folder):
                discard(folder)
                return True
        return False

    for folder in sorted((home / CHECKPOINTS).glob("*")):
        if folder.is_dir() and is_left(folder):
            why = f"its training was stopped, and nobody went on with it for {days:g} days"
            yield Removable("checkpoint", str(folder), size_of(folder), why, partial(remove, folder))


def temporary_files(folder: Path | None = None) -> Iterator[Removable]:
    """What killed processes left in the folder for temporary files, of this user, a day old.

    Args:
        folder: that folder; the system's if None.
    """
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    for pattern in TEMPORARY:
        for path in _old(folder.glob(pattern), seconds=DAY_SECONDS):
            if path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink():
                why = "not touched for a day"
                yield _file(path, why, lambda path=path: bool(list(_old([path], seconds=DAY_SECONDS))))  # type: ignore[misc]
    for path in folder.glob(SERVED):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if path.lstat().st_uid == os.getuid() and is_gone(read_json(path / OWNER)):
                yield _file(path, "its server is dead", path.is_dir)


def _old(paths: Iterator[Path] | list[Path], *, seconds: float = HOUR_SECONDS) -> Iterator[Path]:
    """Those in which nothing was written for so long."""
    for path in paths:
        touched = last_touched(path)
        if touched and time.time() - touched > seconds:
            yield path


def _file(path: Path, why: str, still: Callable[[], bool], kind: str = "temporary") -> Removable:
    def remove() -> bool:
        if not still():
            return False
        discard(path)
        return True

    return Removable(kind, str(path), size_of(path), why, remove)


def discard(path: Path) -> None:
    """Removes a file, or a folder with all below it.

    Raises:
        OSError: something of it stays.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def take_away(record: Record, home: Path, still: Callable[[], bool]) -> bool:
    """Removes a record while nobody sends it: in one step out of the reach of who looks for records, so that half of it
    is never taken for one that is still to be sent.

    Args:
        still: whether it can go, asked once nobody else can send it.
    """
    away = home / f"{REMOVING}{uuid.uuid4().hex}"
    if not (record.folder / RUN).exists():
        return False
    try:
        with FileLock(record.folder / "send.lock", timeout=0):
            if not (record.folder / RUN).exists() or not still():
                return False
            record.folder.rename(away)
    except Timeout:
        return False
    discard(away)
    return True
