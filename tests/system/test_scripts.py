"""The scripts of docs/deploy for many machines, started as SLURM and ssh start them, with their words and variables."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.command import Lab, until
from tests.conftest import ROOT, TrackingServer
from tests.servers import PostgresServer
from tests.system.test_postgres import postgres  # noqa: F401  # a fixture

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.long]

DEPLOY = ROOT / "docs" / "deploy"
OPTIONS = ["--size", "32", "--trials", "4", "--epochs", "2", "--final-epochs", "3", "--pruner", "none"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def lab(
    postgres: PostgresServer,  # noqa: F811
    server: TrackingServer,
    films: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Lab:
    """What is to be seen of a search in PostgreSQL and a real tracking server."""
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())
    return Lab(tmp_path / "lab", films, tracking=server.uri, storage=postgres.create(name))


@pytest.fixture
def start(lab: Lab, tmp_path: Path) -> Iterator[Start]:
    """Starts a script with the variables that it asks for, and ends what is left of it."""
    program = tmp_path / "bin" / "pneumonia"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pneumonia "$@"\n')
    # What ssh does at the other end, without the way there: one line for a shell, of a machine with a home of its own.
    (tmp_path / "bin" / "ssh").write_text(
        '#!/bin/sh\nwhile [ "$1" = -o ]; do shift 2; done\n'
        'export PNEUMONIA_HOME="$HOME/homes/$1"\nshift\nexec sh -c "$*"\n'
    )
    for path in program.parent.iterdir():
        path.chmod(0o755)
    started: list[subprocess.Popen[str]] = []

    def begin(script: str, *words: str, **variables: str) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            **{"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            **{"MLFLOW_TRACKING_URI": lab.tracking, "STORAGE": str(lab.storage), "DATA": str(lab.films)},
            **{"PROGRAM": str(program), **variables},
        }
        started.append(
            subprocess.Popen(
                [str(DEPLOY / script), *words],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def check_whole(lab: Lab) -> None:
    """The count is exact, each trial has its one run, and one version is champion."""
    assert len(lab.done()) == 4
    assert lab.trials(TrialState.RUNNING) == []
    runs = lab.runs()
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert Counter(run.data.tags["role"] for run in runs) == {"search": 1, "trial": 4, "final": 1}
    assert [version.aliases for version in lab.versions()] == [["champion"]]


def test_an_array_of_slurm(lab: Lab, start: Start, tmp_path: Path) -> None:
    """Two tasks share a search; started again when it is done, a task has nothing to do, or says so."""
    tasks = [
        start(
            "slurm/search.sbatch",
            *OPTIONS,
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_ARRAY_JOB_ID="7",
            SLURM_CPUS_PER_TASK="1",
            SLURMD_NODENAME=f"node{number}",
        )
        for number in (0, 1)
    ]
    said = [task.communicate(timeout=600)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], "\n".join(said)
    assert [text.splitlines()[0] for text in said] == [f"task {n} of job 7 on node{n}" for n in (0, 1)]
    assert sum("joins study" in text for text in said) == 1
    check_whole(lab)
    assert len({trial.user_attrs["worker"]["pid"] for trial in lab.done()}) == 2
    homes = tmp_path / ".local" / "share" / "pneumonia" / "slurm"
    assert sorted(path.name for path in homes.iterdir()) == ["task-0", "task-1"]


def test_a_task_whose_time_is_up_is_gone_on_with(lab: Lab, start: Start) -> None:
    """SLURM signals the script, in whose place the program is."""
    task = start("slurm/search.sbatch", *OPTIONS, SLURM_ARRAY_TASK_ID="0", SLURM_CPUS_PER_TASK="1")
    until(lab.done, "a trial done")
    before = time.monotonic()
    task.terminate()
    said = task.communicate(timeout=60)[0]
    assert task.returncode == 143
    assert time.monotonic() - before < 15
    assert "the same command resumes from here" in said
    again = start("slurm/search.sbatch", *OPTIONS, SLURM_ARRAY_TASK_ID="0", SLURM_CPUS_PER_TASK="1")
    said = again.communicate(timeout=600)[0]
    assert again.returncode == 0, said
    assert len(lab.done()) == 4
    assert Counter(run.info.status for run in lab.runs())["RUNNING"] == 0


def test_machines_that_are_reached_by_ssh(lab: Lab, start: Start) -> None:
    """The first is stopped by the connection's end, as are all; the same command goes on with what there is."""
    words = ("ssh/search-on", "one", "me@two", "--", *OPTIONS, "--workers", "1")
    command = start(*words)
    until(lab.done, "a trial done")
    command.terminate()
    said = command.communicate(timeout=60)[0]
    assert command.returncode == 143, said
    assert said.count("the same command resumes from here") == 2
    assert {line.split(" | ")[0] for line in said.splitlines()} == {"one", "me@two"}
    assert re.search(r"^one \| .*films: 100%", said, flags=re.MULTILINE)
    again = start(*words)
    said = again.communicate(timeout=600)[0]
    assert again.returncode == 0, said
    assert len(lab.done()) == 4
    assert Counter(run.info.status for run in lab.runs())["RUNNING"] == 0
    assert [version.aliases for version in lab.versions()] == [["champion"]]


def test_what_is_missing_is_said_before_anything_starts(start: Start) -> None:
    for script, words in (("slurm/search.sbatch", []), ("ssh/search-on", ["one"])):
        for name in ("STORAGE", "DATA", "MLFLOW_TRACKING_URI"):
            process = start(script, *words, **{name: ""})
            assert f"{name}: is the" in process.communicate(timeout=10)[0]
            assert process.returncode != 0
    assert start("ssh/search-on").wait(10) == 2
    assert shutil.which("bash")
