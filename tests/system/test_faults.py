"""Faults of a running search, caused for real: what was done is kept, what was begun is closed, the rest goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from pneumonia.data import index as data
from pneumonia.runtime.messages import shortened
from pneumonia.runtime.signals import Stop
from pneumonia.search import connection, pruning, worker
from pneumonia.search import study as studies
from pneumonia.search.worker import Task
from pneumonia.tracking.record import records
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from pneumonia.training import loop
from tests.command import Command, Lab, says_how_to_go_on, until
from tests.conftest import NO_SERVER, ROOT, TrackingServer
from tests.small_disk import full, small_disk

pytestmark = pytest.mark.slow

INT, TERM = signal.SIGINT, signal.SIGTERM
STOP_SECONDS = 5.0  # the promise, from the first signal to the end of the last process
PARENT = "mlflow.parentRunId"


@pytest.fixture
def lab(tracker: Tracker, films: Path, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, films, tracking=tracker.uri)
    yield lab
    lab.stop()


def assert_ended_well(lab: Lab, *, goal: int) -> Run:
    """What holds after a search whatever happened in it: the count is exact, every run has ended as its trial did and
    stands under one parent, and there is one version. Returns the parent run."""
    assert len(lab.done()) == goal
    assert lab.trials(TrialState.RUNNING) == []
    assert Counter(run.info.status for run in lab.runs())["RUNNING"] == 0
    finished = [run for run in lab.runs("search") if run.info.status == "FINISHED"]
    assert len(finished) == 1
    children = [*lab.runs("trial"), *lab.runs("final")]
    assert {run.data.tags[PARENT] for run in children} == {finished[0].info.run_id}
    for trial in lab.trials():
        mine = [run for run in lab.runs("trial") if run.data.tags["trial.number"] == str(trial.number)]
        if trial.state in studies.DONE:
            assert [run.data.tags["trial.state"] for run in mine] == [trial.state.name]
        else:
            assert {run.data.tags["trial.state"] for run in mine} <= {"FAIL", "INTERRUPTED"}
    assert [version.aliases for version in lab.versions()] == [["champion"]]
    assert lab.processes() == []
    kept = {len(np.load(films, mmap_mode="r")) for films in lab.home.glob("cache/*/films.npy")}
    assert kept == {len(data.scan(lab.films).keep("train", "val").table)}  # no test film was opened
    return finished[0]


def killed_trial(lab: Lab) -> FrozenTrial:
    """Kills a worker with SIGKILL while it is at a trial, and returns the trial."""

    def kill() -> FrozenTrial | None:
        if (trial := lab.running()) is None:
            return None
        os.kill(trial.user_attrs["worker"]["pid"], signal.SIGKILL)
        time.sleep(0.1)
        return trial if lab.trials()[trial.number].state in (TrialState.RUNNING, TrialState.FAIL) else None

    return until(kill, "a worker at a trial")


def test_a_killed_worker(lab: Lab) -> None:
    search = lab.search(trials=4)
    trial = killed_trial(lab)
    assert search.end() == 0, search.text()
    assert_ended_well(lab, goal=4)
    failed = lab.trials()[trial.number]
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["reason"] == "the worker was killed"
    again = [t for t in lab.trials() if t.system_attrs.get("retry_history") == [trial.number]]
    assert [(t.params, t.state in studies.DONE) for t in again] == [(trial.params, True)]
    run = lab.client.get_run(trial.user_attrs["run_id"])
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "the worker was killed")


def test_a_killed_search(lab: Lab) -> None:
    """First its first process alone, whose workers must notice; then all of them at once; then it comes to its end."""
    first = lab.search(trials=4)
    until(lambda: len(lab.done()) >= 1 and lab.running(), "a trial done and one running")
    os.kill(first.process.pid, signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    until(lambda: not lab.processes(), "the workers following", seconds=2 * STOP_SECONDS)
    done = {t.number: t.datetime_complete for t in lab.done()}

    second = lab.search(trials=4)
    until(lab.running, "a trial of the second search")
    second.kill()
    assert lab.processes() == []
    done |= {t.number: t.datetime_complete for t in lab.done()}

    third = lab.search(trials=4)
    assert third.end() == 0, third.text()
    assert "resumes study" in third.text()
    parent = assert_ended_well(lab, goal=4)
    assert done.items() <= {t.number: t.datetime_complete for t in lab.done()}.items()
    assert len({tuple(t.params.items()) for t in lab.done()}) == 4  # resuming proposes nothing a second time
    others = {run.info.run_id: run for run in lab.runs("search") if run.info.run_id != parent.info.run_id}
    assert len(others) == 2
    assert {run.info.status for run in others.values()} == {"KILLED"}
    assert {run.data.tags["resumed_by"] for run in others.values()} == {
        parent.info.run_id,
        max(others.values(), key=lambda run: run.info.start_time).info.run_id,
    }


def crowding() -> float:
    """How many processes want each core, at least 1: bounds in seconds are promises for a machine that has time."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def assert_stopped(lab: Lab, command: Command, started: float) -> None:
    """Everything has ended in time, and says so."""
    until(lambda: not lab.processes(), "the end of every process", seconds=2 * STOP_SECONDS)
    seconds = time.monotonic() - started
    print(f"stopped in {seconds:.1f} s")
    assert seconds <= STOP_SECONDS * crowding(), command.text()
    assert lab.trials(TrialState.RUNNING) == []
    assert {run.info.status for run in lab.runs() if PARENT not in run.data.tags} == {"KILLED"}
    assert not {run.info.status for run in lab.runs()} & {"RUNNING", "SCHEDULED"}
    # A trial is INTERRUPTED, or lost with a worker that did not stop in time: one that draws or packages cannot.
    assert {run.data.tags["reason"] for run in lab.runs() if run.info.status == "FAILED"} <= {"the worker was killed"}
    assert says_how_to_go_on(command.text()), command.text()
    assert "Traceback" not in command.text() or "mlflow" in command.process.args


