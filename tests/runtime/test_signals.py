"""Signals: the first one stops, and none in the middle of a transaction."""

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pneumonia.runtime.signals import SIGNALS, Interrupted, Stop, delay_signals

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before, hook = {signum: signal.getsignal(signum) for signum in SIGNALS}, sys.unraisablehook
    Stop().raise_on_signals()
    yield
    sys.unraisablehook = hook
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum: int) -> None:
    """To this process, as from outside: the handler runs when the interpreter comes to it."""
    os.kill(os.getpid(), signum)
    time.sleep(0.01)


@pytest.mark.parametrize("signals", [[INT], [TERM], [TERM, INT, TERM]])
def test_a_signal_acts_when_the_transaction_is_through(signals: list[int]) -> None:
    steps = []

    def work() -> None:
        with delay_signals():
            for signum in signals:
                send(signum)
            steps.append("through")
        steps.append("after")

    with pytest.raises(Interrupted, match=signal.Signals(signals[0]).name):
        work()
    assert steps == ["through"]
    send(INT)  # a later one does not disturb the tidying up


class Freed:
    """Does something while Python frees it."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def __del__(self) -> None:
        self.action()


def free_with_a_finalizer() -> None:
    Freed(lambda: send(TERM))


def free_with_a_weak_reference() -> None:
    thing = Freed(lambda: None)
    watch = weakref.ref(thing, lambda reference: send(TERM))
    del thing
    assert watch() is None


@pytest.mark.parametrize("free", [free_with_a_finalizer, free_with_a_weak_reference])
def test_what_python_drops_is_raised_again(free: Callable[[], None]) -> None:
    steps = []

    def work() -> None:
        free()
        steps.append("freed")
        time.sleep(5)
        steps.append("after")

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert steps == ["freed"]
    send(INT)  # a later one does not disturb the tidying up


def test_what_python_drops_waits_for_the_transaction() -> None:
    steps = []

    def work() -> None:
        free_with_a_finalizer()
        with delay_signals():
            time.sleep(0.1)
            steps.append("through")
        steps.append("after")

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert steps == ["through"]


def test_other_complaints_go_their_way() -> None:
    seen: list[Any] = []
    sys.unraisablehook = seen.append
    Stop().raise_on_signals()

    def fail() -> None:
        raise ValueError("freed")

    Freed(fail)
    assert [what.exc_type for what in seen] == [ValueError]


def test_without_a_signal_nothing_is_changed() -> None:
    before = signal.getsignal(INT), signal.getsignal(TERM)
    with delay_signals():
        assert signal.getsignal(INT) not in before
    assert (signal.getsignal(INT), signal.getsignal(TERM)) == before


def test_one_block_in_another_acts_at_the_end_of_the_outer() -> None:
    steps = []

    def work() -> None:
        with delay_signals():
            with delay_signals():
                send(TERM)
                steps.append("inner")
            steps.append("outer")
        steps.append("after")

    with pytest.raises(Interrupted):
        work()
    assert steps == ["inner", "outer"]


def test_a_block_that_hangs_is_left_with_a_later_signal() -> None:
    steps = []

    def work() -> None:
        with delay_signals(most=0.0):
            send(TERM)
            send(INT)
            steps.append("through")

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert steps == []


def test_an_error_in_the_block_comes_through() -> None:
    with pytest.raises(ValueError, match="locked"), delay_signals():
        raise ValueError("locked")
    with pytest.raises(Interrupted):
        send(INT)


def test_other_threads_are_not_concerned() -> None:
    before, seen = signal.getsignal(INT), []

    def work() -> None:
        with delay_signals():
            seen.append(signal.getsignal(INT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
