"""The study: who gets which trial, exactly as many as wanted, and what becomes of trials whose worker is gone."""

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from pneumonia import config
from pneumonia.augmentation import stress_tests as stress
from pneumonia.config import TrainConfig, search_space
from pneumonia.runtime.signals import identity
from pneumonia.search import leader, pruning, report, storage
from pneumonia.search import study as studies

BASE = TrainConfig(size=32, epochs=3)
SPACE = search_space(long=True)
PRUNER = pruning.pruner("none", 3, long=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def study(url: str) -> optuna.Study:
    return studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=True)


def claim(study: optuna.Study, goal: int = 100) -> optuna.Trial:
    def no_wait() -> None:
        raise AssertionError("nothing to wait for")

    trial = studies.claim(study, goal, wait=no_wait)
    assert trial is not None
    return trial


def state(study: optuna.Study, number: int) -> TrialState:
    return studies.trials(study)[number].state


def gone() -> dict[str, Any]:
    """The identity of a process on this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return {**identity(), "pid": process.pid, "started": 0.0}


def run_trials(url: str, goal: int, threads: int, first: int) -> None:
    """The workers of one process: of the trials of each, every third fails and every fourth is pruned."""
    broken = threading.Event()

    def wait() -> None:
        assert not broken.wait(0.02), "another worker broke"

    def work(number: int) -> None:
        try:
            study = studies.load(studies.connect(url), "films", seed=0, pruner=PRUNER)
            turn = number
            while (trial := studies.claim(study, goal, wait=wait)) is not None:
                turn += 1
                if turn % 3 == 0:
                    assert studies.fail(study, trial.number, "unlucky", fault=True)
                elif turn % 4 == 0:
                    studies.finish(study, trial.number, None, TrialState.PRUNED)
                else:
                    studies.finish(study, trial.number, trial.params["lr"], TrialState.COMPLETE)
        except BaseException:
            broken.set()
            raise

    with ThreadPoolExecutor(threads) as crew:
        list(crew.map(work, range(first, first + threads)))


def assert_exact(study: optuna.Study, goal: int) -> None:
    """The goal is reached and not exceeded, nothing is left open, and what stepped back is no failure."""
    count = Counter(trial.state for trial in studies.trials(study))
    assert count[TrialState.COMPLETE] + count[TrialState.PRUNED] == goal
    assert count[TrialState.RUNNING] == 0
    reasons = {trial.user_attrs["reason"] for trial in studies.trials(study, TrialState.FAIL)}
    assert reasons <= {"unlucky", "surplus"}
    assert {trial.user_attrs["reason"] for trial in studies.failures(study)} <= {"unlucky"}


@pytest.mark.slow
@pytest.mark.parametrize("goal", [1, 7])
def test_threads_reach_the_goal_exactly(study: optuna.Study, url: str, goal: int) -> None:
    run_trials(url, goal, threads=6, first=0)
    assert_exact(study, goal)


@pytest.mark.slow
def test_processes_reach_the_goal_exactly(study: optuna.Study, url: str) -> None:
    context = multiprocessing.get_context("spawn")
    crew = [context.Process(target=run_trials, args=(url, 8, 3, first)) for first in (0, 100)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(60)
    assert [process.exitcode for process in crew] == [0, 0]
    assert_exact(study, 8)


def test_a_study_of_another_objective_is_not_taken_up(study: optuna.Study, url: str) -> None:
    claim(study)
    name = studies.default_name("ab" * 32, BASE, SPACE, changed=True)
    assert studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=True).study_name == "films"
    with pytest.raises(studies.StudyError, match=r"judged by something else than .* as they are: name another"):
        studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stress, "VERSION", stress.VERSION + 1)
        assert studies.default_name("ab" * 32, BASE, SPACE, changed=True) != name
        with pytest.raises(studies.StudyError, match="judged by something else"):
            studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=True)
    study.set_user_attr("objective", "val/log_loss")
    with pytest.raises(studies.StudyError, match="the trials of study films were judged by something else"):
        studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=True)


def test_no_worker_proposes_what_another_did(study: optuna.Study, url: str) -> None:
    """Whether they work at the same time or one comes after the other was killed, all of one seed."""

    def worker() -> optuna.Study:
        return studies.load(studies.connect(url), "films", seed=0, pruner=PRUNER)

    first, beside = worker(), worker()
    proposed = [claim(first).params, claim(beside).params, claim(first).params, claim(worker()).params]
    proposed += [claim(worker()).params, claim(beside).params]
    assert proposed[0] == {name: getattr(BASE, name) for name in SPACE}
    assert len({tuple(params.items()) for params in proposed}) == len(proposed)


def test_a_proposal_follows_from_the_seed_and_what_came_before(tmp_path: Path) -> None:
    """Not from who asks: a search of one worker that is stopped and resumed is the search that it would have been."""

    def search(name: str, seed: int, *, resumed: bool) -> list[dict[str, Any]]:
        storage = studies.connect(f"sqlite:///{tmp_path / name}.db")
        studies.create_or_resume(storage, "films", BASE, SPACE, changed=True)
        study = studies.load(storage, "films", seed=seed, pruner=PRUNER)
        proposed = []
        for _ in range(8):
            if resumed:
                study = studies.load(storage, "films", seed=seed, pruner=PRUNER)
            trial = claim(study)
            proposed.append(trial.params)
            studies.finish(study, trial.number, trial.params["lr"], TrialState.COMPLETE)
        return proposed

    assert search("whole", 0, resumed=False) == search("resumed", 0, resumed=True)
    assert search("whole, seed 1", 1, resumed=False)[1:] != search("resumed, seed 0", 0, resumed=True)[1:]


def test_nobody_starts_what_others_are_doing(study: optuna.Study) -> None:
    """With as many running as wanted a worker waits; it takes over when one of them fails."""
    first, second = claim(study, 2), claim(study, 2)
    waits = []

    def wait() -> None:
        waits.append(1)
        if len(waits) == 2:
            studies.fail(study, first.number, "unlucky", fault=True)

    third = studies.claim(study, 2, wait=wait)
    assert third is not None
    assert third.number > second.number
    assert len(waits) == 2
    for trial in (second, third):
        studies.finish(study, trial.number, 0.5, TrialState.COMPLETE)
    assert studies.claim(study, 2, wait=wait) is None


def test_a_queued_trial_counts_before_a_new_one(study: optuna.Study) -> None:
    """A lost trial that waits for a worker is taken first, with the parameters that it had."""
    lost = claim(study, 1)
    assert studies.fail(study, lost.number, "the worker was killed", fault=False)
    studies.retry(study, studies.trials(study)[lost.number])
    again = claim(study, 1)
    assert again.params == lost.params
    assert again.number > lost.number


def test_the_first_trial_is_the_recipe(study: optuna.Study) -> None:
    assert claim(study).params == {name: getattr(BASE, name) for name in SPACE}


def test_parameters_lie_in_the_search_space(study: optuna.Study) -> None:
    for _ in range(6):
        params = claim(study).params
        replace(BASE, **params)
        for name, allowed in SPACE.items():
            assert params[name] in allowed.choices or allowed.low <= params[name] <= allowed.high


def test_retry_keeps_parameters_and_forgets_the_dead_worker(study: optuna.Study) -> None:
    trial = claim(study)
    for tries in range(studies.MAX_RETRIES + 1):
        trial.set_user_attr("worker", {"pid": 1})
        studies.fail(study, trial.number, "lost", fault=False)
        studies.retry(study, studies.trials(study)[trial.number])
        queued = studies.trials(study, TrialState.WAITING)
        if tries == studies.MAX_RETRIES:
            assert queued == []  # what kills every worker that touches it is given up
            return
        assert [t.user_attrs for t in queued] == [{}]
        again = claim(study)
        assert again.number == queued[0].number
        assert again.params == trial.params
        trial = again


def test_a_trial_of_a_dead_process_is_lost(study: optuna.Study) -> None:
    dead, alive, elsewhere = claim(study), claim(study), claim(study)
    dead.set_user_attr("worker", gone())
    alive.set_user_attr("worker", identity())
    elsewhere.set_user_attr("worker", {**gone(), "host": "another-machine"})
    assert [trial.number for trial in studies.lost(study)] == [dead.number]


def test_a_process_number_used_again_is_another_process(study: optuna.Study) -> None:
    trial = claim(study)
    trial.set_user_attr("worker", {**identity(), "started": float(identity()["started"]) - 100})
    assert [t.number for t in studies.lost(study)] == [trial.number]


def test_a_trial_without_a_worker_is_lost_after_a_while(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = claim(study)
    assert studies.lost(study) == []

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=studies.UNBORN_SECONDS + 1)

    monkeypatch.setattr(studies, "datetime", Later)
    assert [t.number for t in studies.lost(study)] == [trial.number]


@pytest.mark.slow
def test_a_silent_worker_loses_its_trial(url: str) -> None:
    """After the grace period the trial fails, `on_lost` hears of it, and its parameters are queued again."""
    heard: list[int] = []
    storage = studies.connect(url, heartbeat=1, grace=1, on_lost=lambda trial: heard.append(trial.number))
    study = studies.create_or_resume(storage, "films", BASE, SPACE, changed=True)
    silent = claim(study)
    storage.record_heartbeat(silent._trial_id)
    time.sleep(2.5)  # the database counts whole seconds
    again = claim(study)
    assert heard == [silent.number]
    assert state(study, silent.number) == TrialState.FAIL
    assert again.params == silent.params
    with pytest.raises(studies.LeaseLost):
        studies.finish(study, silent.number, 0.1, TrialState.COMPLETE)
    assert not studies.fail(study, silent.number, "late", fault=True)
    assert "reason" not in studies.trials(study)[silent.number].user_attrs


def test_fail_says_why_once(study: optuna.Study) -> None:
    own, stopped = claim(study), claim(study)
    assert studies.fail(study, own.number, "Diverged: no number", fault=True)
    assert studies.fail(study, stopped.number, "SIGTERM", fault=False)
    assert not studies.fail(study, own.number, "another reason", fault=False)
    assert [(t.number, t.user_attrs["reason"]) for t in studies.failures(study)] == [
        (own.number, "Diverged: no number")
    ]
    assert studies.failures(study, since=own.number + 1) == []


def test_finish_survives_an_answer_that_got_lost(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database took the value and went away before it said so: told again, the trial stays as it is."""
    trial, tell, calls = claim(study), study.tell, []

    def lossy(*args: Any) -> None:
        calls.append(args)
        tell(*args)
        raise StorageInternalError("the server closed the connection")

    monkeypatch.setattr(study, "tell", lossy)
    monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)
    studies.finish(study, trial.number, 0.25, TrialState.COMPLETE)
    assert len(calls) == 1
    assert studies.trials(study)[trial.number].value == 0.25


