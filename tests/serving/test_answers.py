"""Logs of answers and labels that came back, read again."""

import hashlib
import json

import pytest

from pneumonia.serving import answers
from pneumonia.serving.answers import AnswersError

CLASSES = ("NORMAL", "PNEUMONIA")
LINE = {
    "time": "2026-03-01T08:00:00.000Z", "version": "pneumonia/3", "sha256": "ab", "probability": 0.5,
    "label": "NORMAL", "familiarity": 0.3, "familiar": True, "error": "",
}  # fmt: skip


def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else f"\n{json.dumps({**LINE, **row})}\n" for row in rows))


def test_a_log_is_read_in_the_order_of_time(tmp_path):
    write(tmp_path / "answers.jsonl", {"time": "2026-03-02T08:00:00Z"}, {"probability": None, "error": "damaged"})
    write(tmp_path / "answers-20260302T000000.000000.jsonl", {"time": "2026-02-27T08:00:00.5+01:00"})
    write(tmp_path / "other.jsonl", {})
    found = answers.read(tmp_path)
    assert found.unread == 0
    assert [f"{time:%d %H}" for time in found.table["time"]] == ["27 07", "01 08", "02 08"]
    assert found.table["error"].tolist() == ["", "damaged", ""]
    assert found.table["familiar"].tolist() == [1.0, 1.0, 1.0]
    assert len(answers.read(tmp_path / "answers.jsonl").table) == 2


def test_what_is_no_answer_is_counted(tmp_path):
    torn = json.dumps(LINE)[:60]
    wrong = ({"time": "yesterday"}, {"probability": None}, {"probability": 7}, "[1]\n", "nothing\n", torn)
    write(tmp_path / "answers.jsonl", {}, *wrong, {})
    found = answers.read(tmp_path)
    assert (len(found.table), found.unread) == (2, len(wrong))


def test_lines_without_familiarity_are_answers(tmp_path):
    row = {name: value for name, value in LINE.items() if not name.startswith("familiar")}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n")
    assert answers.read(tmp_path).table[["familiarity", "familiar"]].isna().all(axis=None)


def test_no_log_is_an_error_in_one_sentence(tmp_path):
    with pytest.raises(AnswersError, match="no log of answers at"):
        answers.read(tmp_path)
    write(tmp_path / "answers.jsonl", "\n")
    with pytest.raises(AnswersError, match="there are no answers in"):
        answers.read(tmp_path)


def test_labels_by_hash_or_by_file(tmp_path):
    (tmp_path / "films").mkdir()
    hashes = []
    for name in ("a.png", "b.png"):
        (tmp_path / "films" / name).write_bytes(name.encode())
        hashes.append(hashlib.sha256(name.encode()).hexdigest())
    by_hash, by_path = tmp_path / "hash.csv", tmp_path / "path.csv"
    by_hash.write_text(f"SHA256;Label;patient\n{hashes[0].upper()};pneumonia;p1\n{hashes[1]};0;\n")
    by_path.write_text("path,label\nfilms/a.png,PNEUMONIA\nfilms/b.png,Normal\n")
    first, second = (answers.labels(path, CLASSES) for path in (by_hash, by_path))
    for found in (first, second):
        assert dict(zip(found["sha256"], found["label"], strict=True)) == dict(zip(hashes, (1, 0), strict=True))
    assert first["patient"].tolist() == ["p1", f"film {hashes[1]}"]
    assert second["patient"].nunique() == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sha256,class\nab,NORMAL\n", "no column label"),
        ("sha256,label\nab,healthy\n", "the label 'healthy', which is neither NORMAL nor PNEUMONIA"),
        ("sha256,label\nab,NORMAL\nab,PNEUMONIA\n", "both NORMAL and PNEUMONIA of one film: ab"),
    ],
)
def test_labels_that_cannot_be_used(text, words, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(AnswersError, match=words):
        answers.labels(tmp_path / "labels.csv", CLASSES)


def test_a_film_that_is_there_twice_counts_once(tmp_path):
    (tmp_path / "labels.csv").write_text("sha256,label\nab,NORMAL\nab,normal\ncd,1\n")
    assert answers.labels(tmp_path / "labels.csv", CLASSES)["label"].tolist() == [0, 1]
