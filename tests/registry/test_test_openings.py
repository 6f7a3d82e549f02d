"""Each opening of the test films is counted, whatever the model is called."""

from collections.abc import Callable
from pathlib import Path

from pneumonia.data.index import Index
from pneumonia.registry.test_openings import count_opening
from pneumonia.registry.versions import version_of
from pneumonia.runs.context import RunContext
from pneumonia.runs.evaluate import evaluate_and_record
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.runs.conftest import CHAMPION, openings


def test_each_opening_counts_whatever_the_model_is_called(
    tracker: Tracker, registered: Record, index: Index, home: Path
) -> None:
    assert openings(tracker) is None
    model_id = sent(registered)["model_id"]
    for number, uri in enumerate(("models:/pneumonia/1", f"models:/{model_id}", "/a/folder"), start=1):
        assert count_opening(tracker, version_of(tracker, uri, model_id), model_id) == number
        assert openings(tracker) == str(number)
    record, _ = evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker))
    assert openings(tracker) == record.run.tags["test.openings"] == "4"
    assert record.run.model_id == model_id


def test_openings_of_a_model_without_a_version_count_on_the_model(
    tracker: Tracker, copy_trained: Callable[..., Record]
) -> None:
    trained = copy_trained("plain")
    trained.finish("COMPLETE")
    tracker.send(trained)
    model_id = sent(trained)["model_id"]
    for number in (1, 2):
        assert version_of(tracker, f"models:/{model_id}", model_id) is None
        assert count_opening(tracker, None, model_id) == number
        assert tracker.client.get_logged_model(model_id).tags["test.openings"] == str(number)
