"""Stores that are not there, locked, torn, behind their schema or before it, moved, or without their champion."""

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.cli import cli as mlflow_cli
from packaging.requirements import Requirement
from sqlalchemy.exc import OperationalError

from pneumonia.config import TrainConfig
from pneumonia.housekeeping import stores
from pneumonia.housekeeping.checkup import Check
from pneumonia.search import attributes, connection, schema
from pneumonia.search import study as studies
from pneumonia.search.storage import StudyError
from pneumonia.search_space import search_space
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from tests.conftest import NO_SERVER, TrackingServer
from tests.guarded import Guard, guarded

AWAY = "postgresql+psycopg2://me@127.0.0.1:9/base"
SUPPORTED = Requirement("mlflow>=3.13,<4")


def set_revision(database: Path, revision: str) -> None:
    with closing(sqlite3.connect(database)) as opened:
        assert opened.execute("UPDATE alembic_version SET version_num = ?", (revision,)).rowcount == 1
        opened.commit()


def earlier() -> str:
    """A revision that MLflow knows, before its newest."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    newest, before, *_ = ScriptDirectory.from_config(_get_alembic_config("")).walk_revisions()
    assert newest.revision != before.revision
    return before.revision


# --- the tracking store


def test_a_store_that_is_there_and_current(store: str) -> None:
    assert stores.tracking_store(store).state == "ok"
    assert [check.state for check in stores.tracking_schema(store)] == ["ok"]
    assert stores.has_tables(store)


def test_looking_for_a_store_makes_none(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    assert stores.tracking_store(uri).state == "note"
    assert stores.tracking_schema(uri) == []
    assert not stores.has_tables(uri)
    (tmp_path / "none.db").touch()  # as sqlite leaves one that was opened and never written to
    assert stores.tracking_store(uri).state == "ok"
    assert stores.tracking_schema(uri) == []
    assert not stores.has_tables(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["none.db"]
    assert (tmp_path / "none.db").stat().st_size == 0


def test_a_store_behind_its_schema_or_before_it(store: str, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    set_revision(database, earlier())
    (behind,) = stores.tracking_schema(store)
    assert (behind.state, behind.command) == ("error", f'mlflow db upgrade "{store}"')
    assert "upgrade" in mlflow_cli.commands["db"].commands
    set_revision(database, "ffffffffffff")
    (before,) = stores.tracking_schema(store)
    assert (before.state, before.command) == ("error", "pip install --upgrade mlflow")
    assert "ffffffffffff" in before.sentence


def test_a_password_is_in_no_command(store: str, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    set_revision(database, earlier())
    (behind,) = stores.tracking_schema(f"{store}?password=s3cret")
    assert behind.command == 'mlflow db upgrade "$MLFLOW_TRACKING_URI"'


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, however long it is looked at" * 100)
    check = stores.tracking_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert check.state == "error"
    assert "no sqlite database" in check.sentence


def test_a_database_that_another_process_holds(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "SECONDS", 0.2)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        check = stores.tracking_store(store)
    assert time.monotonic() - began < 10
    assert check.state == "error"
    assert "locked" in check.sentence
    assert check.command.startswith("fuser ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_database_that_can_only_be_read(store: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").chmod(0o400)
    check = stores.tracking_store(store)
    assert (check.state, check.command) == ("error", f"chmod u+rw {tmp_path / 'mlflow.db'}")


def test_a_store_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    check = stores.tracking_store(str(tmp_path))
    assert check.state == "error"
    assert check.command.startswith("mlflow migrate-filestore ")


@pytest.mark.parametrize("uri", [NO_SERVER, AWAY.replace("me@", "me:s3cret@")])
def test_a_store_that_does_not_answer(uri: str) -> None:
    check = stores.tracking_store(uri)
    assert check.state == "error"
    assert "s3cret" not in check.sentence


class Old(Guard):
    """A server of another MLflow."""

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, str, bytes]:
        if request.path == "/version":
            return 200, "text/plain", b"2.9.2"
        return super().answer(request)


def test_a_server_of_an_mlflow_that_is_too_old() -> None:
    with guarded(Old()) as guard:
        check = stores.tracking_store(guard.uri, SUPPORTED)
        assert check.state == "warning"
        assert "MLflow 2.9.2" in check.sentence
        assert stores.tracking_schema(guard.uri) == []
    with guarded() as silent:  # which says at /version what is no version
        assert stores.tracking_store(silent.uri, SUPPORTED).state == "ok"


@pytest.mark.slow
def test_a_real_server(server: TrackingServer) -> None:
    check = stores.tracking_store(server.uri, SUPPORTED)
    assert check.state == "ok"
    assert "with MLflow 3" in check.sentence


# --- its files and champions


def test_a_project_that_was_moved(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    shutil.copy(empty_database, "mlflow.db")
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.create_experiment("pneumonia", artifact_location=str(project / "mlruns" / "1"))
    client.log_text(client.create_run(experiment).info.run_id, "text", "file.txt")
    assert [check.state for check in stores.files(f"sqlite:///{project / 'mlflow.db'}", "pneumonia")] == ["ok"]
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    uri = f"sqlite:///{moved / 'mlflow.db'}"
    (check,) = stores.files(uri, "pneumonia")
    assert (check.state, check.command) == ("error", f"ln -s {moved} {project}")
    subprocess.run(shlex.split(check.command), check=True)
    assert [check.state for check in stores.files(uri, "pneumonia")] == ["ok"]
    assert stores.files(NO_SERVER, "pneumonia") == []


def test_a_champion_whose_files_are_gone(registered: Record, tracker: Tracker) -> None:
    (check,) = stores.champions(tracker.uri)
    assert check == Check("champion", "ok", "pneumonia version 1")
    location = tracker.client.get_model_version_download_uri("pneumonia", "1")
    shutil.rmtree(location.removeprefix("file://"))
    (check,) = stores.champions(tracker.uri)
    assert check.state == "error"
    assert "pneumonia version 1, cannot be read" in check.sentence
    assert check.command


def test_a_model_without_a_champion_and_a_store_without_models(tracker: Tracker) -> None:
    assert [check.state for check in stores.champions(tracker.uri)] == ["note"]
    tracker.client.create_registered_model("pneumonia-place")
    tracker.client.create_registered_model("another-program-s")
    (check,) = stores.champions(tracker.uri)
    assert (check.state, check.command) == ("note", "pneumonia promote VERSION --name pneumonia-place")


# --- the study


@pytest.fixture
def study_url(tmp_path: Path) -> str:
    """A database with a finished study and one that is not."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = connection.connect(url)
    base = TrainConfig(size=32, epochs=3)
    for name in ("ended", "open"):
        study = studies.create_or_resume(storage, name, base, search_space(long=True), changed=True)
        if name == "ended":
            study.set_user_attr(attributes.FINISHED, "run")
    return url


