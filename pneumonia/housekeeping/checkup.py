"""Checks that say what is wrong and what mends it. None changes anything, holds the others up, or ends them.

What a check looks at is imported by the check itself: that it cannot be imported may be what is wrong.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.secrets import masked

State = Literal["ok", "note", "warning", "error"]
SECONDS = 20.0  # for a check on a busy machine; its own questions to servers and databases wait for 5
SAID_LETTERS = 400

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """What was found, in a sentence, and the command that mends it, where there is one."""

    name: str
    state: State
    sentence: str
    command: str = ""


@dataclass(frozen=True)
class Look:
    """A check that is still to be made: `call` returns one result or several."""

    name: str
    call: Callable[[], Check | Sequence[Check]]
    seconds: float = SECONDS


def examine(looks: Sequence[Look]) -> Iterator[Check]:
    """Makes the checks one after the other. One that takes too long, or fails by itself, is an error by its name."""
    for look in looks:
        try:
            found = bounded(look.call, look.seconds)
        except TimeoutError:
            yield Check(look.name, "error", f"no answer within {look.seconds:g} s")
        except Exception as error:  # whatever a broken package or a foreign database raises
            said = shortened(masked(first_line(error)), SAID_LETTERS)
            yield Check(look.name, "error", f"cannot be looked at ({type(error).__name__}): {said}")
        else:
            yield from [found] if isinstance(found, Check) else found


def bounded(call: Callable[[], T], seconds: float) -> T:
    """What `call` returns, or raises, in a thread that is left behind after so many seconds.

    Raises:
        TimeoutError: it has not returned by then.
    """
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:  # raised again in the caller's thread
            answers.put((None, error))

    threading.Thread(target=run, name="check", daemon=True).start()
    with suppress(queue.Empty):
        answer, error = answers.get(timeout=seconds)
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]
    raise TimeoutError(f"no answer within {seconds:g} s")
