"""Real servers for tests and for `experiments/chaos.py`: MLflow's, and PostgreSQL's."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # as the command line sets them
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)
USER = "postgres"
LOOPBACK = "127.0.0.1"


def free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


@contextmanager
def running_postgres(*, host: str = LOOPBACK, settings: str = "") -> Iterator["PostgresServer"]:
    """A server in a folder of its own for as long as the block lasts; `settings` are lines of postgresql.conf."""
    folder = Path(tempfile.mkdtemp(prefix="pneumonia-postgres-"))  # not pytest's, which only root may enter
    try:
        server = PostgresServer(folder, host=host, settings=settings)
        try:
            server.start()
            yield server
        finally:
            with suppress(subprocess.SubprocessError):  # the block has stopped it
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_tracker(folder: Path, *, host: str = LOOPBACK) -> Iterator["TrackingServer"]:
    """MLflow's server, whose database and files are in `folder`, for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    server = TrackingServer(folder, host=host)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class PostgresServer:
    """A PostgreSQL of one's own in a temporary folder, without passwords and without much care for its disk.

    It refuses to run as root, so there it runs as the user `postgres`. Whoever reaches `host` may connect.
    """

    def __init__(self, folder: Path, *, host: str = LOOPBACK, settings: str = "") -> None:
        self.folder, self.host, self.port = folder, host, free_port(host)
        if os.getuid() == 0:
            shutil.chown(folder, USER, USER)
        self._do("initdb", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C", "--no-sync")
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\nlisten_addresses = '{host}'\nunix_socket_directories = ''\nfsync = off\n")
            file.write(settings)
        with (folder / "data" / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet trust\n")

    def _do(self, program: str, *words: str) -> None:
        assert PROGRAMS is not None
        as_user = ["runuser", "-u", USER, "--"] if os.getuid() == 0 else []
        command = [*as_user, str(PROGRAMS / program), "-D", str(self.folder / "data"), *words]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        self._do("pg_ctl", "start", "-w", "-l", str(self.folder / "log"))

    def stop(self) -> None:
        """At once, as a crash: connections break and transactions are lost."""
        self._do("pg_ctl", "stop", "-w", "-m", "immediate")

    def url(self, database: str = USER) -> str:
        return f"postgresql+psycopg2://{USER}@{self.host}:{self.port}/{database}"

    def create(self, database: str) -> str:
        assert PROGRAMS is not None
        command = [str(PROGRAMS / "createdb"), "-h", self.host, "-p", str(self.port), "-U", USER, database]
        subprocess.run(command, check=True, timeout=60)
        return self.url(database)


class TrackingServer:
    """`mlflow server` on a free port with one worker; after `kill` it starts again on the same port."""

    def __init__(self, folder: Path, *, host: str = LOOPBACK) -> None:
        self.folder, self.host, self.port = folder, host, free_port(host)
        self.uri = f"http://{host}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, seconds: float = 120) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**environment, **ENVIRONMENT},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"mlflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=2).ok
        except requests.RequestException:
            return False

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the system, and nobody answers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL to the server and its workers; returns when the port is free."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        while self._answers():
            time.sleep(0.05)
