import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumonia.runtime.signals import identity, is_gone
from pneumonia.tracking.record import Record, Run, close_dead, records, write_json

NewRecord = Callable[..., Record]

CHILD = """
import sys, time
from pathlib import Path
from pneumonia.tracking.record import Record, Run
for role in ("trial", "search"):
    folder = Path(sys.argv[1]) / "records" / "study" / f"{sys.argv[2]}-{role}"
    record = Record.create(folder, Run(name=sys.argv[2], role=role, experiment="pneumonia"))
    record.add_metrics({"val/auc": 0.9}, step=1)
print("ready", flush=True)
time.sleep(600)
"""


def child(home: Path, name: str) -> "subprocess.Popen[bytes]":
    """A process that has begun a trial's and a search's record and works on."""
    command = [sys.executable, "-c", CHILD, str(home), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_what_is_written_is_read(new_record: NewRecord) -> None:
    record = new_record(role="trial", tags={"a": "b"}, dataset={"name": "films"}, register="pneumonia")
    record.add_params({"lr": 1e-3, "width": 8})
    record.add_params({"width": 16, "sampler": "weighted"})
    record.add_metrics({"val/auc": 0.5, "val/f1": math.nan, "train/loss": math.inf}, step=1)
    record.add_metrics({"val/auc": 0.75}, step=2)
    record.summarise({"val/auc": 0.75, "val/ece": math.nan}, step=2)
    record.add_json("deep/table.json", {"x": [1, 2]})
    again = Record(record.folder)
    assert again.run == record.run
    assert again.params == {"lr": 1e-3, "width": 16, "sampler": "weighted"}
    assert [(line["step"], line["metrics"]) for line in again.metrics] == [
        (1, {"val/auc": 0.5}),
        (2, {"val/auc": 0.75}),
    ]
    assert again.summary == {"val/auc": 0.75}
    assert json.loads((again.artifacts / "deep" / "table.json").read_text()) == {"x": [1, 2]}
    assert again.status is None
    assert not list(record.folder.rglob("*.part"))


def test_an_empty_record_reads_as_empty(new_record: NewRecord) -> None:
    record = new_record()
    assert (record.params, record.metrics, record.summary, record.status) == ({}, [], {}, None)


def test_a_folder_holds_one_record(new_record: NewRecord) -> None:
    first = new_record("same")
    with pytest.raises(FileExistsError, match="holds a record already"):
        new_record("same", role="trial")
    assert first.run.role == "train"


def test_update_replaces_only_what_it_names(new_record: NewRecord) -> None:
    record = new_record(parent="old", tags={"a": "b"})
    before = record.run
    record.update(parent="new")
    assert record.run.parent == "new"
    assert (record.run.key, record.run.tags, record.run.owner) == (before.key, before.tags, before.owner)


def test_the_first_end_stands(new_record: NewRecord) -> None:
    record = new_record()
    record.finish("INTERRUPTED", "SIGTERM")
    record.finish("COMPLETE")
    Record(record.folder).finish("FAIL", "the process was killed")
    assert record.status is not None
    assert (record.status["state"], record.status["reason"]) == ("INTERRUPTED", "SIGTERM")


def test_of_ends_at_the_same_time_one_stands(new_record: NewRecord) -> None:
    """A worker that ends its trial and a search that gives the worker up: every reader sees one end, from the start."""
    for attempt in range(20):
        record = new_record(f"race-{attempt}")
        barrier = threading.Barrier(4)
        seen: list[str] = []

        def end(number: int, record: Record = record, barrier: threading.Barrier = barrier, seen=seen) -> None:
            barrier.wait()
            record.finish("FAIL", str(number))
            assert record.status is not None
            seen.append(record.status["reason"])

        threads = [threading.Thread(target=end, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 4
        assert len(set(seen)) == 1
        assert not list(record.folder.glob("*.part"))


def test_a_metric_line_cut_short_by_a_kill_is_left_out(new_record: NewRecord) -> None:
    record = new_record()
    for step in (1, 2, 3):
        record.add_metrics({"val/auc": step / 10, "val/loss": 1 / step}, step=step)
    path = record.folder / "metrics.jsonl"
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    start = len(lines[0]) + len(lines[1])
    for cut in range(start, len(text)):  # wherever in the last line the kill came
        path.write_bytes(text[:cut])
        assert [line["step"] for line in record.metrics] == [1, 2]
    path.write_bytes(text)
    assert [line["step"] for line in record.metrics] == [1, 2, 3]


def test_a_reader_never_sees_half_a_file(new_record: NewRecord) -> None:
    record = new_record()
    path = record.folder / "sent.json"
    write_json(path, {"text": "", "length": 0})
    stop = threading.Event()

    def write() -> None:
        length = 0
        while not stop.is_set():
            length = (length + 4099) % 100_000
            write_json(path, {"text": "x" * length, "length": length})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            value = json.loads(path.read_text())
            assert len(value["text"]) == value["length"]
    finally:
        stop.set()
        writer.join()


def test_a_write_that_fails_leaves_the_old_content(new_record: NewRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    record = new_record()
    record.add_params({"lr": 1})

    def full(self: Path, text: str, encoding: str | None = None) -> int:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="the disk is full"):
        record.add_params({"width": 8})
    assert record.params == {"lr": 1}


def test_records_are_found_oldest_first(new_record: NewRecord, home: Path) -> None:
    for number, name in enumerate(("c", "a", "b")):
        record = new_record(name)
        os.utime(record.folder / "run.json", (number, number))
    (home / "records" / "half").mkdir()  # a record whose process died before it said anything
    assert [record.run.name for record in records(home / "records")] == ["c", "a", "b"]
    assert records(home / "elsewhere") == []


def test_records_of_dead_processes_are_closed_and_of_living_ones_are_not(home: Path, new_record: NewRecord) -> None:
    dead, living = child(home, "dead"), child(home, "living")
    mine, done = new_record("mine"), new_record("done", owner={**identity(), "pid": dead.pid, "started": 0})
    done.finish("COMPLETE")
    elsewhere = new_record("elsewhere", owner={"host": "another-machine", "pid": dead.pid, "started": 0})
    try:
        os.kill(dead.pid, signal.SIGKILL)
        # Before its parent waits for it a killed process is a zombie; that is dead too.
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        closed = close_dead(home)
        dead.wait()
        assert sorted(record.folder.name for record in closed) == ["dead-search", "dead-trial"]
        states = {record.folder.name: record.status for record in records(home / "records")}
        assert states["dead-trial"]["state"] == "FAIL"
        assert states["dead-search"]["state"] == "INTERRUPTED"
        assert states["dead-trial"]["reason"] == "the process was killed"
        assert states["done"]["state"] == "COMPLETE"
        assert states["living-trial"] is states["living-search"] is mine.status is elsewhere.status is None
        assert close_dead(home) == []
    finally:
        for process in (dead, living):
            process.kill()
            process.wait()
    assert sorted(record.folder.name for record in close_dead(home)) == ["living-search", "living-trial"]


def test_a_pid_that_was_given_to_another_process_is_a_dead_owner() -> None:
    me = identity()
    assert not is_gone(me)
    assert is_gone({**me, "started": float(me["started"]) - 100})


def test_a_run_s_owner_is_the_process_that_makes_it() -> None:
    assert Run(name="a", role="train", experiment="e").owner["pid"] == os.getpid()
