"""A marked secret in every place where one may stand is found in no output, record, store or process list."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pneumonia.cli import cli
from pneumonia.runs.context import RunContext
from pneumonia.runtime.signals import Stop
from pneumonia.search import worker
from pneumonia.tracking.record import Run
from pneumonia.tracking.store import Tracker, finished
from tests.command import Lab, until
from tests.conftest import TrackingServer

pytestmark = pytest.mark.slow

MARK = "hunter2"
LOGIN = f"ada:{MARK}%40home@"  # a password with an @ in it
VARIABLES = {
    "PGPASSWORD": f"{MARK}-of-the-database",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-of-the-tracker",
    "MLFLOW_TRACKING_TOKEN": f"{MARK}-token",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}/key+",
    "PNEUMONIA_TOKEN": f"{MARK}-of-the-model",
}


def with_login(uri: str) -> str:
    return uri.replace("://", f"://{LOGIN}")


def check_clean(*folders: Path) -> None:
    """No file below holds the mark, nor has it in its name."""
    looked = 0
    for folder in folders:
        for path in folder.rglob("*"):
            assert MARK not in path.name, path
            if path.is_file():
                looked += 1
                assert MARK.encode() not in path.read_bytes(), path
    assert looked


@pytest.fixture
def lab(server: TrackingServer, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    for name, value in VARIABLES.items():
        if not name.startswith("MLFLOW"):  # which would take the place of the login in the address
            monkeypatch.setenv(name, value)
    lab = Lab(tmp_path / "lab", films, tracking=with_login(server.uri))
    yield lab
    lab.stop()


def test_a_search_whose_tracker_has_a_login_and_goes_away(lab: Lab, server: TrackingServer, tmp_path: Path) -> None:
    search = lab.search(trials=3)
    until(lab.running, "a trial")
    seen = [" ".join(process.cmdline()) for process in lab.processes()]
    assert len(seen) >= 3
    assert not any(MARK in words for words in seen)
    server.kill()
    until(lambda: len(lab.done()) == 3, "the trials done without it")
    search.end()
    server.start()
    assert lab.start("sync").end() == 0
    assert lab.start("evaluate", "--model", "models:/pneumonia@nobody", "--data", str(lab.films)).end() == 2
    assert lab.start("search", "--storage", f"postgresql+psycopg2://me:{MARK}@127.0.0.1:1/db").end() == 1
    server.kill()
    assert lab.start("train", "--data", str(lab.films)).end() == 1
    check_clean(tmp_path)


@pytest.mark.parametrize(
    "uri",
    [
        f"http://{LOGIN}127.0.0.1:1",
        f"http://ada:{MARK}/{MARK}@127.0.0.1:1",
        f"postgresql://{LOGIN}127.0.0.1:1/mlflow",
        f"postgresql://ada:{MARK}@{MARK}-more@127.0.0.1:1/mlflow",
        f"postgresql://127.0.0.1:1/mlflow?user=ada&password={MARK}",
        f"mysql+none://ada:{MARK}@127.0.0.1:1/mlflow",
        f"{MARK}://ada:{MARK}@127.0.0.1:1",
    ],
)
def test_what_is_said_of_a_tracking_store_that_cannot_be_reached(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, films: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("PNEUMONIA_HOME", str(tmp_path / "home"))
    for words in (["train", "--data", str(films), "--json"], ["promote", "1"], ["ui", "--port", "0"]):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code != 0
        assert MARK not in done.output.replace(f"{MARK}://", ""), done.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]


def test_what_a_failed_run_leaves(tracker: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reason, traceback, parameters and tags, in the record and in the store."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    address = f"https://ada:{MARK}@host/films?X-Amz-Signature={MARK}"
    context = RunContext(home=home, tracker=tracker, tags={"mlflow.source.name": f"https://{MARK}@github.com/a/b"})
    record = context.begin(Run(name="one", role="train", description=f"films of {address}"), None)
    record.add_params({"data": address, "best/data": [address], "lr": 0.1})
    words = " ".join(VARIABLES.values())

    def fail() -> None:
        try:
            raise ConnectionError(f"API request to {address} failed; {words}")
        except ConnectionError as error:
            record.add_traceback()
            raise RuntimeError(f"not sent: {words}") from error

    with pytest.raises(RuntimeError), finished(record, tracker):
        fail()
    assert (record.artifacts / "traceback.txt").read_text().count("***") >= len(VARIABLES) + 1
    run = tracker.client.get_run(json.loads((record.folder / "sent.json").read_text())["run_id"])
    assert run.info.status == "FAILED"
    assert "***" in run.data.params["data"]
    assert MARK not in str(run.to_dictionary())
    check_clean(home, Path("mlruns"))
    assert MARK.encode() not in Path("mlflow.db").read_bytes()


def test_a_worker_that_fails_tells_no_secret(
    task: worker.Task, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError(f"postgresql://me:{MARK}@host/base")

    monkeypatch.setattr(worker, "work", fail)
    monkeypatch.setattr(worker, "leave_quickly", lambda: None)  # this process is the tests'
    monkeypatch.setattr(Stop, "note_sigterm", lambda _: None)
    monkeypatch.setattr(Stop, "follow_parent", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        worker.main(task)
    assert "KeyError: 'postgresql://me:***@host/base'" in str(ended.value.code)
    assert ended.value.__suppress_context__  # nothing else is printed of it
    assert MARK not in "".join(capfd.readouterr())
