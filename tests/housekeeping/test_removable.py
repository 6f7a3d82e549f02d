"""What is listed can go, what is in use stays, and nothing goes by being listed."""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pneumonia.data import cache
from pneumonia.data.index import Index
from pneumonia.housekeeping import removable
from pneumonia.housekeeping.removable import Removable, take_away
from pneumonia.runs import checkpointing
from pneumonia.runtime.signals import identity
from pneumonia.tracking.record import records, write_json
from tests.conftest import gone
from tests.housekeeping.conftest import NewRecord

DAY = 86_400


def age(path: Path, days: float) -> Path:
    """Makes a file, or a folder with all in it, as old."""
    then = time.time() - days * DAY
    for one in [*path.rglob("*"), path]:
        os.utime(one, (then, then), follow_symlinks=False)
    return path


def named(some: Iterable[Removable]) -> set[str]:
    return {Path(one.what).name for one in some}


def test_a_cache_goes_that_was_not_opened_for_long(home: Path, index: Index) -> None:
    for size in (16, 32):
        cache.decode(index, size=size, home=home)
    first, second = sorted(cache.stored(home), key=lambda one: one.opened)
    age(first.place, 40)
    (listed,) = removable.caches(home, days=30)
    assert listed.what == str(first.place)
    assert listed.size >= (first.place / "films.npy").stat().st_size
    assert first.place.exists()
    assert listed.remove()
    assert {path.name for path in (home / "cache").iterdir()} == {second.place.name}
    assert not listed.remove()  # somebody was faster


def test_a_cache_that_was_opened_meanwhile_stays(home: Path, index: Index) -> None:
    cache.decode(index, size=16, home=home)
    age(cache.stored(home)[0].place, 40)
    (listed,) = removable.caches(home, days=30)
    cache.decode(index, size=16, home=home)
    assert not listed.remove()
    assert len(cache.stored(home)) == 1


def test_who_has_a_cache_open_keeps_its_films(home: Path, index: Index) -> None:
    opened = cache.decode(index, size=16, home=home)
    before = np.array(opened.films)
    age(cache.stored(home)[0].place, 40)
    assert [one.remove() for one in removable.caches(home, days=30)] == [True]
    np.testing.assert_array_equal(opened.films, before)
    np.testing.assert_array_equal(cache.decode(index, size=16, home=home).films, before)  # decoded again


def test_what_was_left_half_written_goes_after_an_hour(home: Path) -> None:
    for where in ("cache/.building-old", "cache/.building-new", "synthetic/.synthetic-v1-x", ".removing-old"):
        (home / where).mkdir(parents=True)
        (home / where / "films.npy").write_bytes(b"half")
        if "new" not in where:
            age(home / where, 0.1)
    found = list(removable.half_written(home))
    assert named(found) == {".building-old", ".synthetic-v1-x", ".removing-old"}
    assert all(one.remove() for one in found)
    assert list(home.glob("*/.*")) == [home / "cache" / ".building-new"]


def test_what_dead_processes_left_in_records(home: Path, new_record: NewRecord) -> None:
    ended, lives, running = (
        new_record(name, owner=owner) for name, owner in (("ended", gone()), ("lives", identity()), ("running", gone()))
    )
    for record in (ended, lives, running):
        (record.folder / "tmpabc" / "model").mkdir(parents=True)
    ended.finish("FAIL", "the process was killed")
    lives.finish("COMPLETE")
    parts = [ended.folder / f"status.json.{pid}-1.part" for pid in (gone()["pid"], os.getpid())]
    for part in parts:
        part.write_text("{")
    (ended.artifacts / "table.part").write_text("a user's own")
    assert named(removable.half_written(home)) == set()  # all of it new
    for record in (ended, lives, running):
        age(record.folder, 0.1)
    found = list(removable.half_written(home))
    assert named(found) == {parts[0].name, "tmpabc"}
    assert {Path(one.what).parent.name for one in found} == {"ended"}
    assert all(one.remove() for one in found)
    assert not (ended.folder / "tmpabc").exists()
    assert (running.folder / "tmpabc").exists()
    assert (lives.folder / "tmpabc").exists()


def test_a_checkpoint_goes_when_nobody_went_on_with_it_for_long(home: Path) -> None:
    for name, days in (("old", 40), ("held", 40), ("new", 20)):
        folder = home / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "state.safetensors").write_bytes(bytes(1000))
        (folder / "lock").touch()
        age(folder, days)
    found = list(removable.checkpoints(home, days=30))
    assert named(found) == {"old", "held"}
    assert all(one.kind == "checkpoint" and one.size > 1000 for one in found)
    with FileLock(home / "checkpoints" / "held" / "lock"):  # a training goes on with it
        assert {Path(one.what).name: one.remove() for one in found} == {"old": True, "held": False}
    assert {folder.name for folder in (home / "checkpoints").iterdir()} == {"held", "new"}
    assert (home / "checkpoints" / "held" / "state.safetensors").exists()


def test_temporary_folders_go_after_a_day_and_a_server_s_when_it_is_dead(tmp_path: Path) -> None:
    for name in ("pneumonia-gate-old", "pneumonia-gate-new", "another-s", "pneumonia-serve-unknown"):
        (tmp_path / name / "deep").mkdir(parents=True)
        age(tmp_path / name, 0.5 if "new" in name else 2)
    for name, owner in (("pneumonia-serve-dead", gone()), ("pneumonia-serve-lives", identity())):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "owner.json", owner)
    (tmp_path / "pneumonia-model-link").symlink_to(tmp_path / "another-s")
    age(tmp_path / "pneumonia-model-link", 2)
    found = list(removable.temporary_files(tmp_path))
    assert named(found) == {"pneumonia-gate-old", "pneumonia-serve-dead"}
    (tmp_path / "pneumonia-gate-old" / "deep" / "file").touch()  # it lives after all
    assert {Path(one.what).name: one.remove() for one in found} == {
        "pneumonia-gate-old": False,
        "pneumonia-serve-dead": True,
    }
    assert (tmp_path / "another-s" / "deep").exists()


def test_a_record_goes_in_one_step_and_not_while_it_is_sent(home: Path, new_record: NewRecord) -> None:
    record = new_record("one")
    with FileLock(record.folder / "send.lock"):
        assert not take_away(record, home, lambda: True)
    assert not take_away(record, home, lambda: False)
    assert records(home / "records") == [record]
    seen = []

    def broken(path: Path) -> None:
        seen.append((records(home / "records"), path.parent))
        raise OSError("the disk is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", broken)
        with pytest.raises(OSError, match="away"):
            take_away(record, home, lambda: True)
    assert seen == [([], home)]  # nobody finds half a record
    assert not take_away(record, home, lambda: True)  # it is gone
    assert records(home / "records") == []
    age(next(home.glob(".removing-*")), 0.1)
    assert [one.remove() for one in removable.half_written(home)] == [True]


def test_checkpoints_are_where_trainings_put_them() -> None:
    """The names stand twice, since importing the training's takes seconds that no cleaning needs."""
    assert (removable.CHECKPOINTS, removable.CHECKPOINT_LOCK) == (checkpointing.FOLDER, checkpointing.LOCK)