class TestPatience:
    @pytest.fixture(autouse=True)
    def no_sleep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)

    @pytest.mark.parametrize(
        "error",
        [
            StorageInternalError("away"),
            sqlalchemy.exc.OperationalError("select", {}, Exception("away")),
            sqlalchemy.exc.InterfaceError("select", {}, Exception("away")),
        ],
    )
    def test_waits_for_the_database(self, error: Exception) -> None:
        answers: list[Any] = [error, error, "here"]

        def call() -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        assert studies.patiently(call) == "here"

    def test_gives_up(self) -> None:
        def call() -> None:
            raise StorageInternalError("away")

        with pytest.raises(studies.StudyError, match="has not answered"):
            studies.patiently(call, seconds=0.05)

    def test_is_for_the_database_alone(self) -> None:
        calls = []

        def call() -> None:
            calls.append(1)
            raise KeyError("a bug")

        with pytest.raises(KeyError):
            studies.patiently(call)
        assert len(calls) == 1


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
    with pytest.raises(studies.StudyError, match="PGPASSFILE") as refused:
        studies.connect(url)
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
    with pytest.raises(studies.StudyError, match=word.replace("+", "[+]")) as refused:
        studies.check(url, "films")
    assert "cannot be used" in str(refused.value)
    assert url in str(refused.value)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)
    with pytest.raises(studies.StudyError):
        studies.connect(url)
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("url", [url for url, _ in NOWHERE])
def test_where_no_study_can_stand_nobody_waits(url: str) -> None:
    started = time.monotonic()
    with pytest.raises(studies.StudyError):
        studies.check(url, "films")
    assert time.monotonic() - started < 2


