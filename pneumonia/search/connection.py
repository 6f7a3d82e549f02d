"""The connection to a study's database, which may be away for a while, and is then waited for."""

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import optuna
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.orm import Session

from pneumonia.runtime.messages import first_line
from pneumonia.runtime.signals import delay_signals
from pneumonia.search.storage import StudyError, engine_arguments, holds_a_study, unusable

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # silence after which a worker on another machine counts as dead
PATIENCE_SECONDS = 120.0  # how long a database may be away before a worker gives up
START_SECONDS = 8.0  # and before a command that begins does

# The last one is PostgreSQL's word for a transaction that it has ended meanwhile (see `storage.IDLE_SECONDS`).
AWAY = (
    StorageInternalError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.InternalError,
)

T = TypeVar("T")


def connect(
    url: str,
    *,
    heartbeat: int = HEARTBEAT_SECONDS,
    grace: int = GRACE_SECONDS,
    seconds: float | None = None,
) -> RDBStorage:
    """Opens the study's database and makes its tables when they are not there.

    Args:
        url: SQLAlchemy's, the driver named: `sqlite:///file`, `postgresql+psycopg2://user@host/base`.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds of silence after which its trial is given to another.
        seconds: how long a database that does not answer is asked again; `START_SECONDS` if None.

    Raises:
        StudyError: the URL holds a password, the database cannot be reached, or it is another program's.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search reports what happens
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats, since 2020
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")  # `worker.heartbeat` beats instead
    arguments = engine_arguments(url)

    def open_it() -> RDBStorage:
        holds_a_study(url)
        try:
            return RDBStorage(url, engine_kwargs=arguments, heartbeat_interval=heartbeat, grace_period=grace)
        except RuntimeError as error:  # Optuna's, of tables that another version of it made
            raise unusable(url, str(error)) from error

    # two processes that make the tables of an empty database at once collide
    storage = once_it_answers(open_it, url, seconds)
    if url.startswith("sqlite"):
        # Optuna reads a trial's state and then writes it, relying on SELECT FOR UPDATE, which sqlite does not have: two
        # workers would take the same queued trial. A lock from the start of each transaction does the same.
        sqlalchemy.event.listen(storage.engine, "begin", lambda on: on.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def once_it_answers(call: Callable[[], T], url: str, seconds: float | None = None) -> T:
    """Repeats a call while the database at `url` does not answer.

    Raises:
        StudyError: it has not for so many seconds; `START_SECONDS` if None.
    """
    end = time.monotonic() + (START_SECONDS if seconds is None else seconds)
    while True:
        try:
            return call()
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            if time.monotonic() > end:
                raise unusable(url, first_line(error.__cause__ or error)) from error
            time.sleep(1)


def with_retries(call: Callable[[], T], *, seconds: float = PATIENCE_SECONDS) -> T:
    """Repeats a call until the database answers; the call must be safe to repeat."""
    end = time.monotonic() + seconds
    while True:
        try:
            with delay_signals():
                return call()
        except AWAY as error:
            if time.monotonic() > end:
                raise StudyError(f"the study's database has not answered for {seconds:.0f} s") from error
            time.sleep(1)


def user_attributes(study: optuna.Study) -> dict[str, Any]:
    """The attributes of a study as the database has them now."""
    return with_retries(lambda: study.user_attrs)


def put(session: Session, rows: Mapping[str, Any], values: Mapping[str, Any], new: Callable[..., Any]) -> None:
    """Writes attributes in a session: over the `rows` that are there, by key, else as what `new` makes."""
    for key, value in values.items():
        if key in rows:
            rows[key].value_json = json.dumps(value)
        else:
            session.add(new(key=key, value_json=json.dumps(value)))


@contextmanager
def repeating(beat: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls `beat` every `seconds`, in a thread, while the block runs."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            try:
                beat()
            except Exception:  # the database is away: the calls of the block itself wait for it and say so
                optuna.logging.get_logger(__name__).debug("no beat", exc_info=True)

    thread = threading.Thread(target=loop, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1)


def database(study: optuna.Study) -> RDBStorage:
    """The connection below Optuna's cache."""
    storage = study._storage
    backend = getattr(storage, "_backend", storage)
    assert isinstance(backend, RDBStorage)
    return backend
