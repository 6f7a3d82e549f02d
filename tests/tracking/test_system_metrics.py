"""MLflow's switch for metrics of the machine, in runs of ours."""

import threading
import time
from collections.abc import Callable

import pytest

from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.sync import sent
from tests.command import until
from tests.conftest import TrackingServer

NewRecord = Callable[..., Record]


def measured(tracker: Tracker, record: Record) -> dict[str, int]:
    """How many values the run has of each metric of the machine."""
    client, run_id = tracker.client, sent(record)["run_id"]
    names = [name for name in client.get_run(run_id).data.metrics if name.startswith("system/")]
    return {name: len(client.get_metric_history(run_id, name)) for name in names}


def meters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


@pytest.fixture
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")


def test_a_run_is_not_measured_by_default(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record()
    with finished(record, tracker):
        assert meters() == []
    assert measured(tracker, record) == {}


@pytest.mark.usefixtures("switched_on")
@pytest.mark.parametrize("role", ["search", "trial", "train", "evaluate"])
def test_with_the_switch_on_every_run_is_measured_until_it_ends(
    tracker: Tracker, new_record: NewRecord, role: str
) -> None:
    record = new_record(role, role=role)
    with finished(record, tracker):
        assert len(meters()) == 1
        tracker.send(record)  # as after each epoch
        assert len(meters()) == 1
        until(lambda: measured(tracker, record), "a measurement", seconds=20)
    assert meters() == []
    found = measured(tracker, record)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= found.keys()
    time.sleep(0.5)
    assert measured(tracker, record) == found
    assert tracker.client.get_run(sent(record)["run_id"]).info.status == "FINISHED"


@pytest.mark.usefixtures("switched_on")
def test_a_run_that_fails_is_not_measured_on(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record()
    with pytest.raises(RuntimeError), finished(record, tracker):
        raise RuntimeError("too large")
    assert meters() == []


@pytest.mark.slow
@pytest.mark.usefixtures("switched_on")
def test_a_server_that_hangs_or_dies_holds_nothing_up_and_is_measured_for_again(
    server: TrackingServer, new_record: NewRecord
) -> None:
    tracker, record = Tracker(server.uri), new_record()
    tracker.experiment_id("pneumonia")
    tracker.send(record)
    until(lambda: measured(tracker, record), "a measurement", seconds=20)
    server.kill()
    record.add_metrics({"val/auc": 0.5}, step=1)
    assert not tracker.try_send(record, force=True)
    until(lambda: not meters(), "the end of the meter", seconds=60)
    server.start()
    assert tracker.try_send(record, force=True)
    assert len(meters()) == 1
    before = measured(tracker, record)["system/cpu_utilization_percentage"]
    until(lambda: measured(tracker, record)["system/cpu_utilization_percentage"] > before, "one more", seconds=20)
    server.freeze()
    time.sleep(0.5)  # so that the meter is waiting for an answer
    record.finish("COMPLETE")
    started = time.monotonic()
    tracker._meters.stop(sent(record)["run_id"])
    assert time.monotonic() - started < 1.5