def test_what_may_not_be_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study.db").write_bytes(b"")
    for closed, word in ((folder / "study.db", "the file can only be read"), (folder, "nothing can be written")):
        monkeypatch.setattr("os.access", lambda path, mode, closed=closed: path != closed)  # root may write anywhere
        with pytest.raises(studies.StudyError, match=word):
            studies.check("sqlite:///study.db", None)


@pytest.mark.parametrize("url", ["sqlite:///new.db", "sqlite+pysqlite:///new.db", "sqlite:///file:new.db?uri=true"])
def test_a_look_makes_no_file_and_a_study_does(url: str, folder: Path) -> None:
    before = contents(folder)
    studies.check(url, "films")
    assert contents(folder) == before
    assert optuna.get_all_study_names(studies.connect(url)) == []
    assert (folder / "new.db").stat().st_size > 0
    studies.check(url, "films")


def test_tables_of_another_program_may_stand_beside(folder: Path) -> None:
    with closing(sqlite3.connect("shared.db")) as database:
        database.execute("CREATE TABLE films (path)")
    for _ in range(2):
        studies.check("sqlite:///shared.db", "films")
        studies.create_or_resume(studies.connect("sqlite:///shared.db"), "films", BASE, SPACE, changed=True)


def test_a_file_that_mlflow_makes_its_own_later_is_left_to_it(store: str) -> None:
    """As where a storage and a tracking store are one file, which is not there yet when the storage is looked at."""
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        ask = "SELECT name FROM sqlite_master"
        before = database.execute(ask).fetchall()
        with pytest.raises(studies.StudyError, match="MLflow's own"):
            studies.connect(store)
        assert database.execute(ask).fetchall() == before


