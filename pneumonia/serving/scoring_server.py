"""MLflow's scoring server for one version of a model, as a process of this machine, and whether it answers rightly."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from mlflow.models.utils import SERVING_INPUT_FILENAME

from pneumonia.runtime import processes
from pneumonia.runtime.messages import shortened
from pneumonia.tracking.ui import UiError, address, free_port

HOST = "127.0.0.1"
START_SECONDS = 300.0  # a cold disk and a busy machine
ENVIRONMENT_SECONDS = 1800.0  # the same where MLflow makes an environment for the version first
ANSWER_SECONDS = 60.0
STOP_SECONDS = 10.0
TOLERANCE = 1e-4  # in probability, between what a server answers and what the model says outside it
SAID_LINES, SAID_LETTERS = 30, 300


class PortError(RuntimeError):
    """A port is taken; the message is one sentence."""


class NotServed(RuntimeError):
    """A version cannot be served; the message continues a sentence that begins with its name."""


@dataclass(frozen=True)
class Options:
    """How MLflow's server is started."""

    host: str = HOST
    workers: int = 1
    env_manager: str = "local"


class ScoringServer:
    """`mlflow models serve` of a model's folder.

    A version is taken when it gives the same answer to its own example as `mlflow models predict` does, which is
    started beside it, and when that answer makes sense.

    Args:
        model: the name of the registered model.
        version: its number there.
        folder: the model's files, which are this server's own: they go when it is stopped.
        port: where it answers.
        say: gets each line that the server writes.
    """

    def __init__(
        self, model: str, version: str, folder: Path, port: int, options: Options, say: Callable[[str], None]
    ) -> None:
        self.name, self.version = f"{model} version {version}", version
        self.folder, self.port, self.options = folder, port, options
        self._environment = {
            "UVICORN_LOG_LEVEL": "warning",
            **os.environ,
            "PATH": _path(),
            "PNEUMONIA_VERSION": f"{model}/{version}",  # see `served.answer_log`
        }
        self._say = say
        self._said: deque[str] = deque(maxlen=SAID_LINES)
        self._server: subprocess.Popen[bytes] | None = None
        self._alone: subprocess.Popen[bytes] | None = None  # scores the example outside the server
        self._began = 0.0
        self._told = False  # that it should end, of which MLflow's command complains

    def start(self, *, check: bool = True) -> None:
        """Starts the process, which takes some seconds until it answers.

        Args:
            check: whether `is_right` will be asked.

        Raises:
            NotServed: something else listens at the port, or the model has no example.
        """
        try:
            free_port(self.options.host, self.port)
        except (UiError, ValueError) as error:
            raise NotServed(f"cannot start: something else listens at port {self.port}") from error
        self._said.clear()
        self._told = False
        self._began = time.monotonic()
        if check:
            example = self.folder / SERVING_INPUT_FILENAME
            if not example.is_file():
                raise NotServed(f"has no example to be tried with ({SERVING_INPUT_FILENAME})")
            self._own_answer.unlink(missing_ok=True)
            self._alone = self._run("predict", "-i", str(example), "-t", "json", "-o", str(self._own_answer))
        if not check or self.options.env_manager == "local":  # else both would make the same environment at once
            self._serve()

    def _serve(self) -> None:
        self._began = time.monotonic()
        words = ("-h", self.options.host, "-p", str(self.port), "-w", str(self.options.workers))
        self._server = self._run("serve", *words)

    @property
    def _at(self) -> str:
        return address("", host=self.options.host, port=self.port)

    @property
    def _own_answer(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.answer.json")

    def _run(self, what: str, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "mlflow", "models", what, "-m", str(self.folder)]
        environment = dict(self._environment)
        if what != "serve":
            for counted in ("PNEUMONIA_ANSWERS", "PROMETHEUS_MULTIPROC_DIR"):  # it is no answer that anybody gets
                environment.pop(counted, None)
        process = processes.start(
            [*command, *words, "--env-manager", self.options.env_manager],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        threading.Thread(target=self._hear, args=(process, what == "serve"), daemon=True).start()
        return process

    def _hear(self, process: "subprocess.Popen[bytes]", tell: bool) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            self._said.append(text)
            if tell and text and not self._told:
                self._say(f"{self.name} | {text}")

    def answers(self) -> bool:
        """Whether it says within two seconds that it is there."""
        with suppress(requests.RequestException):
            return requests.get(f"{self._at}/ping", timeout=2).ok
        return False

    def is_up(self) -> bool:
        """Whether it answers.

        Raises:
            NotServed: it has ended, or takes too long.
        """
        if not self.alive():
            raise NotServed(f"does not start: {self._last_words()}")
        if self.answers():
            return True
        if time.monotonic() - self._began > START_SECONDS:
            raise NotServed(f"does not answer after {START_SECONDS:.0f} s")
        return False

    def is_right(self) -> bool:
        """Whether it answers its own example rightly; False while that is not known yet.

        Raises:
            NotServed: it does not, has ended, or takes too long.
        """
        up = self._server is not None and self.is_up()
        assert self._alone is not None
        if self._alone.poll() is None:
            limit = START_SECONDS if self._server is not None else ENVIRONMENT_SECONDS
            if time.monotonic() - self._began > limit:
                raise NotServed(f"does not score its own example within {limit:.0f} s")
            return False
        if self._alone.returncode != 0 or not self._own_answer.is_file():
            raise NotServed(f"cannot score its own example: {self._last_words()}")
        if self._server is None:
            self._serve()
        if not up:
            return False
        own, served = json.loads(self._own_answer.read_text(encoding="utf-8")), self._answer()
        if not alike(own, served):
            raise NotServed("answers its own example otherwise than the model does outside the server")
        if (fault := nonsense(served, _package(self.folder))) is not None:
            raise NotServed(f"answers its own example wrongly: {fault}")
        return True

    def _answer(self) -> Any:
        """What the server says of the model's example."""
        example = (self.folder / SERVING_INPUT_FILENAME).read_bytes()
        url, headers = f"{self._at}/invocations", {"Content-Type": "application/json"}
        try:
            answer = requests.post(url, data=example, headers=headers, timeout=ANSWER_SECONDS)
            if answer.ok:
                return answer.json()
        except (requests.RequestException, ValueError) as error:
            raise NotServed(f"does not answer its own example: {type(error).__name__}") from error
        raise NotServed(f"answers its own example with HTTP {answer.status_code}")

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._said if line.strip()]
        errors = [line for line in lines if "error" in line.lower() or "exception" in line.lower()]
        # The last line of MLflow's command is of the command that it started, and not of what went wrong there.
        own = [line for line in errors if not line.startswith("Exception: Command")]
        return shortened((own or errors or lines or ["it said nothing"])[-1], SAID_LETTERS)

    def alive(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def is_busy(self) -> bool:
        """Whether somebody is connected to it."""
        try:
            return any(
                connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == self.port
                for process in ([] if self._server is None else processes.tree(self._server))
                for connection in process.net_connections("tcp")
            )
        except psutil.Error:  # it has just ended, or the system does not tell
            return self.alive()

    def restart(self) -> None:
        """Starts it again at its port, after it died, hangs, or was given another one.

        Raises:
            NotServed: something else listens there by now.
        """
        if self._server is not None:
            processes.kill(self._server)  # or what is left of it
        self.start(check=False)

    def ask_to_stop(self) -> None:
        """It ends when it has answered what it was asked."""
        self._told = True
        if self._server is not None:
            processes.ask_to_end(self._server)

    def stop(self) -> None:
        """Ends it for good, within seconds, and returns when it and its files are gone."""
        self._told = True
        if self._alone is not None:
            processes.kill(self._alone)
        if self._server is not None:
            processes.end(self._server, seconds=STOP_SECONDS)
        self._own_answer.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def alike(one: Any, other: Any) -> bool:
    """Whether two answers are the same but for the last digits of their numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float) and not isinstance(one, bool):
        return abs(one - other) <= TOLERANCE
    return bool(one == other)


def nonsense(answer: Any, package: Mapping[str, Any]) -> str | None:
    """What is wrong with the answer of a model of this program in itself; None where nothing is.

    Args:
        package: the settings in its package.json; empty for a model of another kind.
    """
    found = answer.get("predictions") if isinstance(answer, Mapping) else None
    if not isinstance(found, list) or not found:
        return "it holds no predictions"
    for prediction in found if package else ():
        probability, threshold = prediction.get("probability"), prediction.get("threshold")
        if not isinstance(probability, int | float) or not 0 <= probability <= 1:  # NaN too
            return f"the probability is {probability}"
        if not isinstance(threshold, int | float) or not math.isclose(threshold, package["threshold"]):
            return f"the threshold is {threshold}, but {package['threshold']} in the package"
        label = package["classes"][int(probability >= threshold)]
        if prediction.get("label") != label:
            return f"the label is {prediction.get('label')} at probability {probability:.4f}, threshold {threshold:.4f}"
    return None


def _package(folder: Path) -> dict[str, Any]:
    path = folder / "artifacts" / "package" / "package.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return settings


def _path() -> str:
    """PATH with the programs of this Python's environment first, where MLflow looks for uvicorn."""
    return os.pathsep.join(filter(None, (str(Path(sys.executable).parent), os.environ.get("PATH"))))


def free_ports(host: str, port: int) -> tuple[int, int, int]:
    """`port` at `host` and the next two on this machine, all free; any free ones if that is 0.

    Raises:
        PortError: one is taken.
        ValueError: there is no such address or port.
    """
    found = []
    for at, number in ((host, port), (HOST, port and port + 1), (HOST, port and port + 2)):
        try:
            found.append(free_port(at, number))
        except UiError as error:
            raise PortError(
                f"port {number} is taken: --port N needs N and the two after it, one for each server"
            ) from error
    return found[0], found[1], found[2]
