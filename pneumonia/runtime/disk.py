"""A full disk: said in one sentence, or waited for."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class DiskFullError(OSError):
    """No room for what must be written; one sentence with the path and the bytes needed."""

    def __init__(self, path: Path, needed: int) -> None:
        super().__init__(errno.ENOSPC, f"the disk is full: {needed:,} bytes are needed at {path}")
        self.path = path
        self.needed = needed

    def __str__(self) -> str:
        return str(self.strerror)


def is_full(error: Exception) -> bool:
    """Whether it says that a disk, or what one may use of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def wait_for_room(path: Path, needed: int, *, seconds: float, meanwhile: Callable[[], None]) -> None:
    """Waits until `needed` bytes are free at `path`, and a quota, if there is one, allows them.

    Args:
        meanwhile: called every second; may raise.

    Raises:
        DiskFullError: there was no room for so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            with room(path, needed):
                _reserve(path, needed)
                return
        except DiskFullError:
            if time.monotonic() > end:
                raise
        meanwhile()
        time.sleep(1)


def _reserve(path: Path, needed: int) -> None:
    """Takes the bytes for a moment, since nobody but the file system knows of a quota.

    Raises:
        OSError: it does not give them.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with tempfile.TemporaryFile(dir=existing(path)) as file:
            os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        if is_full(error):
            raise


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


@contextmanager
def room(path: Path, needed: int) -> Iterator[None]:
    """For a block that writes `needed` bytes at `path`, which need not exist yet.

    Raises:
        DiskFullError: so much is not free at the start, or the disk fills up meanwhile.
    """
    if shutil.disk_usage(existing(path)).free < needed:
        raise DiskFullError(path, needed)
    try:
        yield
    except OSError as error:
        if not is_full(error) or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(path, needed) from error
