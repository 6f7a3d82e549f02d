"""How often a model has been scored on the test films."""

from mlflow.entities.model_registry import ModelVersion

from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.tags import TEST_OPENINGS


def count_opening(tracker: Tracker, version: ModelVersion | None, model_id: str | None) -> int:
    """Counts that the test split is opened for a model, on its version (`test.openings`), or on the logged model.

    Returns the count, this opening included; 1 for a model that the store does not know.
    """
    client, tag = tracker.client, TEST_OPENINGS
    with tracker_errors(tracker.uri):
        if version is not None:
            count = int(version.tags.get(tag, 0)) + 1
            client.set_model_version_tag(version.name, version.version, tag, str(count))
            return count
        if (known := tracker.known_model(model_id)) is not None:
            count = int(client.get_logged_model(known).tags.get(tag, 0)) + 1
            client.set_logged_model_tags(known, {tag: str(count)})
            return count
    return 1