def test_a_study_that_is_there(study_url: str) -> None:
    database, tables = stores.study(study_url)
    assert (database.state, tables.state) == ("ok", "ok")
    assert "2 studies, 1 unfinished" in database.sentence
    assert stores.unfinished_studies(study_url) == ["open"]


def test_a_study_behind_its_schema_or_before_it(study_url: str, tmp_path: Path) -> None:
    from optuna.cli import _COMMANDS

    set_revision(tmp_path / "study.db", "v2.6.0.a")
    _, behind = stores.study(study_url)
    assert (behind.state, behind.command) == ("error", f'optuna storage upgrade --storage "{study_url}"')
    assert "storage upgrade" in _COMMANDS
    set_revision(tmp_path / "study.db", "v99.0.0.a")
    _, before = stores.study(study_url)
    assert (before.state, before.command) == ("error", "pip install --upgrade optuna")


def test_the_command_that_is_named_mends_a_study_behind_its_schema(study_url: str, tmp_path: Path) -> None:
    newest, before, *_ = schema.migrations().walk_revisions()
    set_revision(tmp_path / "study.db", before.revision)
    _, behind = stores.study(study_url)
    assert before.revision in behind.sentence
    assert newest.revision in behind.sentence
    program, *words = shlex.split(behind.command)
    subprocess.run([Path(sys.executable).with_name(program), *words], check=True, capture_output=True)
    assert [check.state for check in stores.study(study_url)] == ["ok", "ok"]


def test_looking_for_a_study_makes_none(tmp_path: Path) -> None:
    (check,) = stores.study(f"sqlite:///{tmp_path / 'none.db'}")
    assert check.state == "note"
    assert stores.unfinished_studies(f"sqlite:///{tmp_path / 'none.db'}") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["postgresql+psycopg2://me:s3cret@lab/base", "nothing", "sqlite://"])
def test_a_study_that_cannot_be_kept_there(url: str) -> None:
    (check,) = stores.study(url)
    assert check.state == "error"
    assert "s3cret" not in check.sentence
    with pytest.raises(StudyError):
        stores.unfinished_studies(url)


def test_a_study_s_database_that_does_not_answer() -> None:
    (check,) = stores.study(AWAY)
    assert check.state == "error"
    assert "does not answer" in check.sentence
    with pytest.raises(OperationalError):
        stores.unfinished_studies(AWAY)
