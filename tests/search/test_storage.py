"""The database of a study: what cannot hold one is refused and left as it is."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from pneumonia.search import connection, storage
from pneumonia.search import study as studies
from pneumonia.search.storage import StudyError
from tests.search.conftest import BASE, SPACE


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "START_SECONDS", 0.0)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://user:hunter2@host/base",
        "postgresql+psycopg2://user:hun%20ter2@host:5432/base",
        "postgresql+psycopg2://:hunter2@host/base",
        "postgresql+psycopg2://user:hunter2/with/slashes@host/base",
        "postgresql+psycopg2://user@host/base?password=hunter2",
        "postgresql+psycopg2:///base?host=host&user=u&PASSWORD=hunter2",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StudyError, match="PGPASSFILE") as refused:
        connection.connect(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///study.db",
        "postgresql+psycopg2://user@host:5432/base",
        "postgresql+psycopg2:///base?host=/run/postgresql&passfile=/home/me/.pgpass",
    ],
)
def test_a_url_without_a_password_is_taken(url: str) -> None:
    storage.check_url(url)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files that a study cannot stand in."""
    (tmp_path / "text.db").write_text("No database.\n" * 200)
    (tmp_path / "folder.db").mkdir()
    for name, script in {
        "mlflow.db": "CREATE TABLE experiments (a); CREATE TABLE runs (b)",
        "airflow.db": "CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('1b2c3d')",
        "clinic.db": "CREATE TABLE trials (patient, drug)",
    }.items():
        with closing(sqlite3.connect(tmp_path / name)) as database:
            database.executescript(script)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NOWHERE = [
    ("sqlite://", "in memory"),
    ("sqlite:///", "in memory"),
    ("sqlite:///:memory:", "in memory"),
    ("sqlite+pysqlite://", "in memory"),
    ("sqlite+pysqlite:///:memory:", "in memory"),
    ("sqlite:///file::memory:", "in memory"),
    ("sqlite:///file::memory:?cache=shared&uri=true", "in memory"),
    ("sqlite:///file:shared?mode=memory&cache=shared&uri=true", "in memory"),
    ("file::memory:", "in memory"),
    (":memory:", "in memory"),
    ("sqlite:///mlflow.db", "MLflow's own"),
    ("sqlite:///airflow.db", "alembic_version"),
    ("sqlite:///clinic.db", "called trials"),
    ("sqlite:///text.db", "not a database"),
    ("sqlite:///folder.db", "it is a folder"),
    ("sqlite:///file:mlflow.db?mode=ro&uri=true", "read only"),
    ("sqlite:///nonexistent/study.db", "there is no folder"),
    ("sqlite:////nonexistent/folder/study.db", "there is no folder /nonexistent/folder"),
    ("sqlite://study.db", "three slashes"),
    ("sqlite+aiosqlite:///study.db", "postgresql+psycopg2://"),
    ("postgresql://me@127.0.0.1/base", "psycopg, is not installed: write .*postgresql+psycopg2://"),
    ("postgres://me@127.0.0.1/base", "no postgres: write .*postgresql+psycopg2://"),
    ("postgresql+psycopg2://me@127.0.0.1:9/base", "refused"),
    ("mongodb://host/base", "no mongodb"),
    ("redis://localhost:6379", "no redis"),
    ("journal:///study.log", "no journal"),
]


@pytest.mark.parametrize(("url", "word"), NOWHERE)
def test_where_no_study_can_stand_is_said_and_left_as_it_is(
    url: str, word: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    with pytest.raises(StudyError, match=word.replace("+", "[+]")) as refused:
        studies.check(url, "films")
    assert "cannot be used" in str(refused.value)
    assert url in str(refused.value)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(connection.time, "sleep", lambda seconds: None)
    with pytest.raises(StudyError):
        connection.connect(url)
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("url", [url for url, _ in NOWHERE])
def test_where_no_study_can_stand_nobody_waits(url: str) -> None:
    started = time.monotonic()
    with pytest.raises(StudyError):
        studies.check(url, "films")
    assert time.monotonic() - started < 2


def test_what_may_not_be_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study.db").write_bytes(b"")
    for closed, word in ((folder / "study.db", "the file can only be read"), (folder, "nothing can be written")):
        monkeypatch.setattr("os.access", lambda path, mode, closed=closed: path != closed)  # root may write anywhere
        with pytest.raises(StudyError, match=word):
            studies.check("sqlite:///study.db", None)


@pytest.mark.parametrize("url", ["sqlite:///new.db", "sqlite+pysqlite:///new.db", "sqlite:///file:new.db?uri=true"])
def test_a_look_makes_no_file_and_a_study_does(url: str, folder: Path) -> None:
    before = contents(folder)
    studies.check(url, "films")
    assert contents(folder) == before
    assert optuna.get_all_study_names(connection.connect(url)) == []
    assert (folder / "new.db").stat().st_size > 0
    studies.check(url, "films")


def test_tables_of_another_program_may_stand_beside(folder: Path) -> None:
    with closing(sqlite3.connect("shared.db")) as database:
        database.execute("CREATE TABLE films (path)")
    for _ in range(2):
        studies.check("sqlite:///shared.db", "films")
        studies.create_or_resume(connection.connect("sqlite:///shared.db"), "films", BASE, SPACE, changed=True)


def test_a_file_that_mlflow_makes_its_own_later_is_left_to_it(store: str) -> None:
    """As where a storage and a tracking store are one file, which is not there yet when the storage is looked at."""
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        ask = "SELECT name FROM sqlite_master"
        before = database.execute(ask).fetchall()
        with pytest.raises(StudyError, match="MLflow's own"):
            connection.connect(store)
        assert database.execute(ask).fetchall() == before


@pytest.mark.parametrize("text", ["study.db", "~/films/study.db", "", "postgresql+psycopg2://me@host:port/base"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="not an SQLAlchemy URL") as refused:
        studies.check(text, None)
    assert str(refused.value).endswith(f"sqlite:///{text}") == text.endswith(".db")


def test_a_driver_waits_as_long_as_the_url_says() -> None:
    url = "postgresql+psycopg2://me@host/base"
    assert storage.connect_arguments(*storage.check_url(url)) == storage.LIBPQ
    own = storage.connect_arguments(*storage.check_url(f"{url}?connect_timeout=60"))
    assert own == {name: value for name, value in storage.LIBPQ.items() if name != "connect_timeout"}
