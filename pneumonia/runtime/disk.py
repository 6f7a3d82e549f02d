"""A full disk: said in one sentence, or waited for."""

import errno
import shutil
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
    """Waits until `needed` bytes are free at `path`.

    Args:
        meanwhile: called every second; may raise.

    Raises:
        DiskFullError: there was no room for so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            with room(path, needed):
                return
        except DiskFullError:
            if time.monotonic() > end:
                raise
        meanwhile()
        time.sleep(1)


@contextmanager
def room(path: Path, needed: int) -> Iterator[None]:
    """For a block that writes `needed` bytes at `path`, which need not exist yet.

    Raises:
        DiskFullError: so much is not free at the start, or the disk fills up meanwhile.
    """
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if shutil.disk_usage(there).free < needed:
        raise DiskFullError(path, needed)
    try:
        yield
    except OSError as error:
        if not is_full(error) or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(path, needed) from error