@pytest.mark.parametrize("text", ["study.db", "~/films/study.db", "", "postgresql+psycopg2://me@host:port/base"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(studies.StudyError, match="not an SQLAlchemy URL") as refused:
        studies.check(text, None)
    assert str(refused.value).endswith(f"sqlite:///{text}") == text.endswith(".db")


# --- studies that somebody made beforehand

MINE = {"x": FloatDistribution(0, 1)}


@pytest.mark.parametrize(
    ("made", "word"),
    [
        ({"direction": "maximize"}, "to maximize its objective.*direction minimize"),
        ({"directions": ["minimize", "minimize"]}, "2 objectives"),
        ({"directions": ["maximize", "minimize", "minimize"]}, "3 objectives"),
    ],
)
def test_a_study_that_looks_for_something_else_is_refused(made: dict[str, Any], word: str, url: str) -> None:
    theirs = optuna.create_study(study_name="films", storage=url, **made)
    before = theirs.user_attrs, theirs.get_trials()
    with pytest.raises(studies.StudyError, match=word):
        studies.check(url, "films")
    with pytest.raises(studies.StudyError, match=word):
        studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=True)
    assert (theirs.user_attrs, theirs.get_trials()) == before
    studies.check(url, "others")


def ask_for(study: optuna.Study) -> None:
    study.tell(study.ask(dict(MINE)), 0.5)


def queue(study: optuna.Study) -> None:
    study.enqueue_trial({"lr": 1e-3, "x": 0.5})


def write_a_space(study: optuna.Study) -> None:
    study.set_user_attr("space", {"x": distribution_to_json(MINE["x"])})


def write_nonsense(study: optuna.Study) -> None:
    study.set_user_attr("space", "films")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (ask_for, "other parameters than a search's: x;"),
        (queue, "other parameters than a search's: x;"),
        (write_a_space, "other parameters than a search's: x;"),
        (write_nonsense, "attribute 'space' of study films"),
    ],
)
def test_a_study_with_other_parameters_is_refused(make: Callable[[optuna.Study], None], word: str, url: str) -> None:
    theirs = optuna.create_study(study_name="films", storage=url)
    make(theirs)
    before = theirs.user_attrs, theirs.get_trials()
    for call in (
        lambda: studies.check(url, "films"),
        lambda: studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=True),
    ):
        with pytest.raises(studies.StudyError, match=word):
            call()
    assert (theirs.user_attrs, theirs.get_trials()) == before


