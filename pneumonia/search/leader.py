"""Who leads a study: one process trains the best configuration in full and registers it; the others lend workers."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna

from pneumonia.runtime.signals import identity, is_gone
from pneumonia.search import attributes
from pneumonia.search import study as studies
from pneumonia.search.storage import StudyError

BEAT_SECONDS = 5.0
CLAIM_SECONDS = 1.0  # longer than a write to the database takes


def holder(study: optuna.Study) -> dict[str, Any] | None:
    """The living leader of `study`, or None.

    A leader on this machine is looked up in the process table. One elsewhere is alive if its beat goes on; waiting for
    that, rather than comparing times, does not need synchronised clocks.
    """
    seen = _read(study)
    if seen is None or is_gone(seen):
        return None
    if seen["host"] == identity()["host"] and seen["run_id"] is not None:
        return seen
    end = time.monotonic() + 3 * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(1)
        now = _read(study)
        if now is None or is_gone(now):
            return None
        if now["run_id"] is not None and (now["beat"] != seen["beat"] or now["host"] == identity()["host"]):
            return now
    return None


def claim(study: optuna.Study) -> bool:
    """Claims the lead for this process; whether it got it. Of several that claim at once, the last to write leads."""
    me = {**identity(), "run_id": None, "beat": 0}
    studies.with_retries(lambda: study.set_user_attr(attributes.LEADER, me))
    time.sleep(CLAIM_SECONDS)
    now = _read(study)
    return now is not None and all(now[key] == me[key] for key in ("host", "pid", "started"))


def _read(study: optuna.Study) -> dict[str, Any] | None:
    value: dict[str, Any] | None = studies.with_retries(lambda: study.user_attrs).get(attributes.LEADER)
    return value


@contextmanager
def lead(study: optuna.Study, run_id: str) -> Iterator[None]:
    """Leads `study` while the block runs."""
    me, count = {**identity(), "run_id": run_id}, itertools.count()

    def beat() -> None:
        study.set_user_attr(attributes.LEADER, {**me, "beat": next(count)})

    studies.with_retries(beat)
    try:
        with studies.repeating(beat, BEAT_SECONDS):
            yield
    finally:
        with suppress(StudyError):  # an unreachable database must not hide how the search ended
            studies.with_retries(lambda: study.set_user_attr(attributes.LEADER, None), seconds=1)
