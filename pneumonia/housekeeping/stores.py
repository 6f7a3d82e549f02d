"""The databases: MLflow's tracking store with its schema, files and champions, and the study's with its own.

Nothing is opened for writing, and no database is made: MLflow and Optuna make one where there is none.
"""

import os
import re
import shlex
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import requests
import sqlalchemy
from alembic.script import ScriptDirectory
from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
from mlflow.store.db.utils import _get_alembic_config
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from pneumonia.housekeeping.checkup import Check
from pneumonia.registry import gate
from pneumonia.registry.gate import by_hand
from pneumonia.registry.versions import champion_gone
from pneumonia.runtime.messages import first_line
from pneumonia.runtime.secrets import masked
from pneumonia.search import schema
from pneumonia.search.storage import StudyError, check_url, holds_a_study, sqlite_file
from pneumonia.tracking import places
from pneumonia.tracking.connection import TrackingError, reach
from pneumonia.tracking.store import Tracker, tracker_errors

SECONDS = 5
FIX = re.compile(r"`([^`]+)`")


def tracking_store(uri: str, mlflow_range: Requirement | None = None) -> Check:
    """Whether the tracking store answers, and can be written to where it is a file.

    Args:
        mlflow_range: which versions of MLflow are supported, also as a server.
    """
    name, shown = "tracking store", masked(uri)
    if (database := places.database(uri)) is not None:
        return _sqlite_store(name, database)
    if places.local(uri) is not None and not MLFLOW_ALLOW_FILE_STORE.get():  # type: ignore[no-untyped-call]
        said = f"{shown} is a store of files, which MLflow has given up"
        source = shlex.quote(str(places.local(uri)))
        return Check(name, "error", said, f"mlflow migrate-filestore --source {source} --target sqlite:///mlflow.db")
    try:
        reach(uri, seconds=SECONDS)
    except TrackingError as error:
        return Check(name, "error", masked(str(error)))
    if not uri.startswith(("http://", "https://")):
        return Check(name, "ok", f"{shown} answers" if "://" in uri else shown)
    version = _server_version(uri)
    said = f"{shown} answers{f', with MLflow {version}' if version else ''}"
    if version and mlflow_range is not None and not mlflow_range.specifier.contains(version, prereleases=True):
        range_ = mlflow_range.specifier
        return Check(name, "warning", f"{said}, which is not in {range_}", f"pip install 'mlflow{range_}'  # there")
    return Check(name, "ok", said)


def _sqlite_store(name: str, database: Path) -> Check:
    if not database.exists():
        return Check(name, "note", f"there is no {database.absolute()} yet: the first run makes it")
    quoted = shlex.quote(str(database.absolute()))
    if not os.access(database, os.R_OK | os.W_OK):
        return Check(name, "error", f"{database.absolute()} cannot be read and written to", f"chmod u+rw {quoted}")
    if not os.access(database.absolute().parent, os.W_OK):  # sqlite writes its journal beside the file
        said = f"nothing can be written to the folder of {database.absolute()}"
        return Check(name, "error", said, f"chmod u+w {shlex.quote(str(database.absolute().parent))}")
    try:
        with closing(_read_only(database)) as opened:
            opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        return Check(name, "error", f"{database.absolute()}: {error}; which process holds it?", f"fuser -v {quoted}")
    except sqlite3.DatabaseError as error:
        return Check(name, "error", f"{database.absolute()} is no sqlite database ({error}): take it from a backup")
    return Check(name, "ok", str(database.absolute()))


def _server_version(uri: str) -> str | None:
    """What a server says at /version; None where it says nothing of the kind, as behind some proxies."""
    try:
        creds = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
        answer = http_request(creds, "/version", "GET", timeout=SECONDS, max_retries=0, raise_on_status=False)  # type: ignore[no-untyped-call]
        return str(Version(answer.text.strip()[:40])) if answer.ok else None
    except (mlflow.MlflowException, requests.RequestException, InvalidVersion):
        return None


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=SECONDS)


def _engine(url: str, file: Path | None) -> sqlalchemy.Engine:
    if file is not None:
        return sqlalchemy.create_engine("sqlite://", creator=partial(_read_only, file), poolclass=NullPool)
    timeout: dict[str, Any] = {"connect_timeout": SECONDS} if url.startswith(("postgresql", "mysql")) else {}
    return sqlalchemy.create_engine(url, connect_args=timeout, poolclass=NullPool)


def has_tables(uri: str) -> bool:
    """Whether a tracking store is there to be asked: a server, or a database with MLflow's tables."""
    if not _is_database(uri):
        return True
    return bool(_revisions(uri, places.database(uri)))


def _is_database(uri: str) -> bool:
    return uri.startswith(("sqlite", "postgresql", "mysql", "mssql"))


