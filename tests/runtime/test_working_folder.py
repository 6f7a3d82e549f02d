"""Projects as MLflow means them: run from a folder of the user's own, by a path or a git address."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from pneumonia.runtime import working_folder
from tests.command import Command, until
from tests.conftest import ROOT

ADDRESS = "https://git.invalid/lab/pneumonia.git"
TINY = {"trials": 3, "epochs": 2, "final_epochs": 3, "size": 32, "workers": 1, "pruner": "none", "gallery": "false"}


class Typed:
    """What a user types in a folder of theirs, with the program's defaults for the store and for what is kept."""

    def __init__(self, folder: Path, bare: Path) -> None:
        self.folder, self.data, self.commands = folder, folder.parent / "data", list[Command]()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PNEUMONIA_"))},
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_DATA_HOME": str(self.data),
            # what git would fetch from the address comes from a folder
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{bare}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
        }

    def type(self, *words: str) -> Command:
        log = self.folder.parent / f"command-{len(self.commands)}.log"
        command = [sys.executable, "-m", *words]
        self.commands.append(Command(command, cwd=self.folder, environment=self.environment, log=log))
        return self.commands[-1]

    def mlflow_run(self, project: str, *entry_point: str, **parameters: object) -> Command:
        pairs = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
        where = ["--env-manager", "local", "--experiment-name", "pneumonia"]
        return self.type("mlflow", "run", project, *where, *entry_point, *pairs)


@pytest.fixture
def typed(films: Path, tmp_path: Path) -> Iterator[Typed]:
    checkout, bare, folder = tmp_path / "checkout", tmp_path / "bare.git", tmp_path / "third folder"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).exists() and not name.startswith("experiments/"):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-qm", "as it is"],
        ["clone", "-q", "--bare", ".", str(bare)],
    ):
        subprocess.run([*git, *words], cwd=checkout, check=True)
    shutil.copytree(films, folder / "my films")
    typed = Typed(folder, bare)
    yield typed
    for command in typed.commands:
        command.kill()


def done(typed: Typed) -> set[str]:
    """The runs of the trials that came to their end; looked for without MLflow, which would make the database too."""
    database = f"{(typed.folder / 'mlflow.db').as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(database, uri=True)) as store:
            rows = store.execute(
                "SELECT state.run_uuid FROM tags AS state JOIN tags AS role ON role.run_uuid = state.run_uuid WHERE "
                "state.key = 'trial.state' AND state.value = 'COMPLETE' AND role.key = 'role' AND role.value = 'trial'"
            )
            return {run_id for (run_id,) in rows}
    except sqlite3.OperationalError:  # not there yet
        return set()


@pytest.mark.slow
def test_a_project_by_its_git_address_and_by_its_path(typed: Typed) -> None:
    """Killed in the middle of a search, resumed from another clone; what comes of it stands where the user is."""
    search = typed.mlflow_run(ADDRESS, data="my films", **TINY)
    until(lambda: done(typed), "a trial that is done")
    search.kill()
    before = done(typed)
    assert len(before) < 3
    again = typed.mlflow_run(ADDRESS, data="my films", **TINY)
    assert again.end() == 0, again.text()
    assert "resumes study" in again.text()
    assert before < done(typed)
    assert len(done(typed)) == 3
    assert {path.name for path in typed.folder.iterdir()} == {"my films", "mlflow.db", "mlruns"}
    (home,) = (typed.data / "pneumonia").glob("*/")
    assert (home / "study.db").exists()

    sync = typed.type("pneumonia", "sync")  # by hand in the same folder: of the same store
    assert sync.end() == 0
    assert "0 runs sent, 0 still to be sent" in sync.text()
    assert [path.name for path in (typed.data / "pneumonia").glob("*/")] == [home.name]

    film, other = (
        sorted((typed.folder / "my films").rglob("test/**/*.jpeg"))[at].relative_to(typed.folder) for at in (0, -1)
    )
    shutil.copy(typed.folder / other, typed.folder / "b.jpeg")
    one = typed.mlflow_run(str(ROOT), "-e", "predict", inputs=f"{film} b.jpeg", output="out.csv")
    assert one.end() == 0, one.text()
    assert pd.read_csv(typed.folder / "out.csv")["path"].tolist() == [str(film), "b.jpeg"]

    nowhere = typed.mlflow_run(str(ROOT), "-e", "eda", data="no films")
    assert nowhere.end() == 1
    assert f"there is nothing at {typed.folder / 'no films'}, nor at {ROOT / 'no films'}" in nowhere.text()
    program = f"import mlflow; mlflow.projects.run({str(ROOT)!r}, 'predict', env_manager='local', parameters="
    program += "{'inputs': 'b.jpeg', 'output': 'again.csv'})"
    script = typed.folder.parent / "script.py"
    script.write_text(program)
    called = Command(
        [sys.executable, str(script)], cwd=typed.folder, environment=typed.environment, log=script.with_suffix(".log")
    )
    assert called.end() == 0, called.text()
    assert (typed.folder / "again.csv").exists()


def test_a_path_is_the_caller_s_and_else_the_project_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (project / "data", project / "films", here / "films"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(working_folder, "PROJECT", project)
    assert [working_folder.located(text) for text in ("films", "data")] == ["films", "data"]
    monkeypatch.setattr(working_folder, "typed_in", lambda: here)
    assert working_folder.located("films") == "films"
    assert working_folder.located("data") == str(project / "data")
    assert working_folder.located("none") == "none"
    assert working_folder.located("models:/pneumonia@champion") == "models:/pneumonia@champion"
    assert working_folder.located("s3://bucket//model") == "s3://bucket//model"
    assert working_folder.looked_in("none") == f"{here / 'none'}, nor at {project / 'none'}"
    assert working_folder.looked_in(str(here / "none")) == str(here / "none")


def test_an_optional_part_is_installed_as_the_program_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"cloud", "pretrained"} <= set(extras)
    assert working_folder.install_extra("cloud") == "uv sync --inexact --extra cloud"
    monkeypatch.setattr(working_folder, "PROJECT", tmp_path)
    assert working_folder.install_extra("cloud") == "pip install 'pneumonia[cloud]'"


def test_a_run_s_id_alone_moves_nobody(tmp_path: Path) -> None:
    """As where a user's own script gives it, and starts the program in another folder than its own."""
    code = "import os; from pneumonia.runtime import working_folder as caller; caller.go_there(); print(os.getcwd())"
    environment = {**os.environ, "MLFLOW_RUN_ID": "1" * 32, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(tmp_path)
