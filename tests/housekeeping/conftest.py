"""Records of processes that live or are dead, sent or not."""

from collections.abc import Callable
from typing import Any

import pytest

from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from tests.conftest import gone

NewRecord = Callable[..., Record]


@pytest.fixture
def sent_record(tracker: Tracker, new_record: NewRecord) -> NewRecord:
    """Makes ended records of a dead process that the store has in full: `sent_record("name", role="trial")`."""
    from tests.tracking.conftest import small

    def make(name: str, **fields: Any) -> Record:
        record = small(new_record, name, **{"owner": gone(), **fields})
        tracker.send(record)
        return record

    return make
