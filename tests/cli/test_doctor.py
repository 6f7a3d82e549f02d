"""The command `doctor`: a line a check, the command that mends it, the exit code."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from pneumonia.cli import cli, doctor
from pneumonia.runtime import working_folder
from pneumonia.tracking.store import Tracker
from tests.conftest import NO_SERVER, ROOT
from tests.guarded import Guard, guarded

STATES = {"ok", "note", "warning", "error"}


def run(*words: str):
    return CliRunner().invoke(cli, ["doctor", *words])


def test_where_nothing_is_wrong(tracker: Tracker) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    for line in lines:
        assert re.match(r"(ok|note|warning) +\w|" + " " * 26 + r"\$ ", line), line
    starts = {re.match(r"\w+ +[a-z ]+?  +", line).end() for line in lines if not line.startswith(" ")}
    assert starts == {26}  # aligned


def test_json_is_a_list_of_objects(tracker: Tracker) -> None:
    done = run("--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert len(found) > 12
    for one in found:
        assert one.keys() == {"name", "state", "sentence", "command"}
        assert one["state"] in STATES
        assert one["sentence"]


def test_an_error_is_told_with_the_command_that_mends_it(tracker: Tracker, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as opened:
        opened.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # of MLflow 1.0
        opened.commit()
    done = run()
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("error")]
    assert lines[at].startswith("error    tracking schema")
    assert lines[at + 1].strip() == f'$ uv run mlflow db upgrade "{tracker.uri}"'


def test_a_study_elsewhere(tracker: Tracker, tmp_path: Path) -> None:
    done = run("--json", "--storage", f"sqlite:///{tmp_path / 'other.db'}")
    assert [one["state"] for one in json.loads(done.stdout) if one["name"] == "study database"] == ["note"]
    done = run("--json", "--storage", "postgresql+psycopg2://me:s3cret@lab/base")
    assert done.exit_code == 1
    assert "s3cret" not in done.output


def test_a_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_SERVER)
    done = run("--json")
    assert done.exit_code == 1
    errors = [one["name"] for one in json.loads(done.stdout) if one["state"] == "error"]
    assert errors == ["tracking store"]


@pytest.mark.slow
def test_the_real_command_ends_in_time_where_a_server_hangs(tmp_path: Path, user_data: Path) -> None:
    with guarded(Guard(hangs=True)) as guard:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": guard.uri, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "pneumonia", "doctor", "--json"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1, done.stderr
    states = {one["name"]: one["state"] for one in json.loads(done.stdout)}
    assert states["tracking store"] == "error"
    assert states["python"] == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("pneumonia sync", "uv run pneumonia sync"),
        ("MLFLOW_TRACKING_URI=http://lab pneumonia sync", "MLFLOW_TRACKING_URI=http://lab uv run pneumonia sync"),
        ("pip install 'torch>=2'", "uv pip install 'torch>=2'"),
        ("ln -s a pneumonia", "ln -s a pneumonia"),
        ("", ""),
    ],
)
def test_commands_are_typed_by_uv_in_the_project(
    command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV", raising=False)
    assert doctor.typed(command) == shown
    monkeypatch.setattr(working_folder, "PROJECT", tmp_path)
    assert doctor.typed(command) == command
