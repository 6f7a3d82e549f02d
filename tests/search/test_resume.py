"""Of the final trainings of a search that one is FINISHED whose model the registry has, whenever they were sent."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from pneumonia.registry.versions import SUPERSEDED, enter, is_waiting
from pneumonia.runs.context import RunContext
from pneumonia.search import connection, resume
from pneumonia.search import study as studies
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.search.conftest import BASE, SPACE

Final = Callable[[str], Record]


@pytest.fixture
def study(url: str) -> optuna.Study:
    """Of the name under which `copy_trained` files its records."""
    return studies.create_or_resume(connection.connect(url), "study", BASE, SPACE, changed=True)


@pytest.fixture
def final(copy_trained: Callable[..., Record]) -> Final:
    """A final training of the study that is complete, and not sent."""

    def make(name: str) -> Record:
        record = copy_trained(name, register="pneumonia", role="final")
        record.update(tags={**record.run.tags, "study.key": "k", "best.trial": "3"})
        record.finish("COMPLETE")
        return record

    return make


def status(tracker: Tracker, record: Record) -> tuple[str, str | None]:
    run = tracker.client.get_run(sent(record)["run_id"])
    return run.info.status, run.data.tags.get("reason")


def test_what_is_sent_before_the_other_is_registered(tracker: Tracker, final: Final) -> None:
    """A leader died while it sent its own; it is typed again after the next one had looked for it in vain."""
    first, second = final("first"), final("second")
    for record in (first, second):
        tracker.send(record)
    assert enter(tracker, second).version == "1"
    assert status(tracker, first) == ("KILLED", SUPERSEDED)
    assert status(tracker, second) == ("FINISHED", None)


def test_what_is_sent_after_the_other_is_registered(
    study: optuna.Study, tracker: Tracker, final: Final, home: Path
) -> None:
    first, second = final("first"), final("second")
    tracker.send(second)
    assert enter(tracker, second).version == "1"
    tracker.send(first)
    assert status(tracker, first) == ("FINISHED", None)
    for _ in range(2):  # the command is typed again, and again
        resume.end_superseded(study, RunContext(home=home, tracker=tracker))
        assert status(tracker, first) == ("KILLED", SUPERSEDED)
        assert status(tracker, second) == ("FINISHED", None)


def test_what_nobody_registered_waits(study: optuna.Study, tracker: Tracker, final: Final, home: Path) -> None:
    first = final("first")
    tracker.send(first)
    resume.end_superseded(study, RunContext(home=home, tracker=tracker))
    assert status(tracker, first) == ("FINISHED", None)
    assert is_waiting(first)


def test_another_search_and_a_run_that_somebody_deleted_are_left_alone(tracker: Tracker, final: Final) -> None:
    first, second, other = final("first"), final("second"), final("other")
    other.update(tags={**other.run.tags, "best.trial": "4"})
    for record in (first, second, other):
        tracker.send(record)
    assert enter(tracker, first).version == "1"
    tracker.client.delete_run(sent(second)["run_id"])
    assert enter(tracker, second).version == "1"
    assert status(tracker, other) == ("FINISHED", None)
    assert enter(tracker, other).version == "2"
    assert status(tracker, first) == ("FINISHED", None)
