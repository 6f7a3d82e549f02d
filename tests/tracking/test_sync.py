"""Sending makes the store say what the record says, as often as it is done and wherever it broke off."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from pneumonia.tracking import sync
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.sync import STATUS, heir, sent, unsent
from tests.tracking.conftest import Flaky, NewRecord, files, small


def state_of(tracker: Tracker, record: Record) -> dict[str, Any]:
    """All that the store says of a record: for comparisons, without what differs from run to run."""
    client, run_id = tracker.client, sent(record)["run_id"]
    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    ours = client.search_runs([experiment_id], f"tags.record = '{record.run.key}'")
    outputs = run.outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id for model in models]
    return {
        "runs": len(ours),
        "status": run.info.status,
        "params": run.data.params,
        "tags": {name: value for name, value in run.data.tags.items() if name not in ("record", "mlflow.runName")},
        "metrics": {
            # A set: at the last step stand the epoch's value and the summary's, one if they fell into one millisecond.
            name: sorted({(m.step, m.value) for m in client.get_metric_history(run_id, name)})
            for name in run.data.metrics
        },
        "artifacts": files(client, run_id),
        "datasets": [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs],
        "models": [(str(m.status), m.name, m.params, {x.key: (x.value, x.step) for x in m.metrics}) for m in models],
        "files": [sorted(p.name for p in Path(m.artifact_location).iterdir()) for m in models],
        "outputs": [output.step for output in outputs],
    }


def test_sending_twice_changes_nothing(tracker: Tracker, new_record: NewRecord) -> None:
    record = small(new_record, "one")
    run_id = tracker.send(record)
    once = state_of(tracker, record)
    assert once["runs"] == len(once["models"]) == 1
    assert once["metrics"]["val/auc"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert once["metrics"]["val/loss"] == [(1, 1), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert once["models"][0][0] == "READY"
    assert once["models"][0][3] == {"val/auc": (0.75, 3), "val/threshold": (0.4, 3)}
    assert not unsent(record)
    assert tracker.send(record) == run_id
    assert state_of(tracker, record) == once


def test_the_local_model_is_given_away_not_copied(tracker: Tracker, new_record: NewRecord) -> None:
    record = small(new_record, "one")
    tracker.send(record)
    assert not record.model.exists()


def test_only_what_is_new_is_sent(tracker: Tracker, new_record: NewRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    record = new_record()
    record.add_params({"lr": 1e-3})
    record.add_metrics({"val/auc": 0.5}, step=1)
    record.add_json("a.json", 1)
    tracker.send(record)
    record.add_metrics({"val/auc": 0.6}, step=2)
    record.add_json("b.json", 1)
    calls: list[tuple[str, Any]] = []
    for name in ("log_batch", "log_artifact"):
        method = getattr(MlflowClient, name)
        monkeypatch.setattr(
            MlflowClient, name, lambda *a, _m=method, _n=name, **k: (calls.append((_n, (a[1:], k))), _m(*a, **k))[1]
        )
    tracker.send(record)
    assert [name for name, _ in calls] == ["log_batch", "log_artifact"]
    assert [metric.step for metric in calls[0][1][1]["metrics"]] == [2]
    assert calls[1][1][0][1].endswith("b.json")
    run = tracker.client.get_run(sent(record)["run_id"])
    assert run.info.status == "RUNNING"
    record.add_json("b.json", 22)  # a file that changed is sent again
    tracker.send(record)
    assert json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/b.json")) == 22


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["request lost", "answer lost"])
def test_sending_goes_on_after_any_call_that_failed(tracker: Tracker, new_record: NewRecord, before: bool) -> None:
    sound = small(new_record, "sound")
    tracker.send(sound)
    wanted = state_of(tracker, sound)
    client, failed = tracker.client, []
    for fault in count(1):
        record = small(new_record, f"fault-{fault}")
        flaky = Flaky(client, fault, before=before)
        tracker._client = flaky  # type: ignore[assignment]
        if tracker.try_send(record, force=True):
            assert not flaky.failed
            break
        tracker._client = client
        failed.append(flaky.failed)
        assert unsent(record)
        assert record.model.exists()
        assert tracker.try_send(record, force=True), flaky.failed
        assert state_of(tracker, record) == wanted, f"after {flaky.failed} failed"
    assert {"create_run", "log_inputs", "log_artifact", "create_logged_model", "finalize_logged_model"} <= set(failed)
    assert {"log_batch", "log_model_artifacts", "log_outputs", "set_terminated"} <= set(failed)
    running = client.search_runs(["1"], "attributes.status = 'RUNNING'")
    assert running == []


def test_two_that_record_the_same_films_at_once_both_succeed(tracker: Tracker, new_record: NewRecord) -> None:
    """MLflow looks whether a dataset or an experiment is there, and then adds it: another may be quicker."""
    for attempt in range(5):
        dataset = {"name": f"films{attempt}", "digest": "ab" * 32, "source": "/films"}
        pair = [new_record(f"{attempt}-{i}", dataset=dataset, experiment=f"new {attempt}") for i in range(4)]
        together = Barrier(len(pair))

        def send(record: Record, together: Barrier = together) -> str:
            client = MlflowClient(tracker.uri)
            client.search_experiments()  # the store is open
            together.wait()
            return sync.send(record, client, tracker.uri)

        with ThreadPoolExecutor(len(pair)) as pool:
            run_ids = list(pool.map(send, pair))
        runs = [tracker.client.get_run(run_id) for run_id in run_ids]
        assert len({run.info.run_id for run in runs}) == len(pair)
        assert len({run.info.experiment_id for run in runs}) == 1
        assert [len(run.inputs.dataset_inputs) for run in runs] == [1] * len(pair)


def test_a_long_training_kept_back_by_an_outage_is_sent_whole(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record()
    for step in range(150):
        record.add_metrics({f"val/m{i}": i * step for i in range(16)}, step=step)
    record.add_params({f"p{i}": i for i in range(250)})
    record.finish("COMPLETE")
    run_id = tracker.send(record)
    assert len(tracker.client.get_metric_history(run_id, "val/m15")) == 150
    assert len(tracker.client.get_run(run_id).data.params) == 250


def test_params_that_are_there_in_other_words_are_left_alone(tracker: Tracker, new_record: NewRecord) -> None:
    """`mlflow run -P lr=1e-3` logs the text itself, and MLflow refuses another text for the same parameter."""
    made = tracker.client.create_run("1")
    tracker.client.log_param(made.info.run_id, "lr", "1e-3")
    record = new_record(run_id=made.info.run_id)
    record.add_params({"lr": 0.001, "width": 8})
    record.finish("COMPLETE")
    assert tracker.send(record) == made.info.run_id
    assert tracker.client.get_run(made.info.run_id).data.params == {"lr": "1e-3", "width": "8"}


def test_an_adopted_run_gets_name_description_and_tags(tracker: Tracker, new_record: NewRecord) -> None:
    made = tracker.client.create_run("1", tags={"mlflow.source.name": "mlflow run", "mlflow.project.env": "local"})
    record = new_record("mine", run_id=made.info.run_id, description="words", tags={"a": "b"})
    tracker.send(record)
    run = tracker.client.get_run(made.info.run_id)
    assert run.info.run_name == "mine"
    tags = run.data.tags
    assert (tags["mlflow.note.content"], tags["a"], tags["role"]) == ("words", "b", "train")
    assert (tags["mlflow.source.name"], tags["mlflow.project.env"]) == ("mlflow run", "local")
    assert len(tracker.client.search_runs(["1"])) == 1


@pytest.mark.parametrize(("state", "status"), STATUS.items())
def test_a_state_has_its_status_tag_and_reason(
    tracker: Tracker, new_record: NewRecord, state: Any, status: str
) -> None:
    assert STATUS == {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "INTERRUPTED": "KILLED"}
    for role in ("trial", "search"):
        record = new_record(f"{state}-{role}", role=role)
        record.finish(state, "" if state == "COMPLETE" else "because")
        run = tracker.client.get_run(tracker.send(record))
        assert run.info.status == status
        assert run.data.tags.get("trial.state") == (state if role == "trial" else None)
        assert run.data.tags.get("reason") == (None if state == "COMPLETE" else "because")


def test_start_and_end_of_a_run_are_the_record_s_however_late_it_is_sent(
    tracker: Tracker, new_record: NewRecord, home: Path
) -> None:
    before = time.time_ns() // 1_000_000
    record = new_record(role="evaluate")
    record.finish("COMPLETE")
    after = time.time_ns() // 1_000_000
    time.sleep(0.2)
    tracker.sync(home)
    info = tracker.client.get_run(sent(record)["run_id"]).info
    assert record.status is not None
    assert before <= record.run.began == info.start_time <= info.end_time == record.status["time"] <= after


def test_a_record_that_does_not_know_when_it_began_is_read_and_sent(tracker: Tracker, new_record: NewRecord) -> None:
    """As versions before 0.2 wrote them."""
    record = new_record()
    path = record.folder / "run.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "began"}))
    record.finish("FAIL", "too large")
    assert record.run.began is None
    run = tracker.client.get_run(tracker.send(record))
    assert run.info.status == "FAILED"
    assert run.info.start_time > 0


def test_a_run_is_seen_while_it_lasts(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record(role="compare")
    with finished(record, tracker):
        assert tracker.client.get_run(sent(record)["run_id"]).info.status == "RUNNING"
    assert tracker.client.get_run(sent(record)["run_id"]).info.status == "FINISHED"


def test_a_child_names_its_parent(tracker: Tracker, new_record: NewRecord) -> None:
    parent = tracker.send(new_record("parent", role="search"))
    child = tracker.send(new_record("child", role="trial", parent=parent))
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_a_run_that_was_deleted_waits_for_nothing(tracker: Tracker, new_record: NewRecord, home: Path) -> None:
    record = new_record()
    run_id = tracker.send(record)
    tracker.client.delete_run(run_id)
    record.finish("FAIL", "its process was killed")
    assert unsent(record)
    tracker.sync(home)
    assert not unsent(record)
    assert tracker.client.get_run(run_id).info.lifecycle_stage == "deleted"
    assert tracker.sync(home)[1] == []


def test_a_record_goes_to_one_store(tracker: Tracker, new_record: NewRecord, empty_database: Path) -> None:
    record = new_record()
    tracker.send(record)
    other = Path("other.db").absolute()
    shutil.copy(empty_database, other)
    with pytest.raises(TrackingError, match="belongs to the tracking store"):
        Tracker(f"sqlite:///{other}").send(record)


def test_a_dropped_model_is_gone_from_the_disk(tracker: Tracker, new_record: NewRecord) -> None:
    record, other = small(new_record, "one"), small(new_record, "other")
    for each in (record, other):
        tracker.send(each)
    location, kept = (
        Path(tracker.client.get_logged_model(sent(r)["model_id"]).artifact_location) for r in (record, other)
    )
    assert (location / "weights.bin").exists()
    client = tracker.client
    for fault in (1, 2, 3):  # whatever fails, the next call brings it to its end
        flaky = Flaky(client, fault, before=fault != 3)
        tracker._client = flaky  # type: ignore[assignment]
        with pytest.raises(TrackingError, match="connection reset"):
            tracker.drop_model(record)
        tracker._client = client
    tracker.drop_model(record)
    tracker.drop_model(record)
    assert not location.exists()
    assert (kept / "weights.bin").exists()
    assert tracker.known_model(sent(record)["model_id"]) is None
    assert tracker.known_model(sent(other)["model_id"]) == sent(other)["model_id"]
    assert tracker.client.get_run(sent(record)["run_id"]).data.metrics["val/auc"] == 0.75


def test_a_record_without_a_model_has_none_to_drop(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record()
    record.finish("COMPLETE")
    tracker.send(record)
    tracker.drop_model(record)
    assert "model_id" not in sent(record)


def test_a_run_hangs_under_the_search_that_went_on_whenever_it_is_sent(
    tracker: Tracker, new_record: NewRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A takeover before a run is sent, at each step of its sending, and after it: what comes late follows the chain of
    those who went on.
    """
    searches = [tracker.send(new_record(f"search {n}", role="search")) for n in range(3)]

    def parent_of(record: Record) -> str:
        return str(tracker.client.get_run(sent(record)["run_id"]).data.tags["mlflow.parentRunId"])

    before, after = (new_record(name, role="trial", parent=searches[0]) for name in ("before", "after"))
    tracker.send(before)
    tracker.hand_over("1", searches[0], searches[1])
    assert parent_of(before) == searches[1]
    tracker.send(after)
    assert parent_of(after) == searches[1]

    create = tracker.client.create_run
    at_once = new_record("at once", role="trial", parent=searches[1])

    def created(*arguments: Any, **more: Any) -> Any:
        """The takeover looks for runs just before this one is there."""
        tracker.hand_over("1", searches[1], searches[2])
        return create(*arguments, **more)

    monkeypatch.setattr(tracker.client, "create_run", created)
    tracker.send(at_once)
    assert parent_of(at_once) == searches[2]
    for record in (before, after):
        record.finish("COMPLETE")
        tracker.send(record)
        assert parent_of(record) == searches[2]


def test_a_search_that_was_deleted_ends_the_chain(tracker: Tracker, new_record: NewRecord) -> None:
    record = new_record("trial", role="trial", parent="0" * 32)
    tracker.send(record)
    assert tracker.client.get_run(sent(record)["run_id"]).data.tags["mlflow.parentRunId"] == "0" * 32


def test_a_circle_of_searches_ends(tracker: Tracker, new_record: NewRecord) -> None:
    a, b = (tracker.send(new_record(name, role="search")) for name in "ab")
    tracker.hand_over("1", a, b)
    tracker.hand_over("1", b, a)
    assert heir(a, tracker.client) == b
