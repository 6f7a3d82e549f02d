"""`--json` of every command that logs a run: one object, and a word where the run could not be sent."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pneumonia.cli import cli
from pneumonia.cli.errors import FAILED
from pneumonia.data.index import Index
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker

CHAMPION = "models:/pneumonia@champion"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("train", marks=pytest.mark.slow),
        pytest.param("train --seeds 2", marks=pytest.mark.slow),
        "evaluate",
        "compare",
        "eda",
    ],
)
def test_json_says_what_was_not_sent(
    command: str, registered: Record, index: Index, tracker: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One JSON object with the run and its link; and where the tracker goes away meanwhile, exit code 1 and the word
    of what sends the rest."""
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    words = [*command.split(), "--data", str(index.root), "--json"]
    if command.startswith("train"):
        words += ["--size", "32", "--epochs", "1", "--width", "4", "--device", "cpu"]
    elif command == "compare":
        words[1:1] = [CHAMPION, CHAMPION.replace("@champion", "/1")]
    elif command == "evaluate":
        words += ["--model", CHAMPION]
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["run_id"] in found["link"]

    monkeypatch.setattr(Tracker, "try_send", lambda *_, **__: False)
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == FAILED
    assert isinstance(json.loads(said.stdout), dict)
    assert "type `pneumonia sync` when" in said.stderr
