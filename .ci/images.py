"""Tries what is in the images of docs/deploy, without an engine for containers.

    uv run python .ci/images.py

Their requirements are installed into an environment each and started with the commands of their Dockerfiles, MLflow's
server on a PostgreSQL with a password, and nginx with the front's configuration, where these programs are installed.
"""

import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pneumonia.synthetic import dataset  # noqa: E402
from tests import servers  # noqa: E402
from tests.system import test_serving  # noqa: E402

DEPLOY = ROOT / "docs" / "deploy"
PASSWORD = "only-for-this-trial"
START_SECONDS = 300


def environment(folder: Path, image: str) -> Path:
    """A fresh environment with an image's requirements and no more. Returns its programs' folder."""
    python = ("--python", str(folder / image))
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder / image)], check=True)
    wanted = str(DEPLOY / image / "requirements.txt")
    subprocess.run(["uv", "pip", "install", "--quiet", *python, "--requirement", wanted], cwd=folder, check=True)
    kilobytes = subprocess.run(["du", "-sk", str(folder / image)], check=True, capture_output=True, text=True).stdout
    print(f"{image}: {int(kilobytes.split()[0]) // 1024} MB installed", flush=True)
    return folder / image / "bin"


def command(image: str, changes: dict[str, str]) -> list[str]:
    """The CMD of an image's Dockerfile, with words, or parts of them, changed for this machine."""
    (text,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / image / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    words: list[str] = json.loads(text)
    for old, new in changes.items():
        assert any(old in word for word in words), old
        words = [word.replace(old, new) for word in words]
    return words


@contextmanager
def started(words: list[str], programs: Path, folder: Path, url: str, **variables: str) -> Iterator[None]:
    """An image's command, running in `folder` with its own programs and variables, and answering at `url`."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join((str(programs), os.environ["PATH"]))
    log = folder / f"{programs.parent.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(programs / words[0]), *words[1:]],
            cwd=folder,
            env={**kept, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{' '.join(words)} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.3)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


@contextmanager
def database() -> Iterator[str]:
    """Host and port of a PostgreSQL whose user `mlflow` has PASSWORD."""
    server = servers.PostgresServer(Path(tempfile.mkdtemp(prefix="pneumonia-images-")))
    server.start()
    try:
        psql = ["psql", "--quiet", "-h", "127.0.0.1", "-p", str(server.port), "-U", servers.USER]
        for statement in (f"CREATE ROLE mlflow LOGIN PASSWORD '{PASSWORD}'", "CREATE DATABASE mlflow OWNER mlflow"):
            subprocess.run([*psql, "-c", statement], check=True)
        (server.folder / "data" / "pg_hba.conf").write_text("host all mlflow 127.0.0.1/32 scram-sha-256\n")
        server._do("pg_ctl", "reload")
        yield f"127.0.0.1:{server.port}"
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def train(folder: Path, tracking: str) -> None:
    """Registers a small model at the server, as its users do from their own environment."""
    films = dataset.write(folder / "films", seed=0, train=64, test=16)
    (test,) = films.rglob("test")
    variables = {"MLFLOW_TRACKING_URI": tracking, "PNEUMONIA_HOME": str(folder / "home")}
    words = ["search", "--data", str(films), "--trials", "1", "--epochs", "1", "--final-epochs", "1", "--size", "32"]
    for rest in (
        [*words, "--workers", "1"],
        ["predict", "--model", "models:/pneumonia@champion", "-o", str(folder / "expected.csv"), str(test)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pneumonia", *rest],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"pneumonia {rest[0]} failed:\n{done.stdout}{done.stderr}")


def score(url: str, expected: Path) -> None:
    """Films are answered as `predict` does, and what is none is refused in one sentence."""
    with expected.open(newline="") as table:
        rows = list(csv.DictReader(table))
    records = [{"image": base64.b64encode(Path(row["path"]).read_bytes()).decode()} for row in rows]
    answer = requests.post(f"{url}/invocations", json={"dataframe_records": records}, timeout=60)
    assert answer.status_code == 200, answer.text
    for row, found in zip(rows, answer.json()["predictions"], strict=True):
        assert abs(float(row["probability"]) - found["probability"]) < 1e-4, (row, found)
        assert row["label"] == found["label"], (row, found)
    text = {"image": base64.b64encode(b"no film").decode()}
    bad = requests.post(f"{url}/invocations", json={"dataframe_records": [text]}, timeout=60)
    assert bad.status_code == 400, bad.text
    assert bad.json()["message"].startswith("record 0: "), bad.text


def front(conf: Path, backend: str) -> None:
    """What the front's Dockerfile copies beside the shipped files, with this machine's address in it."""
    text = (DEPLOY / "front" / "serving.switch").read_text(encoding="utf-8")
    assert "serving:5001" in text
    (conf / "serving.switch").write_text(text.replace("serving:5001", backend), encoding="utf-8")


def main(folder: Path) -> None:
    tracking, serving = environment(folder, "tracking"), environment(folder, "serving")
    ports = {name: str(test_serving.free_port()) for name in ("tracking", "serving")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    changes = {"5000": ports["tracking"], "0.0.0.0": "127.0.0.1", "/artifacts": str(folder / "artifacts")}
    with ExitStack() as stack:
        if servers.PROGRAMS is not None and (os.getuid() != 0 or shutil.which("runuser")):
            host, kind = stack.enter_context(database()), "PostgreSQL"
            changes |= {"@database/": f"@{host}/"}
        else:
            changes |= {"postgresql+psycopg2://mlflow@database/mlflow": f"sqlite:///{folder / 'mlflow.db'}"}
            kind = "sqlite, since PostgreSQL is not installed"
        stack.enter_context(
            started(
                command("tracking", changes),
                tracking,
                folder,
                f"{urls['tracking']}/health",
                PGPASSWORD=PASSWORD,
                MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
                MLFLOW_SERVER_ALLOWED_HOSTS=f"127.0.0.1:{ports['tracking']}",
            )
        )
        print(f"MLflow's server answers, on {kind}", flush=True)
        stranger = {"Host": "example.org"}
        assert requests.get(urls["tracking"], headers=stranger, timeout=30).status_code == 403
        train(folder, urls["tracking"])
        stack.enter_context(
            started(
                command("serving", {"5001": ports["serving"], "0.0.0.0": "127.0.0.1"}),
                serving,
                folder,
                f"{urls['serving']}/ping",
                MLFLOW_TRACKING_URI=urls["tracking"],
                MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
                PNEUMONIA_ANSWERS=str(folder / "answers"),
            )
        )
        score(urls["serving"], folder / "expected.csv")
        assert any(path.stat().st_size for path in (folder / "answers").iterdir())
        print("the scoring server answers as `predict` does, refuses what is no film, and keeps its log", flush=True)
        if test_serving.NGINX is None or not test_serving.JS_MODULE.exists():
            print("nginx or its JavaScript module is not installed: the front is not tried")
            return
        (folder / "nginx").mkdir()
        backend = urls["serving"].removeprefix("http://")
        nowhere = f"127.0.0.1:{test_serving.free_port()}"
        url, _ = stack.enter_context(
            test_serving.nginx(nowhere, folder / "nginx", prepare=lambda conf: front(conf, backend))
        )
        score(url, folder / "expected.csv")
        print("so does nginx in front of it", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
