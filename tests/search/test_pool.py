"""Workers that die are replaced, as long as trials come to their end between their deaths."""

import multiprocessing
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pneumonia.search import pool
from pneumonia.search.worker import Task


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """The next workers end at once, with these exit codes."""

    def set_ends(codes: list[int]) -> None:
        left: Iterator[int] = iter(codes)

        def process(**more: Any) -> Any:
            code, nothing = next(left), lambda *rest: None
            return SimpleNamespace(
                exitcode=code, start=nothing, terminate=nothing, join=nothing, kill=nothing, is_alive=lambda: False
            )

        monkeypatch.setattr(
            pool, "_context", lambda: SimpleNamespace(Process=process, get_start_method=lambda: "spawn")
        )

    monkeypatch.setattr(pool, "POLL_SECONDS", 0.0)
    return set_ends


def test_deaths_without_a_trial_done_end_the_search(ends: Callable[[list[int]], None], task: Task) -> None:
    ends([-9] * 11)
    with pytest.raises(pool.WorkersDied, match=r"11 worker processes died.*code -9.*the same command goes on"):
        pool.run(task, 1, on_poll=lambda: None, on_death=lambda: 0)


def test_a_search_of_days_does_not_count_its_deaths_together(ends: Callable[[list[int]], None], task: Task) -> None:
    """Of every ten workers that die a trial is done."""
    ends([-9] * 95 + [0])
    deaths: list[None] = []

    def on_death() -> int:
        deaths.append(None)
        return len(deaths) // 10

    pool.run(task, 1, on_poll=lambda: None, on_death=on_death)
    assert len(deaths) == 95


def test_many_workers_may_die_at_once(ends: Callable[[list[int]], None], task: Task) -> None:
    ends([-9] * 30 + [0] * 16)
    pool.run(task, 16, on_poll=lambda: None, on_death=lambda: 0)


@pytest.mark.slow
def test_the_server_of_forks_ends_with_its_block() -> None:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork server")
    server = pool._server()
    with pool.prepared():
        first = server._forkserver_pid
        assert first is not None
        with pool.prepared():
            assert server._forkserver_pid == first
        assert server._forkserver_pid == first
    assert server._forkserver_pid is None