def test_an_empty_study_made_beforehand_is_searched(url: str) -> None:
    """And one that follows a finished one is what counts."""
    optuna.create_study(study_name="films", storage=url)
    studies.check(url, "films")
    study = studies.create_or_resume(studies.connect(url), "films", BASE, SPACE, changed=True)
    assert claim(study).params == {name: getattr(BASE, name) for name in SPACE}
    studies.check(url, "films")
    study.set_user_attr("finished", "run")
    studies.check(url, "films")
    optuna.create_study(study_name="films-2", storage=url, direction="maximize")
    with pytest.raises(studies.StudyError, match="films-2 is to maximize"):
        studies.check(url, "films")


@pytest.mark.slow
def test_many_may_open_an_empty_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(6) as crew:
        assert len(list(crew.map(lambda _: studies.connect(url), range(6)))) == 6


def test_a_finished_study_is_followed_by_another(url: str) -> None:
    storage = studies.connect(url)
    names = []
    for number in range(3):
        study = studies.create_or_resume(storage, "films", BASE, SPACE, changed=True)
        assert (
            studies.create_or_resume(storage, "films", BASE, SPACE, changed=True).study_name == study.study_name
        )  # unfinished: resumes
        assert len(studies.trials(study, TrialState.WAITING)) == 1
        names.append(study.study_name)
        study.set_user_attr("finished", f"run {number}")
    assert names == ["films", "films-2", "films-3"]


def test_the_default_name_says_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(fingerprint: str = "f" * 64, **changes: Any) -> str:
        return studies.default_name(fingerprint, replace(BASE, **changes), SPACE, changed=True)

    assert name() == name(lr=9e-3, width=8, device="cpu")  # searched over, or without influence on what is found
    assert len({name(), name("e" * 64), name(size=64), name(epochs=4), name(seed=1), name(sampler="none")}) == 6
    before = name()
    short = search_space(long=False)
    assert len({before, *(studies.default_name("f" * 64, BASE, short, changed=c) for c in (True, False))}) == 3
    monkeypatch.setattr(config, "VERSION", config.VERSION + 1)
    assert name() != before


