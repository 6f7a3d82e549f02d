"""Checks the database of a study before anything is written: its URL, its driver, and whose tables it holds."""

import os
import re
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy
from optuna.storages._rdb.models import BaseModel
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool

LOOK_SECONDS = 5
LIBPQ_DRIVERS = ("psycopg2", "psycopg")
# Of libpq, for a machine that went away without a word: TCP itself would wait for a quarter of an hour.
LIBPQ = {
    "connect_timeout": LOOK_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # ms, for what was sent to be acknowledged
}
IDLE_SECONDS = 20  # for which a process that was cut off, or stopped, in a transaction keeps its locks
OPTUNA, ALEMBIC = "version_info", "alembic_version"  # tables that hold the version of the schema
MLFLOW = {"experiments", "runs"}
IN_MEMORY = "it is in memory, where neither workers nor a later search find it; give a file"
EXAMPLES = "sqlite:///study.db or postgresql+psycopg2://me@host/base"


class StudyError(RuntimeError):
    """The study's database is not usable; the sentence says why."""


def unusable(url: str, reason: str) -> StudyError:
    """The error for a database that cannot be used, in one line."""
    return StudyError(f"the study's database {url} cannot be used: {' '.join(reason.split())}")


def check_url(url: str) -> tuple[URL, Dialect]:
    """The parts of a URL, and the kind of database that it names.

    Raises:
        StudyError: `url` is none, holds a password, which MLflow and process lists would show, has no driver here, or
            names a database in memory, which no other process sees.
    """
    parts = _parsed(url)
    return parts, _dialect(parts, url)


def holds_a_study(url: str) -> bool:
    """Whether a database holds Optuna's tables; makes and changes nothing.

    Raises:
        StudyError: as `check_url`; a study cannot be kept there, or the tables are another program's.
        SQLAlchemyError: the database does not answer.
    """
    parts, dialect = check_url(url)
    if dialect.name == "sqlite":
        file = sqlite_file(parts)
        if not _to_be_written(file, url):
            return False
        read = partial(sqlite3.connect, f"{file.as_uri()}?mode=ro", uri=True, timeout=LOOK_SECONDS)
        engine = sqlalchemy.create_engine("sqlite://", creator=read, poolclass=NullPool)
    else:
        engine = sqlalchemy.create_engine(url, connect_args=connect_arguments(parts, dialect), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return _is_optunas(connection, url)
    except OperationalError:
        raise
    except DatabaseError as error:  # of a file that is no database
        raise unusable(url, str(error.__cause__ or error)) from error


def connect_arguments(parts: URL, dialect: Dialect) -> dict[str, Any]:
    """What a database's driver is to be given, so that no call waits for ever; what the URL says itself stands."""
    if dialect.name == "sqlite":
        return {"timeout": 60}  # seconds that a writer waits for another
    if dialect.driver not in LIBPQ_DRIVERS:
        return {}
    return {name: value for name, value in LIBPQ.items() if name not in parts.query}


def engine_arguments(url: str) -> dict[str, Any]:
    """What SQLAlchemy's engine for a study's database is to be given."""
    parts, dialect = check_url(url)
    # One connection stays open; the heartbeat, and what else is asked meanwhile, opens another and closes it: a server
    # has room for a hundred if nobody told it otherwise.
    return {
        **{"pool_pre_ping": True, "pool_size": 1, "max_overflow": 9},
        "connect_args": connect_arguments(parts, dialect),
        **({"pool_events": [(_bound_idle_transactions, "connect")]} if dialect.driver in LIBPQ_DRIVERS else {}),
    }


def _bound_idle_transactions(connection: Any, _record: Any) -> None:
    """Makes PostgreSQL end a transaction that its client has left alone: the locks of a machine that was cut off would
    stand for two hours. Not a parameter of the connection, as pgbouncer refuses those that it does not know; behind it
    this holds for the server's connection that it meets.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    connection.autocommit = False


def sqlite_file(parts: URL) -> Path:
    """The file of a sqlite URL."""
    name = parts.database or ""
    return Path(unquote(name.removeprefix("file:")) if name.startswith("file:") else name).absolute()


def _parsed(url: str) -> URL:
    try:
        parts = sqlalchemy.make_url(url)  # as the driver will read it: a password may hold a slash
    except (ArgumentError, ValueError) as error:
        if ":memory:" in url:
            raise unusable(url, IN_MEMORY) from error
        file = f"; a file is written sqlite:///{url}" if re.fullmatch(r"[\w./~-]+", url) else ""
        raise StudyError(
            f"the storage cannot be used: it is not an SQLAlchemy URL, such as {EXAMPLES}{file}"
        ) from error
    if parts.password is not None or any(name.lower() == "password" for name in parts.query):
        raise StudyError(
            "the storage URL holds a password: leave it out and use PGPASSFILE or PGPASSWORD "
            "(`mlflow run` logs its parameters before this program starts, so change that password)"
        )
    return parts


def _dialect(parts: URL, url: str) -> Dialect:
    """The database's kind, whose driver is installed and whose data outlives a process."""
    try:
        kind = parts.get_dialect()
        kind.import_dbapi()
    except NoSuchModuleError as error:
        raise unusable(url, f"SQLAlchemy knows no {parts.drivername}: write {EXAMPLES}") from error
    except ImportError as error:
        raise unusable(
            url, f"its driver, {error.name or 'of that name'}, is not installed: write {EXAMPLES}"
        ) from error
    if kind.is_async:
        raise unusable(url, f"its driver is an asynchronous one: write {EXAMPLES}")
    if kind.name == "sqlite":
        name, query = parts.database or "", dict(parts.query)
        if parts.host:
            raise unusable(
                url, "sqlite wants three slashes before a file, four before one from the root: sqlite:///file"
            )
        if name in ("", "file:") or ":memory:" in name or query.get("mode") == "memory":
            raise unusable(url, IN_MEMORY)
        if query.get("mode") == "ro" or "immutable" in query:
            raise unusable(url, "it is opened read only, but a search writes to it")
    return kind()


def _to_be_written(file: Path, url: str) -> bool:
    """Whether there is something in a sqlite file.

    Raises:
        StudyError: it, or its folder, cannot be written to.
    """
    if not file.parent.is_dir():
        raise unusable(url, f"there is no folder {file.parent}")
    if file.is_dir():
        raise unusable(url, "it is a folder")
    if not os.access(file.parent, os.W_OK):  # sqlite writes its journal beside the file
        raise unusable(url, f"nothing can be written to the folder {file.parent}")
    if not file.exists():
        return False
    if not os.access(file, os.W_OK):
        raise unusable(url, "the file can only be read")
    return file.stat().st_size > 0


def _is_optunas(connection: sqlalchemy.Connection, url: str) -> bool:
    look = sqlalchemy.inspect(connection)
    tables = set(look.get_table_names())
    if tables >= MLFLOW:
        raise unusable(url, "it is MLflow's own, whose tables and Optuna's do not agree; give the study another one")
    if ALEMBIC in tables:
        found = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalars().all()
        if not all(re.match(r"v\d", name) for name in found):  # Optuna's own are v3.2.0.a and the like
            raise unusable(url, f"another program keeps its version in the table {ALEMBIC}; give the study another one")
    if OPTUNA in tables:
        return True
    for name, table in BaseModel.metadata.tables.items():
        if name in tables and set(table.columns.keys()) - {column["name"] for column in look.get_columns(name)}:
            raise unusable(
                url, f"another program's table is called {name}, as one of Optuna's; give the study another one"
            )
    return False
