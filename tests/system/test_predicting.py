"""`predict` as a command that is killed, and MLflow's own command for batches."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pneumonia.serving import predict
from tests.command import Command, until
from tests.conftest import ROOT
from tests.serving.test_predict import film, save

pytestmark = pytest.mark.slow

FILMS = 600


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One film that takes some 20 ms, by many names, and a bad one."""
    folder = tmp_path_factory.mktemp("films")
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500), dtype=np.uint8)
    (folder / "0000.png").write_bytes(cv2.imencode(".png", cv2.GaussianBlur(noise, (0, 0), 3))[1].tobytes())
    for number in range(1, FILMS):
        os.link(folder / "0000.png", folder / f"{number:04d}.png")
    (folder / "0300.png").unlink()
    (folder / "0300.png").write_text("not a film")
    return folder


class Folder:
    """Where the command is typed."""

    def __init__(self, path: Path, *words: str) -> None:
        self.path, self.words, self.started = path, [sys.executable, "-m", "pneumonia", "predict", *words], 0
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PNEUMONIA_HOME": str(path / "home"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{path / 'mlflow.db'}",
        }

    def start(self) -> Command:
        self.started += 1
        log = self.path / f"{self.started}.log"
        return Command(self.words, cwd=self.path, environment=self.environment, log=log)

    def rows(self, output: str) -> int:
        """Of an unfinished table, that are safe."""
        state = self.path / f"{output}.part" / "state.json"
        return int(json.loads(state.read_text())["rows"]) if state.exists() else 0

    def has_more(self, output: str, rows: int) -> bool:
        return self.rows(output) > rows


@pytest.fixture
def running() -> Iterator[list[Command]]:
    commands: list[Command] = []
    yield commands
    for command in commands:
        command.kill()


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_killed_command_goes_on_and_no_row_is_lost_or_twice(
    output: str, model: Path, films: Path, tmp_path: Path, running: list[Command]
) -> None:
    folder = Folder(tmp_path, "--model", str(model), "-o", output, str(films))
    before = 0
    for signum, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)):
        command = folder.start()
        running.append(command)
        until(partial(folder.has_more, output, before), "more rows")
        command.signal(signum)
        assert command.end() == code, command.text()
        assert not (tmp_path / output).exists()
        before = folder.rows(output)
        assert 0 < before < FILMS
    assert "the same command resumes from here" in command.last_line()
    running.append(folder.start())
    assert running[-1].end() == 1  # a film failed
    assert running[-1].last_line() == f"{FILMS} films, 1 failed: {output} ({before} of an earlier run)"
    assert not (tmp_path / f"{output}.part").exists()

    read = {"csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True), "parquet": pd.read_parquet}
    table = read[output.partition(".")[2]](tmp_path / output)
    assert table["path"].tolist() == [str(path) for path in sorted(films.iterdir())]
    assert table["probability"].isna().tolist() == [number == 300 for number in range(FILMS)]
    assert table["probability"].nunique() == 1


def test_mlflow_models_predict_takes_csv_and_json(model: Path, tmp_path: Path) -> None:
    paths = [film(tmp_path / f"{number}.png", number) for number in range(3)]
    images = [base64.b64encode(path.read_bytes()).decode() for path in paths]
    (tmp_path / "films.csv").write_text("image\n" + "\n".join(images) + "\n")
    (tmp_path / "films.json").write_text(
        json.dumps({"dataframe_records": [{"image": image} for image in images], "params": {"errors": "return"}})
    )
    expected = predict.predict(predict.load(str(model)), paths)
    for kind in ("csv", "json"):
        output = tmp_path / f"{kind}.out"
        words = ["-m", str(model), "-i", str(tmp_path / f"films.{kind}"), "-t", kind, "-o", str(output)]
        command = [sys.executable, "-m", "mlflow", "models", "predict", *words, "--env-manager", "local"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(output.read_text())["predictions"]
        assert [row["probability"] for row in found] == expected["probability"].tolist()
        assert [row["label"] for row in found] == expected["label"].tolist()
