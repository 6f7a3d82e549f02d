"""What waits in a home: each of its states."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from pneumonia.data import cache
from pneumonia.housekeeping import leftovers
from pneumonia.tracking.record import Record, close_dead, write_json
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import remember
from tests.conftest import NO_SERVER, gone
from tests.housekeeping.conftest import NewRecord

DAY = 86_400


def test_a_home_that_is_there_or_will_be(tmp_path: Path) -> None:
    assert leftovers.home(tmp_path, tmp_path).state == "ok"
    check = leftovers.home(None, tmp_path / "data" / "pneumonia")
    assert check.state == "note"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    check = leftovers.home(None, tmp_path / "file" / "home")
    assert (check.state, check.command) == ("error", "export PNEUMONIA_HOME=FOLDER")


def test_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() != 0:
        disk.chmod(0o500)
        assert leftovers.home(disk, disk).state == "error"
        return
    words = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(disk)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted in this container, and root may write everywhere else")
    try:
        check = leftovers.home(disk, disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert (check.state, check.command) == ("error", f"chmod u+rwx {disk}")


def test_a_run_whose_process_is_dead(new_record: NewRecord, home: Path) -> None:
    new_record("lives")
    new_record("elsewhere", owner={**gone(), "host": "another"})
    assert leftovers.stale_runs(home).state == "ok"
    new_record("killed", owner=gone())
    check = leftovers.stale_runs(home)
    assert (check.state, check.command) == ("warning", "pneumonia sync")
    assert "killed" in check.sentence
    close_dead(home)  # as `sync` begins
    assert leftovers.stale_runs(home).state == "ok"


def test_runs_that_are_open_in_the_store_and_not_here(tracker: Tracker, new_record: NewRecord, home: Path) -> None:
    mine = new_record("mine")
    tracker.send(mine)
    tracker.client.create_run("1")  # another program's
    assert leftovers.open_elsewhere(home, tracker.uri) == []
    (check,) = leftovers.open_elsewhere(None, tracker.uri)
    assert check.state == "note"
    assert check.sentence.startswith("1 run is RUNNING")
    mine.finish("COMPLETE")
    tracker.send(mine)
    assert leftovers.open_elsewhere(None, tracker.uri) == []


def test_records_that_are_not_sent(tracker: Tracker, new_record: NewRecord, home: Path) -> None:
    record = new_record("waits")
    assert [check.state for check in leftovers.unsent_records(home, tracker.uri)] == ["ok"]  # it has not ended
    record.finish("COMPLETE")
    (check,) = leftovers.unsent_records(home, tracker.uri)
    assert (check.state, check.command) == ("warning", "pneumonia sync")
    assert "waits" in check.sentence
    tracker.sync(home)
    assert [check.state for check in leftovers.unsent_records(home, tracker.uri)] == ["ok"]


def test_a_model_that_is_not_registered_yet(tracker: Tracker, sent_record: NewRecord, home: Path) -> None:
    record = sent_record("final", role="final", register="pneumonia")
    (check,) = leftovers.unsent_records(home, tracker.uri)
    assert (check.state, check.command) == ("warning", "pneumonia sync")
    assert "not registered" in check.sentence
    remember(record, verdict={"name": "pneumonia", "version": "1", "alias": "champion", "reason": ""})
    assert [check.state for check in leftovers.unsent_records(home, tracker.uri)] == ["ok"]


def test_records_of_another_store_and_torn_ones(tracker: Tracker, new_record: NewRecord, home: Path) -> None:
    other = new_record("other")
    other.finish("COMPLETE")
    write_json(other.folder / "sent.json", {"uri": NO_SERVER, "run_id": "r"})
    (new_record("torn").folder / "run.json").write_text('{"name": ')
    torn, elsewhere = leftovers.unsent_records(home, tracker.uri)
    assert (torn.state, torn.command) == ("error", "")
    assert str(home / "records" / "study" / "torn") in torn.sentence
    assert (elsewhere.state, elsewhere.command) == ("warning", f"MLFLOW_TRACKING_URI={NO_SERVER} pneumonia sync")
    assert leftovers.stale_runs(home).state == "ok"  # a torn record stops no other check


def test_caches_that_nobody_needs(home: Path, decoded: cache.Decoded, index, tmp_path: Path) -> None:
    assert leftovers.caches(home).state == "ok"
    cache.decode(index, size=16, home=home)
    assert leftovers.caches(home).state == "ok"
    (one,) = cache.stored(home)
    os.utime(one.place / cache.MARK, (1, time.time() - 31 * DAY))
    check = leftovers.caches(home)
    assert (check.state, check.command) == ("note", "pneumonia clean")
    cache.decode(index, size=16, home=home)  # it is of use again
    assert leftovers.caches(home).state == "ok"


def test_a_cache_of_another_version_is_left_after_a_day(home: Path, index) -> None:
    cache.decode(index, size=16, home=home)
    (one,) = cache.stored(home)
    assert one.current
    mark = one.place / cache.MARK
    mark.write_text(mark.read_text().replace(cache._decoder(), "decode 0, OpenCV 4.0.0"))
    (old,) = cache.stored(home)
    assert not old.current
    now = time.time()
    assert not leftovers.is_stale(old, days=30, now=now)
    assert leftovers.is_stale(old, days=30, now=now + 2 * DAY)
    assert not leftovers.is_stale(one, days=30, now=now + 2 * DAY)
    assert leftovers.is_stale(one, days=30, now=now + 31 * DAY)
    assert not leftovers.is_stale(one, days=0, now=now + DAY / 48)  # a search may be about to open it
    assert leftovers.is_stale(one, days=0, now=now + DAY / 12)


def test_a_record_that_cannot_be_read_is_named_and_the_others_are_read(new_record: NewRecord, home: Path) -> None:
    whole: Record = new_record("whole")
    torn = new_record("torn").folder
    (torn / "status.json").write_text("[")
    assert leftovers.readable_records(home) == ([whole], [torn])
