"""MLflow's own UI: links to its pages, and its server for a store without one."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import psutil

from pneumonia.runtime.messages import shortened

HOST, PORT = "127.0.0.1", 5000
START_SECONDS = 300.0  # a cold disk and a busy machine
END_SECONDS = 5.0  # for the server to end by itself
SMALL = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # with one worker 0.8 GB instead of 2.9
TRAINING_VIEW = {"workflowType": "machine_learning"}  # of the UI, which opens in the GenAI half otherwise


class UiError(RuntimeError):
    """MLflow's UI cannot be started; the sentence says why and what to do."""


def is_served(uri: str) -> bool:
    """Whether a tracking URI is a server's, which has the UI already."""
    return uri.startswith(("http://", "https://"))


def address(uri: str, *, host: str = HOST, port: int = PORT) -> str:
    """Where the UI of a tracking store is: the server itself, without a password, or where `serve` makes one."""
    if is_served(uri):
        parts = urlsplit(uri.rstrip("/"))
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    shown = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104  # nothing listens there for being shown
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def run_link(at: str, experiment_id: str, run_id: str) -> str:
    """The page of a run in the UI at the address `at`."""
    return f"{at}/#/experiments/{experiment_id}/runs/{run_id}?{urlencode(TRAINING_VIEW)}"


def view_link(at: str, experiment_id: str, view: str = "trials") -> str:
    """A saved view of an experiment (see `views`): `trials`, `curves`, `films`, or the id of a run above others."""
    charts = {"compareRunsMode": "CHART"} if view in ("curves", "films") else {}
    query = urlencode({**TRAINING_VIEW, "viewStateShareKey": view, **charts})
    return f"{at}/#/experiments/{experiment_id}/runs?{query}"


def version_link(at: str, name: str, version: str) -> str:
    """The page of a version of a registered model."""
    return f"{at}/#/models/{quote(name)}/versions/{version}?{urlencode(TRAINING_VIEW)}"


def compare_link(at: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that compares runs of an experiment."""
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id]), **TRAINING_VIEW}
    return f"{at}/#/compare-runs?{urlencode(query)}"


def free_port(host: str, port: int) -> int:
    """`port`, or any free one if that is 0.

    Raises:
        UiError: it is taken.
        ValueError: there is no such address on this machine, or no such port.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    at = address("", host=host, port=port)
    taken = UiError(
        f"port {port} is taken, perhaps by a UI that runs already at {at}: look there, or give another with --port"
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            got = int(one.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise taken from None
        raise ValueError(f"nothing can listen at {host}, port {port}: {error.strerror or error}") from None
    with socket.socket(family) as one:  # some systems let a second socket bind a port in use
        one.settimeout(2)
        if port and one.connect_ex((urlsplit(at).hostname, port)) == 0:
            raise taken
    return got


@contextmanager
def server(uri: str, *, host: str = HOST, port: int = PORT, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server for the store `uri`, answering when the block begins and gone, with all that it started, when it
    ends. What it says is written to `log`.

    Experiments that are made in the UI keep their files in ./mlruns, where a training without a server finds them.

    Raises:
        UiError: it does not start.
    """
    words = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    stores = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(Path("mlruns").absolute())}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # In this process's group, so that a terminal that is closed ends the server as well.
        process = subprocess.Popen(words, env={**os.environ, **SMALL, **stores}, stdout=output, stderr=output)
    processes = [psutil.Process(process.pid)]
    try:
        _wait_until_up(process, address(uri, host=host, port=port), log)
        processes += processes[0].children(recursive=True)
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            processes += processes[0].children(recursive=True)
        _end(processes)
        process.wait()


def ended(log: Path) -> UiError:
    """The error for a server that ended by itself: the last error in its log, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    last = (errors or lines or ["it said nothing"])[-1]
    return UiError(f"MLflow's server ended by itself: {shortened(last, 300)}")


def _wait_until_up(process: "subprocess.Popen[bytes]", at: str, log: Path) -> None:
    import requests  # takes 0.1 s to import, only needed here

    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ended(log)
        with suppress(requests.RequestException):
            if requests.get(f"{at}/health", timeout=2).ok:
                return
        time.sleep(0.1)
    raise UiError(f"MLflow's server does not answer after {START_SECONDS:.0f} s; {log} has what it says")


def _end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=END_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
