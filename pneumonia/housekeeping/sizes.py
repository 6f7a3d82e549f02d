"""Sizes of files and folders, in bytes and in words."""

import os
from contextlib import suppress
from pathlib import Path


def readable(size: float) -> str:
    """A number of bytes in three digits: 1.23 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:  # which three digits would make a thousand
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def size_of(path: Path) -> int:
    """What a file, or a folder with all below it, takes on the disk in bytes; links are not followed."""
    total = 0
    with suppress(OSError):
        total = path.lstat().st_size
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # it went meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def last_touched(path: Path) -> float:
    """When anything in a file or folder was last written, in seconds since 1970; 0 where it is gone."""
    times = [0.0]
    with suppress(OSError):
        times.append(path.lstat().st_mtime)
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            with suppress(OSError):
                times.append(os.lstat(os.path.join(folder, name)).st_mtime)
    return max(times)
