"""The worker processes of one machine: started, watched, replaced when they die, stopped together."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

from pneumonia.search import worker
from pneumonia.search.worker import Task

POLL_SECONDS = 0.25
STOP_SECONDS = 1.5  # from asking the workers to stop to killing them
MAX_DEATHS = 10  # without a trial that came to its end between them


# What a worker needs, and its first record (see `runs.train.warm_up`): most of a new worker's 17 seconds of the CPU.
PRELOADED = ["pneumonia.search.worker", "sklearn.metrics", "seaborn", "onnx", "torch.onnx._internal"]


class WorkersDied(RuntimeError):
    """Workers died one after the other, and no trial came to its end."""


def run(task: Task, workers: int, *, on_poll: Callable[[], None], on_death: Callable[[], int]) -> None:
    """Runs `workers` processes until each has nothing left to do.

    Args:
        on_poll: called about four times a second; what it raises stops the workers.
        on_death: called after a worker died by itself, before it is replaced; returns how many trials are done.

    Raises:
        WorkersDied: too many died without a trial done between them.
    """
    context = _context()
    deaths, started, done = 0, 0, 0
    alive: list[BaseProcess] = []

    def start() -> None:
        nonlocal started
        process: BaseProcess = context.Process(target=worker.main, args=(task,), name=f"worker-{started}")
        with one_thread():
            process.start()
        alive.append(process)
        started += 1

    with prepared(), stopped_at_the_end(alive):
        for _ in range(workers):
            start()
        while alive:
            on_poll()
            for process in [p for p in alive if p.exitcode is not None]:
                alive.remove(process)
                if process.exitcode == 0:
                    continue
                deaths, before, done = deaths + 1, done, on_death()
                if done > before:
                    deaths = 1
                if deaths > max(MAX_DEATHS, 2 * workers):
                    raise WorkersDied(
                        f"{deaths} worker processes died, the last with exit code {process.exitcode}, and no trial "
                        "came to its end; the same command goes on from here"
                    )
                start()
            time.sleep(POLL_SECONDS)


def _context() -> Any:
    """Workers are forks of a server that has imported what they need and done nothing else; a fork of this process
    would share torch's threads and open databases. Where there can be no such server, they start from nothing.
    """
    there = "forkserver" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if there else "spawn")


def _server() -> Any:
    """The standard library's one server, whose only way to stop it is not public."""
    return forkserver._forkserver


@contextmanager
def prepared() -> Iterator[None]:
    """The server that workers are forks of starts with the block, to import while other things are done, and ends with
    it. Blocks may be nested.
    """
    context, server = _context(), _server()
    if context.get_start_method() != "forkserver" or server._forkserver_pid is not None:
        yield
        return
    context.set_forkserver_preload(PRELOADED)
    with one_thread():
        forkserver.ensure_running()
    try:
        yield
    finally:  # it would keep this environment for later searches of this process
        if server._forkserver_pid is not None:
            with suppress(ProcessLookupError):
                os.kill(server._forkserver_pid, signal.SIGKILL)  # by itself it takes a second to go, and has nothing
        server._stop()


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes started in the block compute with one thread each; more threads than cores slow each other down."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def stopped_at_the_end(processes: list[BaseProcess]) -> Iterator[None]:
    """Whatever ends the block, no process outlives it."""
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
