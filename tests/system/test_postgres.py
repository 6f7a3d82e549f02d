"""One study in a real PostgreSQL, for searches that share nothing but the database and the tracking store."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from mlflow import MlflowClient
from optuna.trial import TrialState

from pneumonia.search import attributes, connection, leader, storage
from pneumonia.search import study as studies
from pneumonia.search.lost_trials import UNCLAIMED
from pneumonia.search.storage import LIBPQ, StudyError
from pneumonia.tracking.store import Tracker
from tests.command import Lab, until
from tests.servers import PROGRAMS, PostgresServer, running_postgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if PROGRAMS is None:
        pytest.skip("PostgreSQL's programs are not in /usr/lib/postgresql")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser to become its user")
    with running_postgres() as server:
        yield server


def machine(name: str, tmp_path: Path, films: Path, tracker: Tracker, storage: str) -> Lab:
    """As another machine: a home of its own."""
    return Lab(tmp_path / name, films, tracking=tracker.uri, storage=storage)


def test_two_machines_and_a_database_that_restarts(
    postgres: PostgresServer, films: Path, tracker: Tracker, tmp_path: Path
) -> None:
    """The second search joins the first; the database goes away under both; together they reach the count exactly."""
    url = postgres.create("together")
    first, second = (machine(name, tmp_path, films, tracker, url) for name in ("first", "second"))
    try:
        leader = first.search(trials=4, workers=1)
        trial = first.delay()
        helper = second.search(trials=4, workers=1)
        until(lambda: len(first.trials(TrialState.RUNNING)) == 2, "a running trial of each")
        os.kill(trial.user_attrs["worker"]["pid"], signal.SIGCONT)
        postgres.stop()
        time.sleep(2)
        postgres.start()
        assert (leader.end(), helper.end()) == (0, 0), leader.text() + helper.text()
        assert "joins study" in helper.text()
        assert len(first.done()) == 4
        assert first.trials(TrialState.RUNNING) == []
        assert len({t.user_attrs["worker"]["pid"] for t in first.done()}) == 2  # both had a share
        # Nobody died of it. A trial too many is begun where both ask at once, or where the answer to that was lost.
        reasons = {t.user_attrs["reason"] for t in first.trials(TrialState.FAIL)}
        assert reasons <= {attributes.SURPLUS, UNCLAIMED}
        assert studies.failures(first.study) == []
        runs = first.runs()
        assert Counter(run.info.status for run in runs)["RUNNING"] == 0
        assert Counter(run.data.tags["role"] for run in runs)["search"] == 1
        assert [version.aliases for version in first.versions()] == [["champion"]]
    finally:
        first.stop()
        second.stop()


def test_a_machine_that_dies(postgres: PostgresServer, films: Path, tracker: Tracker, tmp_path: Path) -> None:
    """The leader is killed with all its workers; the same command elsewhere takes the study over after a while."""
    url = postgres.create("dying")
    first, second = (machine(name, tmp_path, films, tracker, url) for name in ("first", "second"))
    try:
        leader = first.search(trials=3)
        until(first.done, "a trial done")
        os.killpg(leader.process.pid, signal.SIGKILL)
        leader.process.wait()
        done = {t.number: t.datetime_complete for t in first.done()}
        heir = second.search(trials=3)
        assert heir.end() == 0, heir.text()
        assert "resumes study" in heir.text()
        assert len(first.done()) == 3
        assert done.items() <= {t.number: t.datetime_complete for t in first.done()}.items()
        ends = {run.data.tags["trial.number"]: run.data.tags["trial.state"] for run in first.runs("trial")}
        assert {ends[str(t.number)] for t in first.done()} <= {"COMPLETE", "PRUNED"}
        assert Counter(run.info.status for run in first.runs())["RUNNING"] == 0
        assert [version.aliases for version in first.versions()] == [["champion"]]
    finally:
        first.stop()
        second.stop()


def test_a_password_in_the_url_reaches_nobody(films: Path, tracker: Tracker, tmp_path: Path) -> None:
    lab = machine("only", tmp_path, films, tracker, "postgresql+psycopg2://postgres:hunter2@127.0.0.1:1/postgres")
    try:
        search = lab.search()
        assert search.end() in (1, 2)
    finally:
        lab.stop()
    assert search.text().count("\n") == 1
    assert "PGPASSFILE" in search.text()
    assert lab.runs() == []
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"hunter2" in path.read_bytes() for path in written)


def test_mlflow_s_own_database_is_left_alone(postgres: PostgresServer) -> None:
    url = postgres.create("mlflow")
    MlflowClient(url).search_experiments()
    engine = sqlalchemy.create_engine(url)
    before = sqlalchemy.inspect(engine).get_table_names()
    for call in (lambda: studies.check(url, "films"), lambda: connection.connect(url)):
        with pytest.raises(StudyError, match="MLflow's own"):
            call()
    assert sqlalchemy.inspect(engine).get_table_names() == before
    with pytest.raises(StudyError, match='database "nobody_made_it" does not exist'):
        studies.check(postgres.url("nobody_made_it"), None)


def test_a_study_made_beforehand(postgres: PostgresServer) -> None:
    url = postgres.create("beforehand")
    studies.check(url, "films")
    assert sqlalchemy.inspect(sqlalchemy.create_engine(url)).get_table_names() == []
    optuna.create_study(study_name="films", storage=url, direction="maximize")
    with pytest.raises(StudyError, match="to maximize"):
        studies.check(url, "films")
    studies.check(url, "others")


def test_no_call_waits_for_a_machine_that_went_away(postgres: PostgresServer) -> None:
    """What the driver is told; that the kernel then keeps to it is not tried here."""
    opened_storage = connection.connect(postgres.create("away"))
    with opened_storage.engine.connect() as opened:
        told = opened.connection.driver_connection.get_dsn_parameters()
    assert {name: told[name] for name in LIBPQ} == {name: str(value) for name, value in LIBPQ.items()}


def test_who_sleeps_in_a_transaction_keeps_no_lock(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine that was cut off: others go on after a while, and so does it when it is back."""
    monkeypatch.setattr(storage, "IDLE_SECONDS", 1)
    opened = connection.connect(postgres.create("asleep"))
    study = optuna.create_study(storage=opened)
    leads: list[leader.Lead | None] = []

    def asleep() -> str:
        with opened.engine.begin() as held:
            held.execute(sqlalchemy.text("SELECT * FROM studies FOR UPDATE"))
            if not leads:
                leads.append(leader.claim(study, None))  # another connection's, which waits for the lock
            held.execute(sqlalchemy.text("SELECT 1"))
        return "awake"

    assert connection.with_retries(asleep, seconds=10) == "awake"
    assert [lead is not None for lead in leads] == [True]
