"""What a home holds that waits for something: runs of dead processes, records that were not sent, caches."""

import os
import shlex
import time
from pathlib import Path

from pneumonia.data import cache
from pneumonia.housekeeping.checkup import Check
from pneumonia.housekeeping.sizes import readable, size_of
from pneumonia.registry.versions import is_waiting
from pneumonia.runtime.disk import existing
from pneumonia.runtime.signals import is_gone
from pneumonia.tracking import tags
from pneumonia.tracking.record import Record, records
from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.sync import sent, sent_to, unsent

DAYS = 30.0  # after which what nobody used counts as left over
HOUR_SECONDS, DAY_SECONDS = 3600.0, 86_400.0
SHOWN = 3
RUNNING = "attributes.status = 'RUNNING'"


def home(folder: Path | None, otherwise: Path) -> Check:
    """Whether the home can be written to.

    Args:
        folder: the home; None where it is still to be made.
        otherwise: where it will be made.
    """
    place = otherwise if folder is None else folder
    there = existing(place)
    if not there.is_dir():
        return Check("home", "error", f"{there} is a file, and no folder", "export PNEUMONIA_HOME=FOLDER")
    if not os.access(there, os.W_OK | os.X_OK) or os.statvfs(there).f_flag & os.ST_RDONLY:
        said = f"nothing can be written to {there}, where the program keeps its state"
        return Check("home", "error", said, f"chmod u+rwx {shlex.quote(str(there))}")
    if folder is None:
        return Check("home", "note", f"there is none for this tracking store yet: it will be made in {otherwise}")
    return Check("home", "ok", str(folder))


def readable_records(home: Path) -> tuple[list[Record], list[Path]]:
    """The records of a home, and the folders of those that cannot be read."""
    whole, torn = [], []
    for record in records(home / "records"):
        try:
            _ = record.run, record.status, sent(record)
            whole.append(record)
        except (OSError, ValueError, TypeError):
            torn.append(record.folder)
    return whole, torn


def stale_runs(home: Path) -> Check:
    """Runs that count as RUNNING though their process, on this machine, is dead."""
    whole, _ = readable_records(home)
    dead = [record for record in whole if record.status is None and is_gone(record.run.owner)]
    if not dead:
        return Check("stale runs", "ok", "no process died and left its run open")
    return Check("stale runs", "warning", _listed(dead, "is open, though its process is dead"), "pneumonia sync")


def open_elsewhere(home: Path | None, uri: str) -> list[Check]:
    """Runs that are RUNNING in the store and whose records are not here: perhaps another machine's."""
    known = set[str]()
    if home is not None:
        known = {record.run.key for record in readable_records(home)[0]}
    client, count, oldest = Tracker(uri).client, 0, time.time()
    with tracker_errors(uri):
        experiments = [one.experiment_id for one in client.search_experiments()]
        for run in client.search_runs(experiments, RUNNING, max_results=1000):
            if tags.RECORD in run.data.tags and run.data.tags[tags.RECORD] not in known:
                count, oldest = count + 1, min(oldest, run.info.start_time / 1000)
    if not count:
        return []
    hours = (time.time() - oldest) / 3600
    said = f"{count} run{'s are' if count > 1 else ' is'} RUNNING in the store that no record here belongs to"
    return [Check("other runs", "note", f"{said}, the oldest for {hours:.1f} hours: other machines', or other homes'")]


def unsent_records(home: Path, uri: str) -> list[Check]:
    """Records that the store lacks something of, models that wait to be registered, and records that are torn."""
    tracker, (whole, torn) = Tracker(uri), readable_records(home)
    mine = [record for record in whole if sent_to(record) is None or tracker.has(record)]
    waiting = [record for record in mine if unsent(record)]
    unregistered = [record for record in mine if is_waiting(record)]
    found: list[Check] = []
    if waiting:
        found.append(Check("unsent", "warning", _listed(waiting, "is not wholly sent"), "pneumonia sync"))
    if unregistered:
        said = _listed(unregistered, "has a model that is not registered yet")
        found.append(Check("unsent", "warning", said, "pneumonia sync"))
    if torn:
        shown = ", ".join(map(str, torn[:SHOWN])) + (" ..." if len(torn) > SHOWN else "")
        found.append(Check("unsent", "error", f"{len(torn)} records cannot be read: {shown}"))
    others = {place for record in whole if unsent(record) and (place := sent_to(record)) and not tracker.has(record)}
    for place in sorted(others):
        said = f"records wait for another tracking store, {place}"
        found.append(Check("unsent", "warning", said, f"MLFLOW_TRACKING_URI={shlex.quote(place)} pneumonia sync"))
    return found or [Check("unsent", "ok", f"all of {len(mine)} records that ended are sent")]


def _listed(some: list[Record], what: str) -> str:
    shown = ", ".join(record.run.name for record in some[:SHOWN]) + (" ..." if len(some) > SHOWN else "")
    return f"{len(some)} record{'s' if len(some) > 1 else ''}, each of which {what}: {shown}"


def caches(home: Path, *, days: float = DAYS) -> Check:
    """The caches of decoded films, and how much of them nobody needs."""
    stored = cache.stored(home)
    sizes = {one.place: size_of(one.place) for one in stored}
    stale = [one for one in stored if is_stale(one, days=days, now=time.time())]
    left = cache.half_written(home)
    lost = sum(sizes[one.place] for one in stale) + sum(map(size_of, left))
    said = f"{len(stored)} caches of decoded films, {readable(sum(sizes.values()))}"
    if not stale and not left:
        return Check("caches", "ok", said if stored else "none")
    return Check("caches", "note", f"{said}; nobody needs {readable(lost)} of it", "pneumonia clean")


def is_stale(one: cache.Stored, *, days: float, now: float) -> bool:
    """Whether a cache was not opened for `days`, and an hour at the least; for a day where this version of the program
    would not open it.
    """
    return now - one.opened > max(HOUR_SECONDS, DAY_SECONDS * (days if one.current else min(days, 1.0)))