def tracking_schema(uri: str) -> list[Check]:
    """Whether the tables of a tracking database are those of the MLflow that is installed. A server sees to its own."""
    if not _is_database(uri):
        return []
    database = places.database(uri)
    there = _revisions(uri, database)
    if not there:
        return []
    script = ScriptDirectory.from_config(_get_alembic_config(""))  # type: ignore[no-untyped-call]
    url = "$MLFLOW_TRACKING_URI" if masked(uri) != uri else uri
    return [_compared("tracking schema", there, script, ("MLflow", mlflow.__version__), f'mlflow db upgrade "{url}"')]


def _revisions(url: str, file: Path | None) -> list[str]:
    """The revisions that a database says its tables have; none where it has no tables, or says nothing."""
    if file is not None and not file.exists():
        return []
    with _engine(url, file).connect() as connection:
        if "alembic_version" not in sqlalchemy.inspect(connection).get_table_names():
            return []
        found = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))
        return [str(name) for name in found.scalars()]


def _compared(name: str, there: Sequence[str], script: ScriptDirectory, program: tuple[str, str], fix: str) -> Check:
    heads, known = set(script.get_heads()), {one.revision for one in script.walk_revisions()}
    if set(there) == heads:
        return Check(name, "ok", f"that of {' '.join(program)}")
    shown = ", ".join(there)
    if set(there) <= known:
        said = f"its schema ({shown}) is older than that of {' '.join(program)} ({', '.join(heads)}): make a copy first"
        return Check(name, "error", said, fix)
    said = f"its schema ({shown}) is not known to {' '.join(program)}, which is older than what made it"
    return Check(name, "error", said, f"pip install --upgrade {program[0].lower()}")


def study(url: str) -> list[Check]:
    """Whether the study's database answers, can hold one, and has the schema of the Optuna that is installed."""
    name, shown = "study database", masked(url)
    try:
        parts, dialect = check_url(url)
        holds = holds_a_study(url)
    except StudyError as error:
        return [Check(name, "error", masked(str(error)))]
    except SQLAlchemyError as error:
        return [Check(name, "error", f"{shown} does not answer: {masked(first_line(error.__cause__ or error))}")]
    if not holds:
        return [Check(name, "note", f"there is no study in {shown} yet: the first search makes it")]
    file = sqlite_file(parts) if dialect.name == "sqlite" else None
    fix = f'optuna storage upgrade --storage "{url}"'
    tables = _compared("study schema", _revisions(url, file), schema.migrations(), ("Optuna", schema.VERSION), fix)
    if tables.state == "error":
        return [Check(name, "ok", shown), tables]
    return [Check(name, "ok", f"{shown}: {_studies(url, file)}"), tables]


def _studies(url: str, file: Path | None) -> str:
    with _engine(url, file).connect() as connection:
        every, unfinished = schema.count(connection), len(schema.unfinished(connection))
    studies = f"{every} {'study' if every == 1 else 'studies'}"
    return f"{studies}, {unfinished} unfinished" if unfinished else studies


def unfinished_studies(url: str) -> list[str]:
    """The names of a database's studies that no search has brought to their end; none where it holds no study.

    Raises:
        StudyError: it cannot hold one.
        SQLAlchemyError: it does not answer.
    """
    parts, dialect = check_url(url)
    if not holds_a_study(url):
        return []
    with _engine(url, sqlite_file(parts) if dialect.name == "sqlite" else None).connect() as connection:
        return schema.unfinished(connection)


def files(uri: str, experiment: str) -> list[Check]:
    """Whether the experiment's files are where MLflow expects them: it holds absolute paths."""
    if places.on_this_machine(uri) is None:
        return []
    tracker = Tracker(uri)
    with tracker_errors(uri):
        said = places.left_behind(tracker.client, uri, experiment)
    return [Check("run files", "ok", "where MLflow expects them") if said is None else _with_fix("run files", said)]


def champions(uri: str) -> list[Check]:
    """Whether the files of each champion of this program are there."""
    tracker, found = Tracker(uri), list[Check]()
    with tracker_errors(uri):
        names = sorted(model.name for model in tracker.client.search_registered_models(max_results=1000))
    for name in names:
        if not (name == "pneumonia" or name.startswith("pneumonia-")):
            continue
        with tracker_errors(uri):
            version = gate.champion_of(tracker.client, name)
        if version is None:
            said = f"{name} has versions, but no champion: `serve`, `page` and `predict` find none"
            found.append(Check("champion", "note", said, by_hand(name, "VERSION")))
        elif (said_gone := champion_gone(tracker, name)) is not None:
            found.append(_with_fix("champion", said_gone, by_hand(name, "VERSION")))
        else:
            found.append(Check("champion", "ok", f"{name} version {version}"))
    return found or [Check("champion", "note", "no model is registered yet")]


def _with_fix(name: str, said: str, otherwise: str = "") -> Check:
    """An error whose sentence names its command."""
    command = FIX.search(said)
    return Check(name, "error", said, command[1] if command else otherwise)
