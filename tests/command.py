"""`pneumonia` as its users start it: processes of their own in a folder of their own, watched from outside."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import optuna
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from optuna.trial import FrozenTrial, TrialState

from pneumonia.search import connection
from pneumonia.search import study as studies
from pneumonia.tracking.record import Record, records
from tests.conftest import ROOT

PATIENCE = 120.0  # seconds; what takes so long on any machine has gone wrong

T = TypeVar("T")


def until(look: Callable[[], T | None], what: str, *, seconds: float = PATIENCE) -> T:
    """Looks often until there is something to see, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.03)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class Command:
    """A running command in a process group of its own."""

    def __init__(self, words: list[str], *, cwd: Path, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            # What is started in a shell's background ignores SIGINT, and its children would: they get the default back.
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                self.process = subprocess.Popen(
                    words, cwd=cwd, env=environment, stdout=output, stderr=output, start_new_session=True
                )
            finally:
                signal.signal(signal.SIGINT, before)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")

    def last_line(self) -> str:
        return [line for line in self.text().splitlines() if line.strip()][-1]

    def end(self, seconds: float = PATIENCE) -> int:
        """Waits for the end and returns the exit code, negative for a signal."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds:.0f} s: {self.text()[-3000:]}") from None

    def signal(self, *signals: int, every: float = 0.15) -> float:
        """Sends the signals to the first process alone, one after the other; returns when the first was sent."""
        started = time.monotonic()
        for number, signum in enumerate(signals):
            if number:
                time.sleep(every)
            if self.process.poll() is None:
                os.kill(self.process.pid, signum)
        return started

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


class Lab:
    """A folder where `pneumonia` searches through a few films, and what is to be seen of that from outside.

    The films are so few and so small that a trial takes about two seconds. Its commands run under the host name `host`
    and in the network namespace `network`, where they are given.
    """

    def __init__(
        self,
        folder: Path,
        films: Path,
        *,
        tracking: str,
        storage: str | None = None,
        host: str | None = None,
        network: str | None = None,
    ) -> None:
        self.folder, self.films, self.tracking, self.storage = folder, films, tracking, storage
        self.host, self.network = host, network
        self.home = folder / "home"
        self.client = MlflowClient(tracking)
        self.commands: list[Command] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._study: optuna.Study | None = None

    def start(self, *words: str, mlflow_run: bool = False) -> Command:
        """Starts `pneumonia WORDS`, or `mlflow run` of the main entry point with the parameters WORDS."""
        program = [sys.executable, "-m", "pneumonia", *words]
        if mlflow_run:
            program = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"]
            program += ["--experiment-name", "pneumonia"]
            pairs = zip(words[1::2], words[2::2], strict=True)
            program += [w for name, value in pairs for w in ("-P", f"{name[2:].replace('-', '_')}={value}")]
        if self.host is not None:
            program = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.host, *program]
        if self.network is not None:
            program = ["ip", "netns", "exec", self.network, *program]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PNEUMONIA_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": self.tracking,
            "PYTHONUNBUFFERED": "1",
        }
        log = self.folder / f"command-{len(self.commands)}.log"
        self.commands.append(Command(program, cwd=self.folder, environment=environment, log=log))
        return self.commands[-1]

    def search(self, *, trials: int = 3, workers: int = 2, mlflow_run: bool = False, **more: Any) -> Command:
        """Starts the search; the same arguments make the same command."""
        settings = {
            **{"data": self.films, "size": 32, "trials": trials, "epochs": 2, "final-epochs": 3, "workers": workers},
            "pruner": "none",  # so that a trial's length depends on nothing
            **({"storage": self.storage} if self.storage else {}),
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return self.start("search", *words, mlflow_run=mlflow_run)

    def stop(self) -> None:
        for command in self.commands:
            command.kill()
        for process in self.processes():
            process.kill()

    def processes(self) -> list[psutil.Process]:
        """Every living process that a command of this folder started, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("PNEUMONIA_HOME") == str(self.home)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # ended, or somebody else's
                continue
        return found

    @property
    def study(self) -> optuna.Study | None:
        """The search's study, once it is there."""
        if self._study is None and (self.storage is not None or (self.home / "study.db").exists()):
            try:
                storage = optuna.storages.RDBStorage(
                    self.storage or f"sqlite:///{self.home / 'study.db'}", engine_kwargs={"pool_pre_ping": True}
                )
                names = optuna.get_all_study_names(storage)
            except Exception:  # its tables are being made at this moment
                return None
            if names:
                self._study = optuna.load_study(study_name=names[0], storage=storage)
        return self._study

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        if self.study is None:
            return []
        return connection.with_retries(lambda: self.study.get_trials(deepcopy=False, states=states or None))

    def done(self) -> list[FrozenTrial]:
        return self.trials(*studies.DONE)

    def running(self) -> FrozenTrial | None:
        """A trial that a worker is at and MLflow knows of."""
        return next((t for t in self.trials(TrialState.RUNNING) if "run_id" in t.user_attrs), None)

    def delay(self) -> FrozenTrial:
        """Stops a worker in the middle of a trial; SIGCONT lets it go on."""

        def stop() -> FrozenTrial | None:
            if (trial := self.running()) is None:
                return None
            os.kill(trial.user_attrs["worker"]["pid"], signal.SIGSTOP)
            if not self._locked() and self.trials()[trial.number].state == TrialState.RUNNING:
                return trial
            os.kill(trial.user_attrs["worker"]["pid"], signal.SIGCONT)
            return None

        return until(stop, "a worker at a trial")

    def _locked(self) -> bool:
        """Whether a process that was stopped takes a sqlite study's lock with it into its sleep."""
        if self.storage is not None:
            return False
        with closing(sqlite3.connect(self.home / "study.db", timeout=0.2)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    def final(self) -> Record | None:
        """The final training, while it runs and has seen an epoch."""
        found = [record for record in records(self.home / "records") if record.run.role == "final"]
        return next((record for record in found if record.status is None and record.metrics), None)

    def runs(self, role: str | None = None) -> list[Run]:
        experiment = self.client.get_experiment_by_name("pneumonia")
        return list(self.client.search_runs([experiment.experiment_id], f"tags.role = '{role}'" if role else ""))

    def versions(self) -> list[ModelVersion]:
        """Newest first, with their aliases, which a search leaves out."""
        found = self.client.search_model_versions("name = 'pneumonia'")
        return [self.client.get_model_version(v.name, v.version) for v in found]


def says_how_to_go_on(text: str) -> bool:
    """Exactly one line says how the search is resumed."""
    return len(re.findall(r"^.*the same command resumes from here.*$", text, flags=re.MULTILINE)) == 1