class TestLease:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leader, "BEAT_SECONDS", 0.3)

    def test_held_while_the_block_runs(self, study: optuna.Study) -> None:
        assert leader.holder(study) is None
        with leader.held(study, "run"):
            holder = leader.holder(study)
            assert holder is not None
            assert holder["run_id"] == "run"
        assert leader.holder(study) is None

    def test_given_back_after_an_error(self, study: optuna.Study) -> None:
        with pytest.raises(ZeroDivisionError), leader.held(study, "run"):
            raise ZeroDivisionError
        assert leader.holder(study) is None

    def test_a_dead_leader_on_this_machine_is_known_without_waiting(
        self, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_wait(seconds: float) -> None:
            raise AssertionError("nothing to wait for")

        study.set_user_attr("leader", {**gone(), "run_id": "run", "beat": 3})
        monkeypatch.setattr(leader.time, "sleep", no_wait)
        assert leader.holder(study) is None

    @pytest.mark.slow
    def test_a_dead_leader_on_this_machine_is_known_at_once(self, study: optuna.Study) -> None:
        study.set_user_attr("leader", {**gone(), "run_id": "run", "beat": 3})
        started = time.monotonic()
        assert leader.holder(study) is None
        assert time.monotonic() - started < 0.5

    @pytest.mark.slow
    def test_a_silent_leader_elsewhere_is_dead(self, study: optuna.Study) -> None:
        study.set_user_attr("leader", {**identity(), "host": "another-machine", "run_id": "run", "beat": 3})
        assert leader.holder(study) is None

    @pytest.mark.slow
    def test_a_counting_leader_elsewhere_lives(
        self, study: optuna.Study, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(leader, "identity", lambda: {**identity(), "host": "another-machine"})
            leading = leader.held(study, "run")
            leading.__enter__()
        try:
            holder = leader.holder(studies.load(studies.connect(url), "films", seed=0, pruner=PRUNER))
            assert holder is not None
            assert holder["host"] == "another-machine"
        finally:
            leading.__exit__(None, None, None)


def test_a_study_of_an_earlier_version_keeps_its_space(study: optuna.Study, url: str) -> None:
    """It has no space written down; its trials say what it is. One of the default name is named, not gone on with."""
    old = {"lr": FloatDistribution(5e-4, 1e-2, log=True), "width": CategoricalDistribution((8, 12, 16, 24))}
    name = f"{'f' * 12}-01234567"
    earlier = optuna.create_study(study_name=name, storage=studies.connect(url))
    earlier.set_user_attr("objective", studies.judge(changed=True))
    earlier.enqueue_trial({"lr": BASE.lr, "width": BASE.width})
    earlier.tell(earlier.ask(old), 0.5)
    resumed = studies.create_or_resume(studies.connect(url), name, BASE, SPACE, changed=True)
    assert resumed.study_name == name
    assert claim(resumed).params.keys() == old.keys()
    assert pruning.one_remains(resumed, BASE)
    assert list(report.table(resumed).columns[-5:]) == ["lr", "width", "epochs", "seconds", "reason"]
    assert studies.left_behind(studies.connect(url), "f" * 64) == {name: studies.judge(changed=True)}
    assert studies.left_behind(studies.connect(url), "e" * 64) == {}
    resumed.set_user_attr("finished", "run")
    assert studies.left_behind(studies.connect(url), "f" * 64) == {}


def test_long_trials_begin_with_what_few_films_have_wanted(url: str) -> None:
    study = studies.create_or_resume(studies.connect(url), "long", BASE, SPACE, changed=True, long=True)
    first = [claim(study).params for _ in range(5)]
    assert first[0] == {name: getattr(BASE, name) for name in SPACE}
    assert [p["batch_size"] for p in first[:4]] == [64, 16, 64, 64]
    few = studies.create_or_resume(studies.connect(url), "few", BASE, SPACE, changed=True, long=True, goal=2)
    assert len(studies.trials(few)) == 2
    fixed = {name: one for name, one in SPACE.items() if name != "disturb"}
    study = studies.create_or_resume(studies.connect(url), "fixed", BASE, fixed, changed=True, long=True)
    assert all(claim(study).params.keys() == fixed.keys() for _ in range(4))
    short = studies.create_or_resume(studies.connect(url), "short", BASE, search_space(long=False), changed=True)
    assert len(studies.trials(short)) == 1
