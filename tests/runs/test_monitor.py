"""A served version's log becomes a run: by the real model's answers, and by made ones."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from click.testing import CliRunner

from pneumonia.cli import cli
from pneumonia.data.index import Index
from pneumonia.runs.context import RunContext
from pneumonia.runs.monitor import monitor_and_record
from pneumonia.serving.answers import AnswersError
from pneumonia.tracking.record import HELD_OUT_PREDICTIONS, VAL_PREDICTIONS, Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.runs.conftest import CHAMPION

Line = dict[str, Any]


@pytest.fixture
def log(registered: Record, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the champion wrote of its validation films, spread over eight days, and of a file that is no film."""
    monkeypatch.setenv("PNEUMONIA_ANSWERS", str(tmp_path / "answers"))
    model = mlflow.pyfunc.load_model(CHAMPION)
    films = [(index.root / path).read_bytes() for path in index.only("val")["path"]]
    model.predict(pd.DataFrame({"image": [*films, b"GIF89a"]}), params={"errors": "return"})
    monkeypatch.delenv("PNEUMONIA_ANSWERS")
    lines = [json.loads(line) for line in (tmp_path / "answers" / "answers.jsonl").read_text().splitlines() if line]
    assert len(lines) == len(films) + 1
    for number, line in enumerate(lines):
        line["time"] = f"2026-03-{1 + number % 8:02d}T09:00:00.000Z"
    write(tmp_path / "answers", lines)
    return tmp_path / "answers"


def write(log: Path, lines: list[Line]) -> None:
    (log / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def change(log: Path, change: Callable[[Line], Line]) -> None:
    write(log, [change(json.loads(line)) for line in (log / "answers.jsonl").read_text().splitlines()])


@pytest.fixture
def labels(index: Index, tmp_path: Path) -> Path:
    rows = index.only("val")
    hashes = [hashlib.sha256((index.root / path).read_bytes()).hexdigest() for path in rows["path"]]
    table = pd.DataFrame({"sha256": hashes, "label": rows["label"].to_numpy()})
    table.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def test_the_validation_films_themselves_have_not_changed(
    log: Path, labels: Path, context: RunContext, index: Index
) -> None:
    record, found = monitor_and_record(log, CHAMPION, context, labels=labels)
    films = len(index.only("val"))
    assert found.drift is not None
    assert found.drift.distance <= 2.5 / films  # steps at the same scores, but for the last digits of two runtimes
    assert found.drift.p > 0.9
    assert found.changes == []
    assert found.refusals == {"other_format": 1}
    assert found.labelled is not None
    assert found.labelled.films == films
    run = context.tracker.client.get_run(sent(record)["run_id"])
    assert run.data.metrics["served/answers"] == films + 1
    assert run.data.metrics["served/auc"] == pytest.approx(found.val_auc[0])
    assert run.data.tags["role"] == "monitor"
    assert run.data.tags["model.version"] == "pneumonia/1"
    assert "nothing says" in run.data.tags["mlflow.note.content"]
    by_day = context.tracker.client.get_metric_history(run.info.run_id, "day/answers")
    assert [pd.Timestamp(point.timestamp, unit="ms").day for point in by_day] == list(range(1, 9))
    page = (record.artifacts / "monitor.html").read_text()
    assert page.count("<img") == 4
    names = {artifact.path for artifact in context.tracker.client.list_artifacts(run.info.run_id)}
    assert {"monitor.html", "monitor.json", "figures"} <= names


def test_an_adapted_version_is_held_against_the_films_of_its_place(
    log: Path, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_of = Tracker.text_of

    def as_if_adapted(tracker: Tracker, run_id: str | None, path: str) -> str | None:
        """The run has the table of an adapting, and not that of a training."""
        names = {HELD_OUT_PREDICTIONS: VAL_PREDICTIONS, VAL_PREDICTIONS: "predictions/none.csv"}
        return text_of(tracker, run_id, names.get(path, path))

    monkeypatch.setattr(Tracker, "text_of", as_if_adapted)
    _, found = monitor_and_record(log, CHAMPION, context)
    assert found.drift is not None
    assert found.drift.p > 0.9


def test_other_versions_are_left_out_and_counted(log: Path, context: RunContext) -> None:
    numbers = iter(range(10_000))
    change(log, lambda line: {**line, "version": "pneumonia/2" if next(numbers) < 3 else line["version"]})
    _, found = monitor_and_record(log, CHAMPION, context)
    assert found.others == {"pneumonia/2": 3}
    change(log, lambda line: {**line, "version": "pneumonia/2"})
    with pytest.raises(AnswersError, match=r"no answer of .*pneumonia@champion.*, but of pneumonia/2"):
        monitor_and_record(log, CHAMPION, context)


def test_a_log_that_names_no_version_and_no_familiarity_is_read(log: Path, context: RunContext) -> None:
    change(log, lambda line: {k: v for k, v in line.items() if k != "version" and not k.startswith("familiar")})
    _, found = monitor_and_record(log, CHAMPION, context)
    assert found.changes == []
    assert found.others == {}


def test_only_the_last_days(log: Path, context: RunContext) -> None:
    _, found = monitor_and_record(log, CHAMPION, context, days=3)
    assert [day.day for day in found.days.index] == [6, 7, 8]


def test_the_command_fails_on_drift_if_it_is_to(log: Path, tracker: Tracker, home: Path) -> None:
    os.environ["PNEUMONIA_HOME"] = str(home)
    try:
        calm = CliRunner().invoke(cli, ["monitor", str(log), "--fail-on-drift"])
        assert calm.exit_code == 0, calm.output
        assert calm.stdout.startswith("nothing says")
        change(log, lambda line: {**line, "familiar": False} if not line["error"] else line)
        changed = CliRunner().invoke(cli, ["monitor", str(log), "--fail-on-drift", "--json"])
        assert changed.exit_code == 1, changed.output
        told = json.loads(changed.stdout)
        assert told["changed"] is True
        assert "100.0% of the films are unfamiliar" in told["sentence"]
        assert tracker.client.get_run(told["run_id"]).data.metrics["served/changes"] == 1
        assert CliRunner().invoke(cli, ["monitor", str(log)]).exit_code == 0
        assert CliRunner().invoke(cli, ["monitor", str(log / "nothing")]).exit_code == 2
    finally:
        del os.environ["PNEUMONIA_HOME"]
