"""The worker processes of one machine: started, watched, replaced when they die, stopped together."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from pneumonia.search import worker
from pneumonia.search.worker import Task

POLL_SECONDS = 0.25
STOP_SECONDS = 1.5  # from asking the workers to stop to killing them
MAX_DEATHS = 10  # without a trial that came to its end between them


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
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and open databases
    deaths, started, done = 0, 0, 0
    alive: list[BaseProcess] = []

    def start() -> None:
        nonlocal started
        process = context.Process(target=worker.main, args=(task,), name=f"worker-{started}")
        with one_thread():
            process.start()
        alive.append(process)
        started += 1

    with stopped_at_the_end(alive):
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
