"""The folders where the program keeps its state, to resume and sync: one for each tracking store, in the user's data.

Not in the folder of the command: `mlflow run` of a git address runs in a temporary one. And not one for all stores: a
study that is resumed must find its runs.
"""

import hashlib
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
from filelock import FileLock

from pneumonia.runtime import working_folder
from pneumonia.tracking import places
from pneumonia.tracking.record import read_json, records, write_json
from pneumonia.tracking.sync import sent_to

OLD = ".pneumonia"  # in the folder of the command, until 0.2
NOTE = "store.json"  # names the store of a home


def of(uri: str) -> Path:
    """The home for a tracking store, made when it is not there; one that an earlier version made in this folder stays.

    Raises:
        RuntimeError: it cannot be made.
    """
    if (old := _old(uri)) is not None:
        return old
    mine = {"store": places.address(uri), "born": _created(uri)}
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "homes.lock"):
            return _existing(folder, mine) or _create(folder, mine)
    except OSError as error:
        raise RuntimeError(
            f"{folder}, where the program keeps its state, cannot be used ({error.strerror or error}): "
            "set PNEUMONIA_HOME to a folder that can"
        ) from error


def find(uri: str) -> Path | None:
    """The home for a tracking store, if there is one; makes and changes nothing."""
    if (old := _old(uri)) is not None:
        return old
    note = _note(data_folder(), {"store": places.address(uri), "born": _created(uri)})
    return None if note is None else note.parent


def data_folder() -> Path:
    """Where the homes are made."""
    return platformdirs.user_data_path("pneumonia", appauthor=False)


def _existing(folder: Path, mine: dict[str, Any]) -> Path | None:
    if (note := _note(folder, mine)) is None:
        return None
    if read_json(note) != mine:
        write_json(note, mine)
    return note.parent


def _note(folder: Path, mine: dict[str, Any]) -> Path | None:
    return next((note for note in sorted(folder.glob(f"*/{NOTE}")) if _belongs_to(read_json(note), mine)), None)


def _belongs_to(theirs: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether a home belongs to my store: it has the same address, unless another database was there before, or it is
    of the same database, which was moved.
    """
    if theirs["store"] == mine["store"]:
        return theirs["born"] in (None, mine["born"]) or mine["born"] is None
    then = Path(theirs["store"])
    moved = not then.exists() or then.resolve() == Path(mine["store"])  # else it was copied
    return mine["born"] is not None and theirs["born"] == mine["born"] and moved


def _create(folder: Path, mine: dict[str, Any]) -> Path:
    store = mine["store"]
    shown = urlsplit(store).netloc or Path(store).parent.name
    shown = re.sub(r"[^A-Za-z0-9._-]+", "-", shown).strip(".-")[:40] or "store"
    name = f"{shown}-{hashlib.sha256(store.encode()).hexdigest()[:8]}"
    number = 1
    while (home := folder / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    home.mkdir()
    write_json(home / NOTE, mine)
    return home


def _created(uri: str) -> int | None:
    """When a database of this machine was created, milliseconds since 1970, by its first experiment: tells a moved
    database from one that took another's place.
    """
    database = places.database(uri)
    if database is None or not database.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as open_one:
            first = open_one.execute("SELECT creation_time FROM experiments ORDER BY experiment_id LIMIT 1").fetchone()
    except sqlite3.DatabaseError:  # MLflow has not made its tables
        return None
    return None if first is None else first[0]


def _old(uri: str) -> Path | None:
    """A home that a version before 0.2 made in the folder of the command, or in the project's for runs of this store. A
    home that only holds caches does not count.
    """
    here = Path(OLD).absolute()
    if _is_home(here):
        return here
    project = working_folder.PROJECT / OLD
    if working_folder.typed_in() is not None and _is_home(project):
        stores = {store for record in records(project / "records") if (store := sent_to(record)) is not None}
        return project if places.address(uri) in map(places.address, stores) else None
    return None


def _is_home(folder: Path) -> bool:
    return (folder / "study.db").exists() or (folder / "records").is_dir()
