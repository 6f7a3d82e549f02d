"""A small disk, which can be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[bool]:
    """A disk of a size as `64k` or `40m` at a new folder; False where nothing may be mounted."""
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """The same for a test, which is skipped where there can be none."""
    with mounted(folder, size) as there:
        if not there:
            pytest.skip("only root may mount a small disk, and not in every container")
        yield folder


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """While the block runs, not a byte is free there."""
    files = [folder / "filling", folder / "up"]
    for file, block in zip(files, (1 << 20, 1 << 12), strict=True):
        with suppress(OSError), file.open("wb", buffering=0) as opened:
            while True:
                opened.write(bytes(block))
    yield
    for file in files:
        file.unlink()
