"""Records of processes that live or are dead, sent or not."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pneumonia.runtime.signals import identity
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker

NewRecord = Callable[..., Record]


def dead() -> dict[str, Any]:
    """The identity of a process of this machine that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return {**identity(), "pid": process.pid, "started": 0.0}


@pytest.fixture
def sent_record(tracker: Tracker, new_record: NewRecord) -> NewRecord:
    """Makes ended records of a dead process that the store has in full: `sent_record("name", role="trial")`."""
    from tests.tracking.conftest import small

    def make(name: str, **fields: Any) -> Record:
        record = small(new_record, name, **{"owner": dead(), **fields})
        tracker.send(record)
        return record

    return make
