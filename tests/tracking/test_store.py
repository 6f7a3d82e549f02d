"""A store that is away: known at once, asked again after a while, and nothing is lost."""

import errno
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from mlflow.entities import Run as MlflowRun

from pneumonia.runtime.signals import Interrupted
from pneumonia.tracking import store as store_module
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record, close_dead
from pneumonia.tracking.store import Tracker, finished, source_tags
from pneumonia.tracking.sync import sent
from tests.conftest import NO_SERVER, gone
from tests.tracking.conftest import NewRecord, small


def test_hand_over(tracker: Tracker, new_record: NewRecord) -> None:
    old, new = (tracker.send(new_record(name, role="search")) for name in ("old", "new"))
    child = tracker.send(new_record("child", role="trial", parent=old))
    (ended := new_record("ended", role="final", parent=old)).finish("COMPLETE")
    tracker.send(ended)
    for _ in range(2):  # as a takeover that was killed and is repeated
        tracker.hand_over("1", old, new)
    assert [run.info.run_id for run in tracker.children("1", new, running=True)] == [child]
    assert {run.info.run_id for run in tracker.children("1", new)} == {child, sent(ended)["run_id"]}
    run = tracker.client.get_run(old)
    assert (run.info.status, run.data.tags["resumed_by"]) == ("KILLED", new)


def test_waiting_for_a_store_that_comes_back(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, new_record: NewRecord
) -> None:
    record, asked = new_record(), list[str]()

    def reach(uri: str) -> None:
        asked.append(uri)
        if len(asked) < 3:
            raise TrackingError("away")

    monkeypatch.setattr(store_module, "reach", reach)
    monkeypatch.setattr(store_module.time, "sleep", lambda seconds: None)
    assert tracker.patiently(lambda: len(asked)) == 3
    asked.clear()
    with pytest.raises(TrackingError, match="away"):
        tracker.patiently(lambda: tracker.send(record), seconds=-1)
    assert sent(record) == {}
    asked.clear()
    with pytest.raises(TrackingError, match="away"):  # nobody waits for it twice
        tracker.patiently(lambda: None)
    assert len(asked) == 1


@pytest.mark.parametrize("role", ["trial", "train"])
@pytest.mark.parametrize("written", [False, True])
def test_a_run_whose_end_found_no_room_keeps_its_reason(
    tracker: Tracker, new_record: NewRecord, home: Path, monkeypatch: pytest.MonkeyPatch, written: bool, role: str
) -> None:
    """Whether the record could still be ended, and the store's own disk is full, or not even that."""
    record = new_record("full", role=role, owner=gone())
    run_id = tracker.send(record)
    with monkeypatch.context() as full:
        if written:
            full.setattr(tracker, "try_send", lambda *_, **__: refuse())
        else:
            full.setattr(Record, "finish", lambda *_: refuse())
        assert not tracker.end(record, "FAIL", "the disk is full: 5 bytes are needed at /home")
    for _ in range(2):
        run = tracker.client.get_run(run_id)
        assert run.info.status == "FAILED"
        assert run.data.tags["reason"] == "the disk is full: 5 bytes are needed at /home"
        assert run.data.tags["trial.state"] == "FAIL"
        close_dead(home)  # as the next command does
        tracker.sync(home)
    assert tracker.waiting(home) == []


def refuse() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_finished_ends_a_run_as_its_block_ends(tracker: Tracker, new_record: NewRecord) -> None:
    def run(name: str, error: BaseException | None) -> MlflowRun:
        record = new_record(name)
        with nullcontext() if error is None else pytest.raises(type(error)), finished(record, tracker):
            if error is not None:
                raise error
        return tracker.client.get_run(sent(record)["run_id"])

    ends = {
        "good": (None, "FINISHED", None),
        "bad": (ValueError("too large"), "FAILED", "ValueError: too large"),
        "memory": (MemoryError(), "FAILED", "MemoryError"),
        "stopped": (Interrupted(15), "KILLED", "SIGTERM"),
        "notebook": (KeyboardInterrupt(), "KILLED", "SIGINT"),
    }
    for name, (error, status, reason) in ends.items():
        ended = run(name, error)
        assert (ended.info.status, ended.data.tags.get("reason")) == (status, reason)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(TrackingError) as caught:
        Tracker(NO_SERVER).experiment_id("pneumonia")
    said = str(caught.value)
    assert "\n" not in said
    assert NO_SERVER in said
    assert "MLFLOW_TRACKING_URI" in said


@pytest.mark.slow
def test_a_server_that_is_not_there_is_known_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError):
        Tracker(NO_SERVER).experiment_id("pneumonia")
    assert time.monotonic() - started < 10


def test_training_goes_on_without_a_store_and_its_record_is_whole(trained: Record) -> None:
    assert sent(trained) == {}
    assert [line["step"] for line in trained.metrics] == [1, 2, 3]
    assert trained.summary["val/auc"] >= 0
    assert (trained.model / "MLmodel").exists()


def test_what_was_kept_back_is_sent_later(tracker: Tracker, new_record: NewRecord, home: Path) -> None:
    away = Tracker(NO_SERVER)
    done = small(new_record, "done")
    failed, running = new_record("failed"), new_record("running")
    failed.finish("FAIL", "too large")
    for record in (done, failed, running):
        assert not away.try_send(record)
        assert sent(record) == {}
    assert away.sync(home)[0] == []
    assert [r.run.name for r in away.sync(home)[1]] == ["done", "failed"]
    synced, left = tracker.sync(home)
    assert (sorted(r.run.name for r in synced), left) == (["done", "failed"], [])
    assert tracker.sync(home) == ([], [])
    status = {r.data.tags["mlflow.runName"]: r.info.status for r in tracker.client.search_runs(["1"])}
    assert status == {"done": "FINISHED", "failed": "FAILED"}


def test_a_silent_store_is_asked_again_only_after_a_while(
    new_record: NewRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def reach(uri: str, *, seconds: float = 5) -> None:
        asked.append(uri)
        raise TrackingError("no answer")

    monkeypatch.setattr("pneumonia.tracking.store.reach", reach)
    tracker, record = Tracker(NO_SERVER), new_record()
    for _ in range(5):
        assert not tracker.try_send(record)
    assert len(asked) == 1
    assert not tracker.try_send(record, force=True)
    assert len(asked) == 2


def test_the_commit_is_this_program_s_and_not_that_of_a_checkout_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    module = tmp_path / "env" / "store.py"
    module.parent.mkdir()
    module.write_text("")
    git("init")
    git("commit", "--allow-empty", "-m", "another's")
    monkeypatch.setattr(store_module, "__file__", str(module))
    assert source_tags() == {}
    git("add", str(module))
    git("commit", "-m", "its own")
    assert source_tags() == {"mlflow.source.git.commit": git("rev-parse", "HEAD")}