def test_several_signals(lab: Lab) -> None:
    search = lab.search()
    until(lab.running, "a running trial")
    started = search.signal(TERM, INT, TERM)
    assert search.end() == 128 + TERM, search.text()
    assert_stopped(lab, search, started)


def test_an_interrupt_of_the_terminal(lab: Lab) -> None:
    """It reaches the search and its workers at the same moment."""
    search = lab.search()
    until(lab.running, "a running trial")
    started = time.monotonic()
    os.killpg(search.process.pid, INT)
    assert search.end() == 128 + INT, search.text()
    assert_stopped(lab, search, started)


def test_signals(lab: Lab) -> None:
    """Stopped among the trials, resumed, stopped in the final training, resumed: the search comes to its end."""
    search = lab.search()
    until(lab.running, "a running trial")
    started = search.signal(INT)
    assert search.end() == 128 + INT, search.text()
    assert_stopped(lab, search, started)

    search = lab.search(final_epochs=2000, workers=1)
    until(lab.final, "the final training")
    started = search.signal(TERM, TERM, INT)
    assert search.end() == 128 + TERM, search.text()
    assert_stopped(lab, search, started)
    assert {run.data.tags["trial.state"] for run in lab.runs("final")} == {"INTERRUPTED"}
    assert lab.versions() == []

    search = lab.search(workers=1)
    assert search.end() == 0, search.text()
    assert_ended_well(lab, goal=3)


@pytest.mark.parametrize(
    ("where", "signals"),
    [("start", [INT]), ("trials", [TERM]), ("final", [INT, INT])],
    ids=["start-int", "trials-term", "final-ints"],
)
def test_signals_to_mlflow_run(lab: Lab, where: str, signals: list[int]) -> None:
    """`mlflow run` dies of SIGTERM without a word to the search that it started, and after a SIGINT it would call the
    run FAILED."""
    search = lab.search(mlflow_run=True, trials=1, workers=1, final_epochs=2000)
    look = {"start": lambda: "reading films" in search.text(), "trials": lab.running, "final": lab.final}
    until(look[where], where)
    started = search.signal(*signals)
    assert search.end() != 0
    assert_stopped(lab, search, started)


