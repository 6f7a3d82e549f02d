"""The log of answers: what is in it, that it stays small, and that it never costs an answer."""

import hashlib
import json
import multiprocessing
import os
import re
import time
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from pneumonia.served.answer_log import FIELDS, Answer, AnswerLog, answer_log, version_of
from pneumonia.serving import export as package
from tests.served.conftest import GOOD


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every line of a log in the order of the files, but for blank ones and those that are cut short."""
    found = []
    for path in sorted(folder.glob("answers-*.jsonl")) + sorted(folder.glob("answers.jsonl")):
        found += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return found


def answer(number: int) -> Answer:
    row = {"probability": number / 1e6, "label": "NORMAL", "familiarity": 0.5, "familiar": True, "threshold": 0.4}
    return Answer(hashlib.sha256(str(number).encode()).hexdigest(), row)


@pytest.fixture
def logged(folder, tmp_path, monkeypatch):
    """The loaded model, with the log that it writes."""
    monkeypatch.setenv("PNEUMONIA_ANSWERS", str(tmp_path / "answers"))
    monkeypatch.setenv("PNEUMONIA_VERSION", "pneumonia/7")
    mlflow.pyfunc.save_model(tmp_path / "model", **package.pyfunc_arguments(folder))
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    return model, lambda: lines(tmp_path / "answers")


def test_an_answer_leaves_a_line_that_tells_nothing_but_the_answer(logged):
    model, told = logged
    answered = model.predict(pd.DataFrame({"image": [GOOD]})).iloc[0]
    (line,) = told()
    assert tuple(line) == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "version": "pneumonia/7",
        "sha256": hashlib.sha256(GOOD).hexdigest(),
        **{name: answered[name] for name in ("probability", "label", "familiarity", "familiar")},
        "error": "",
    }


def test_a_refused_request_leaves_one_line_with_the_kind(logged):
    model, told = logged
    with pytest.raises(MlflowException, match="record 1"):
        model.predict(pd.DataFrame({"image": [GOOD, b"GIF89a", GOOD]}))
    with pytest.raises(MlflowException):
        model.predict(pd.DataFrame({"other": [1]}))
    refused, request = told()
    assert refused["error"] == "other_format"
    assert refused["sha256"] == hashlib.sha256(b"GIF89a").hexdigest()
    assert request["error"] == "request"
    assert {line[name] for line in (refused, request) for name in ("probability", "label", "familiarity")} == {None}
    assert request["sha256"] is None


def test_returned_errors_leave_a_line_a_record(logged):
    model, told = logged
    model.predict(pd.DataFrame({"image": [GOOD, b"GIF89a", None]}), params={"errors": "return"})
    assert [line["error"] for line in told()] == ["", "other_format", "missing"]
    assert [line["probability"] is None for line in told()] == [False, True, True]


def test_the_example_by_which_servers_are_tried_leaves_none(logged):
    model, told = logged
    assert len(model.predict(package.input_example())) == 1
    model.predict(pd.concat([package.input_example(), pd.DataFrame({"image": [GOOD]})]))
    assert [line["sha256"] for line in told()] == [hashlib.sha256(GOOD).hexdigest()]


def test_without_the_variable_nothing_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PNEUMONIA_ANSWERS", raising=False)
    assert answer_log(folder) is None


FORK = multiprocessing.get_context("fork")  # which starts at once, where the others import everything anew
STARTS = range(0, 4000, 1000)


def _write(folder: Path, file_bytes: int, files: int, start: int, count: int) -> None:
    log = AnswerLog(folder, "", file_bytes=file_bytes, files=files)
    for number in range(start, start + count, 2):
        log.write([answer(number), answer(number + 1)])


def test_several_processes_lose_nothing_while_files_change(tmp_path):
    processes = [FORK.Process(target=_write, args=(tmp_path, 20_000, 1000, start, 1000)) for start in STARTS]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    told = [round(line["probability"] * 1e6) for line in lines(tmp_path)]
    assert sorted(told) == list(range(4000))
    files = list(tmp_path.glob("answers*.jsonl"))
    assert len(files) > 20
    assert max(path.stat().st_size for path in files) <= 20_000 + 4 * 600  # a line or so of each process more


def test_the_oldest_file_goes_first(tmp_path):
    _write(tmp_path, 5_000, 3, 0, 400)
    assert len(list(tmp_path.glob("answers*.jsonl"))) == 3
    told = [round(line["probability"] * 1e6) for line in lines(tmp_path)]
    assert told == list(range(told[0], 400))
    assert len(told) > 30


def test_a_file_that_is_taken_away_is_begun_anew(tmp_path):
    log = AnswerLog(tmp_path / "deep" / "log", "")
    log.write([answer(1)])
    (tmp_path / "deep" / "log" / "answers.jsonl").unlink()
    log.write([answer(2)])
    assert [round(line["probability"] * 1e6) for line in lines(tmp_path / "deep" / "log")] == [2]


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    log = AnswerLog(tmp_path, "")
    log.write([answer(1)])
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00:')  # as a process leaves it that is killed while it writes
    log.write([answer(2)])
    assert [round(line["probability"] * 1e6) for line in lines(tmp_path)] == [1, 2]


def test_a_killed_process_leaves_whole_lines_for_the_others(tmp_path):
    process = FORK.Process(target=_write, args=(tmp_path, 50_000, 1000, 0, 10_000_000))
    process.start()
    while not (tmp_path / "answers.jsonl").exists() and process.is_alive():
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.join()
    _write(tmp_path, 50_000, 1000, 20_000_000, 10)  # the lock of the killed one is open again
    told = [round(line["probability"] * 1e6) for line in lines(tmp_path)]
    assert told[-10:] == list(range(20_000_000, 20_000_010))
    assert told[:-10] == list(range(len(told) - 10))


@pytest.mark.parametrize("how", ["a file is there", "gone", "not allowed"])
def test_what_cannot_be_written_is_said_once_and_costs_no_answer(how, folder, tmp_path, monkeypatch, capfd):
    place = tmp_path / "answers"
    if how == "a file is there":
        place.write_text("")
    elif how == "gone":
        place = Path("/proc/nothing/answers")
    else:
        monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setenv("PNEUMONIA_ANSWERS", str(place))
    log = answer_log(folder)
    for number in range(3):
        log.write([answer(number)])
    monkeypatch.undo()
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("pneumonia: answers cannot be written to ")


def test_a_wrong_limit_is_said_and_not_used(folder, tmp_path, monkeypatch, capfd):
    for name, value in {"": str(tmp_path), "_MB": "much", "_FILES": "3"}.items():
        monkeypatch.setenv(f"PNEUMONIA_ANSWERS{name}", value)
    log = answer_log(folder)
    assert (log.file_bytes, log.files) == (16 * 2**20, 3)
    assert "PNEUMONIA_ANSWERS_MB is 'much'" in capfd.readouterr().err


def test_the_version_is_what_mlflow_wrote_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.delenv("PNEUMONIA_VERSION", raising=False)
    package = tmp_path / "artifacts" / "package"
    assert version_of(package) == ""
    (tmp_path / "MLmodel").write_text("model_id: m-12\nrun_id: abc\n")
    assert version_of(package) == "m-12"
    (tmp_path / "registered_model_meta").write_text("model_name: pneumonia\nmodel_version: '3'\n")
    assert version_of(package) == "pneumonia/3"
    monkeypatch.setenv("PNEUMONIA_VERSION", "ours/1")
    assert version_of(package) == "ours/1"
