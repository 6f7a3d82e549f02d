"""Runs that a command is asked to compare or evaluate."""

from collections.abc import Callable

import pytest

from pneumonia.tracking.logged_models import delete_model
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker

CHAMPION = "models:/pneumonia@champion"


def openings(tracker: Tracker) -> str | None:
    return tracker.client.get_model_version("pneumonia", "1").tags.get("test.openings")


@pytest.fixture
def runs(tracker: Tracker, copy_trained: Callable[..., Record]) -> list[str]:
    """The ids of three runs with models: one, its copy, and one whose logits are moved."""
    ids = []
    for name, bias in (("one", 0.0), ("copy", 0.0), ("moved", 3.0)):
        record = copy_trained(name, bias=bias)
        record.finish("COMPLETE")
        ids.append(tracker.send(record))
    return ids


def drop(tracker: Tracker, run_id: str) -> None:
    """Deletes the run's model, as a search of many trials does."""
    (model,) = tracker.client.search_logged_models(["1"], f"source_run_id = '{run_id}'")
    delete_model(model, tracker.client, tracker.uri)
