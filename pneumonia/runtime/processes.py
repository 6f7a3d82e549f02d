"""Programs that this one starts: each in a process group of its own, none of which outlives this process."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GONE_SECONDS = 2.0  # for the system to end what was killed


def start(words: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Starts a program in a process group of its own, so that a terminal's Ctrl-C reaches this process alone.

    On Linux the system sends it SIGTERM when the thread that calls ends, in whatever way: call from the main one.

    Args:
        options: as `subprocess.Popen` takes them.
    """
    return subprocess.Popen(words, start_new_session=True, preexec_fn=_following(os.getpid()), **options)


def _following(parent: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)  # loaded before the fork, after which little is safe

    def follow() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died meanwhile
            os._exit(1)

    return follow


def tree(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """A program and all that it started, itself first; empty when it has ended."""
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            return [first, *first.children(recursive=True)]
    return []


def ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM for what a program started or, where that is nothing, for itself: so that none loses its parent, and with
    it the one who notices its end.
    """
    found = tree(process)
    for each in found[1:] or found:
        with suppress(psutil.NoSuchProcess):
            each.terminate()


def end(process: "subprocess.Popen[bytes]", *, seconds: float) -> None:
    """Ends a program and all that it started: SIGTERM and, where something is left of it after `seconds`, SIGKILL."""
    ask_to_end(process)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL for a program's whole group, of which it may itself be dead; returns when all are gone, and their ports
    free.
    """
    end = time.monotonic() + GONE_SECONDS
    # macOS says PermissionError of a group that is dead already.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while time.monotonic() < end:  # what it started belongs to another process now, which buries it, or does not
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    process.wait()
