"""Keeps memory that a training allocates again and again in the process."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt(3)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST = 32 << 20  # bytes; the most that glibc takes for M_MMAP_THRESHOLD


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """For a block that allocates and frees the same large blocks all the time, as each step of a training does.

    By default glibc returns freed blocks to the system, which gives them out again page by page, each zeroed: a tenth
    of a step at 64 px. At the end of the block free memory is returned. With another C library nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TOP_PAD, 2 * LARGEST)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST)  # a little more than glibc would set by itself after large blocks
        libc.mallopt(M_TOP_PAD, 128 << 10)
        libc.malloc_trim(0)