def test_no_tracking_server_at_the_start(films: Path, tmp_path: Path) -> None:
    """Nothing is drawn, decoded or trained before somebody answers."""
    lab = Lab(tmp_path, films, tracking=NO_SERVER)
    started = time.monotonic()
    search = lab.start("search", "--data", "synthetic")
    code, seconds = search.end(60), time.monotonic() - started
    assert (code, search.text().count("\n")) == (1, 1)
    assert NO_SERVER in search.text()
    assert seconds <= 10 * crowding()
    assert list(lab.home.rglob("*.jpeg")) == list(lab.home.rglob("*.db")) == records(lab.home) == []


def test_the_tracking_server_dies_in_the_middle(server: TrackingServer, films: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", films, tracking=server.uri)
    try:
        search = lab.search()
        until(lab.running, "a running trial")
        server.kill()
        assert search.end() == 1, search.text()
        assert "pneumonia sync" in search.last_line()
        assert len(lab.done()) == 3
        server.start()
        sync = lab.start("sync")
        assert sync.end() == 0, sync.text()
        assert_ended_well(lab, goal=3)
        for record in records(lab.home / "records"):
            run = lab.client.get_run(sent(record)["run_id"])
            assert {name: value for name, value in run.data.metrics.items() if name in record.summary} == record.summary
            assert run.data.params == {name: str(value) for name, value in record.params.items()}
        again = lab.start("sync")
        assert again.end() == 0
        assert again.text().startswith("0 runs sent, 0 still to be sent")
    finally:
        lab.stop()


def test_no_number_and_no_memory(task: Task, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first trial's films turn into NaN, the second asks for more memory than there is; three others follow."""
    fit, augment = worker.run_training, loop.augment
    faults = [lambda films: films * float("nan"), lambda films: np.ones(2**50)]

    def faulty(*args: Any, **more: Any) -> float:
        with monkeypatch.context() as poisoned:
            if faults:
                fault = faults.pop(0)
                poisoned.setattr(loop, "augment", lambda *a, **k: fault(augment(*a, **k)))
            return fit(*args, **more)

    monkeypatch.setattr(worker, "run_training", faulty)
    worker.work(task, Stop())

    study = studies.load(
        connection.connect(task.storage), task.study, seed=0, pruner=pruning.pruner("none", 1, long=False)
    )
    every = studies.trials(study)
    assert [t.state for t in every[:2]] == [TrialState.FAIL, TrialState.FAIL]
    assert len(every) == 5
    assert all(t.state in studies.DONE for t in every[2:])
    no_number, no_memory = (t.user_attrs["reason"] for t in studies.failures(study))
    assert no_number.startswith("Diverged: the ")
    assert "step 1, learning rate" in no_number
    assert "MemoryError" in no_memory
    for trial, reason in zip(every[:2], (no_number, no_memory), strict=True):
        run = tracker.client.get_run(trial.user_attrs["run_id"])
        assert (run.info.status, run.data.tags["trial.state"]) == ("FAILED", "FAIL")
        assert run.data.tags["reason"] == shortened(reason, 500)
        assert run.data.params["lr"] == str(trial.params["lr"])


SEARCH_WITH_SHORT_LEASES = """
import os, sys
from pathlib import Path
from pneumonia import data, search
from pneumonia.config import SearchConfig
from pneumonia.runs.context import RunContext
from pneumonia.tracking.store import Tracker

films, home = sys.argv[1:]
config = SearchConfig(data=films, trials=3, epochs=2, final_epochs=2, workers=2, size=32, pruner="none")
config = config.for_data(cores=2, films=4400)
tracker = Tracker(os.environ["MLFLOW_TRACKING_URI"])
search.search(config, data.scan(films), RunContext(home=Path(home), tracker=tracker), heartbeat=1, grace=3)
"""


def test_a_worker_that_sleeps_past_its_lease(lab: Lab) -> None:
    """It is taken for dead, its trial given to another; when it wakes it drops the trial and goes on with the next."""
    environment = {**os.environ, "PNEUMONIA_HOME": str(lab.home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SEARCH_WITH_SHORT_LEASES, str(lab.films), str(lab.home)]
    process = subprocess.Popen(command, cwd=lab.folder, env=environment, start_new_session=True)
    try:
        trial = lab.delay()
        sleeper = trial.user_attrs["worker"]["pid"]
        until(lambda: len(lab.done()) == 3, "the other worker doing all of it")
        assert lab.trials()[trial.number].state == TrialState.FAIL
        os.kill(sleeper, signal.SIGCONT)
        assert process.wait(60) == 0
    finally:
        lab.stop()
    assert_ended_well(lab, goal=3)
    assert lab.trials()[trial.number].state == TrialState.FAIL
    again = [t for t in lab.trials() if t.system_attrs.get("retry_history") == [trial.number]]
    assert [(t.params, t.state in studies.DONE) for t in again] == [(trial.params, True)]
    run = lab.client.get_run(trial.user_attrs["run_id"])
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "the worker stopped responding")


def test_a_disk_that_is_full_for_a_while(films: Path, tracker: Tracker, tmp_path: Path) -> None:
    """The trials at hand fail and say why, their parameters are tried again when there is room, and nothing is lost."""
    lab = Lab(tmp_path, films, tracking=tracker.uri)
    with small_disk(lab.home, "400m") as home:
        try:
            search = lab.search(trials=4)
            until(lab.running, "a worker is at a trial")
            with full(home):
                time.sleep(6)
            assert search.end() == 0, search.text()
            assert_ended_well(lab, goal=4)
        finally:
            lab.stop()
    failed = [run for run in lab.runs("trial") if run.info.status == "FAILED"]
    assert failed
    assert all("the disk is full" in run.data.tags["reason"] for run in failed)


def test_a_disk_that_stays_full(films: Path, tracker: Tracker, tmp_path: Path) -> None:
    """One sentence with the path and the bytes, and how it goes on."""
    lab = Lab(tmp_path, films, tracking=tracker.uri, storage=f"sqlite:///{tmp_path / 'study.db'}")
    with small_disk(lab.home, "400m") as home:
        try:
            with full(home):
                search = lab.search()
                assert search.end() == 1
            said = re.search(
                r"^error: the disk is full: [\d,]+ bytes are needed at (/\S+)", search.text(), re.MULTILINE
            )
            assert said is not None, search.text()
            assert Path(said[1]).is_relative_to(home)
        finally:
            lab.stop()


def test_a_second_search_of_the_same_study_joins(lab: Lab) -> None:
    first = lab.search(trials=3, workers=1)
    trial = lab.delay()
    second = lab.search(trials=3, workers=1)
    until(lab.done, "a trial done by the second")
    os.kill(trial.user_attrs["worker"]["pid"], signal.SIGCONT)
    assert (first.end(), second.end()) == (0, 0), first.text() + second.text()
    assert "joins study" in second.text()
    assert_ended_well(lab, goal=3)
    assert len({t.user_attrs["worker"]["pid"] for t in lab.done()}) == 2  # both had a share
    assert len(lab.runs("search")) == 1


def test_two_searches_finish_at_once(lab: Lab, tmp_path: Path) -> None:
    """Of the same films, in different places: the better version is champion, whichever came first."""
    other = Lab(tmp_path / "other", lab.films, tracking=lab.tracking)
    try:
        pair = [one.search(trials=1, workers=1, seed=seed) for seed, one in enumerate((lab, other))]
        assert [search.end() for search in pair] == [0, 0], pair[0].text() + pair[1].text()
    finally:
        other.stop()
    versions = {version.version: version for version in lab.versions()}
    assert len(versions) == 2
    scores = {
        version: {name: float(value) for name, value in v.tags.items() if name.startswith("gate.log_loss.")}
        for version, v in versions.items()
    }
    tags = {name for score in scores.values() for name in score}
    assert len(tags) == 1  # scored on the same films
    (tag,) = tags
    best = min(scores, key=lambda version: scores[version][tag])
    assert lab.client.get_model_version_by_alias("pneumonia", "champion").version == best
