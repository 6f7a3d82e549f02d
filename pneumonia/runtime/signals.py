"""How a process learns that it should stop: by a signal, or because the process that started it is gone."""

import atexit
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import psutil

POLL_SECONDS = 0.5
MERCY_SECONDS = 3.0  # from losing the parent to exiting without cleaning up
AGAIN_SECONDS = 0.01
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class Interrupted(KeyboardInterrupt):
    """Raised where a stop request is noticed; `except Exception` does not catch it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Stop:
    """The first request to stop; later ones are ignored, so that cleaning up is not interrupted."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raises:
        Interrupted: a stop was requested.
        """
        if self.signum is not None:
            raise Interrupted(self.signum)

    def raise_on_signals(self) -> None:
        """SIGINT and SIGTERM raise Interrupted wherever the main thread is, once.

        Python drops what is raised while it frees an object (in `__del__`, or in a weak reference's callback). It is
        raised again a moment later, by SIGALRM, so that a stop is never lost.
        """
        complain = sys.unraisablehook

        def handle(signum: int, frame: FrameType | None) -> None:
            if self.signum is None:
                self.signum = signum
                # Ignored by the system, since an interpreter that shuts down removes its own handlers.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                raise Interrupted(signum)

        def handle_again(signum: int, frame: FrameType | None) -> None:
            self.check()

        def dropped(what: "sys.UnraisableHookArgs") -> None:
            if isinstance(what.exc_value, Interrupted):
                signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
            else:
                complain(what)

        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGALRM, handle_again)
        sys.unraisablehook = dropped

    def note_sigterm(self) -> None:
        """For a worker: SIGTERM is noted for `check`; SIGINT, which a terminal sends to the whole group, is the
        starting process's to handle.
        """

        def handle(signum: int, frame: FrameType | None) -> None:
            self.signum = self.signum or signum

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow_parent(self) -> None:
        """For a worker: stops when the process that started it dies, at the latest after `MERCY_SECONDS`."""
        parent = multiprocessing.parent_process()  # which is not the one that it is a fork of
        assert parent is not None

        def watch() -> None:
            while parent.is_alive():
                threading.Event().wait(POLL_SECONDS)
            self.signum = self.signum or signal.SIGTERM
            threading.Event().wait(MERCY_SECONDS)
            os._exit(1)

        threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def leave_quickly() -> None:
    """Skips the garbage collection at the end of this process, which takes a second with torch and MLflow."""
    atexit.register(gc.freeze)


@contextmanager
def delay_signals(*, most: float = 2.0) -> Iterator[None]:
    """For a call to a database: delays a signal to the end of the block or, where the block hangs, to the next signal
    after `most` seconds.

    An exception in the middle of a transaction would leave the database locked while that exception is handled.
    """
    if threading.current_thread() is not threading.main_thread():  # no handler runs here
        yield
        return
    came: list[tuple[int, float]] = []
    before: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        came.append((signum, time.monotonic()))
        if came[-1][1] - came[0][1] > most:
            act()

    def act() -> None:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        if came:
            signal.raise_signal(came.pop(0)[0])

    for signum in SIGNALS:
        before[signum] = signal.signal(signum, note)
    try:
        yield
    finally:
        act()


def follow_mlflow_run() -> None:
    """Under `mlflow run`: SIGTERM for this process when `mlflow run` dies, which does not pass its own SIGTERM on."""
    watched = _up_to_mlflow_run()
    if not watched:
        return

    def watch() -> None:
        while all(_lives(process) for process in watched):
            threading.Event().wait(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow-mlflow-run", daemon=True).start()


def end_mlflow_run() -> None:
    """Under `mlflow run`: SIGTERM for it, at once. Left alone it would wait for this process and then write FAILED over
    the KILLED of the run (MLflow 3.17 looks a status's name up among numbers, and so takes every run for unfinished).
    """
    for process in _up_to_mlflow_run()[-1:]:
        with suppress(psutil.NoSuchProcess):
            process.terminate()


def _up_to_mlflow_run() -> list[psutil.Process]:
    """The ancestors of this process as far as the `mlflow run` that started it; empty when none did."""
    found: list[psutil.Process] = []
    for ancestor in psutil.Process().parents():
        try:
            command = ancestor.cmdline()
        except psutil.Error:
            return []
        found.append(ancestor)
        if is_mlflow_run(command):
            return found
    return []


def is_mlflow_run(command: list[str]) -> bool:
    """Whether the words of a process's command line are those of `mlflow run`."""
    return "run" in command and any(os.path.basename(word).startswith("mlflow") for word in command)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def identity() -> dict[str, str | int | float]:
    """What identifies this process among those of all machines: host, pid and start time (seconds)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_gone(who: dict[str, str | int | float]) -> bool:
    """Whether the process of an `identity` is known to be dead; False for one on another machine, which is not
    known.
    """
    if who.get("host") != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(who["pid"]))
        started = process.create_time()
        return abs(started - float(who["started"])) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
