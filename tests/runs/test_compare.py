import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.data.index import Index
from pneumonia.reports.comparison_page import html
from pneumonia.results.comparison import Comparison, assess
from pneumonia.runs.compare import classes_of, compare_and_record, named
from pneumonia.runs.context import RunContext
from pneumonia.serving.predict import ModelError
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import delete_model, sent


def compared(*gains: float, films: int = 300) -> Comparison:
    """Models that see more of the truth than the first by `gains`."""
    rng = np.random.default_rng(0)
    y = (np.arange(films) % 4 > 0).astype(int)
    rows = pd.DataFrame(
        {"path": [f"{i}" for i in range(films)], "label": y, "patient": [f"p{i // 2}" for i in range(films)]}
    )
    common = rng.normal(size=films)
    logits = [(1 + gain) * (2 * y - 1) + common + 0.5 * rng.normal(size=films) for gain in (0.0, *gains)]
    p = 1 / (1 + np.exp(-np.array(logits)))
    names = [f"model {number}" for number in range(len(p))]
    return assess(rows, p, names=names, thresholds=[0.5] * len(p), classes=("NORMAL", "PNEUMONIA"))


def test_a_better_model_is_called_so_and_a_like_one_is_not() -> None:
    better, alike = compared(1.5, 0.0).sentences()
    assert better.startswith("model 1: its AUC is higher")
    assert "accuracy is higher" in better
    assert alike == "model 2: these films do not tell it from model 0"


def test_the_table_and_the_json_say_the_same() -> None:
    found = compared(0.5, 0.2)
    table, as_dict = found.table(), json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert table["model"].tolist() == ["model 0", "model 1", "model 2", "model 1 - model 0", "model 2 - model 0"]
    assert as_dict["reference"] == "model 0"
    for row, model in enumerate(as_dict["models"]):
        assert table["auc"][row].startswith(f"{model['scores']['auc']['value']:.3f} (")
    for pair, of in zip(found.pairs, as_dict["pairs"], strict=True):
        second = as_dict["models"][int(pair.model[-1])]["scores"]
        first = as_dict["models"][0]["scores"]
        for name, difference in of["differences"].items():
            if name in first:
                assert difference["value"] == pytest.approx(second[name]["value"] - first[name]["value"])
        surplus = of["right_alone"]["model"] - of["right_alone"]["reference"]
        assert surplus == pytest.approx(of["differences"]["accuracy"]["value"] * 300)


def test_the_text_is_a_markdown_table_of_numbered_models() -> None:
    found = compared(0.5, 0.2)
    text = found.text()
    assert text.startswith("1. model 0\n2. model 1\n3. model 2\n\n| score ")
    scores, differences = (list(part.splitlines()) for part in text.split("\n\n")[1:3])
    for table, header in ((scores, ["score", "1", "2", "3"]), (differences, ["score", "2 - 1", "3 - 1"])):
        assert len({len(line) for line in table}) == 1  # the bars stand below each other
        assert [cell.strip() for cell in table[0].split("|")[1:-1]] == header
    assert scores[2].split("|")[2].strip() == found.table()["auc"][0]
    assert differences[2].split("|")[3].strip() == found.table()["auc"][4]
    for line in (*found.sentences(), *found.notes):
        assert f"- {line}" in text


def test_more_models_make_each_p_value_larger() -> None:
    alone, among = compared(0.5).pairs[0], compared(0.5, 0.0, 0.0).pairs[0]
    assert among.differences["auc"].p > alone.differences["auc"].p


def test_the_page_shows_models_and_the_films_they_disagree_on(index: Index) -> None:
    found = compared(1.0)
    page = html(found, index, curves=b"\x89PNG")
    called = found.probabilities >= 0.5
    apart = (called[0] != called[1]).sum()
    assert f"of {apart} films, the farthest apart first" in page
    for sentence in found.sentences():
        assert sentence in page


def test_films_of_one_class_cannot_be_compared_on() -> None:
    rows = pd.DataFrame({"path": ["a", "b"], "label": [1, 1], "patient": ["p", "q"]})
    with pytest.raises(ValueError, match="both classes"):
        assess(rows, np.full((2, 2), 0.5), names=["a", "b"], thresholds=[0.5] * 2, classes=("NORMAL", "PNEUMONIA"))


@pytest.mark.parametrize("texts", [["a b"], ["a,b"], ["a", "b"], [" a,  b "]])
def test_models_are_named_apart_or_in_one_parameter(texts: list[str]) -> None:
    assert named(texts) == ["a", "b"]


def test_one_model_or_one_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two models or more, not 1"):
        named(["models:/pneumonia@champion"])
    with pytest.raises(ValueError, match="a is named twice"):
        named(["a", "b a"])
    spaced = tmp_path / "a folder"
    spaced.mkdir()
    assert named([str(spaced), "b"]) == [str(spaced), "b"]


@pytest.fixture
def runs(tracker: Tracker, copy_trained: Callable[..., Record]) -> list[str]:
    """The ids of three runs with models: one, its copy, and one whose logits are moved."""
    ids = []
    for name, bias in (("one", 0.0), ("copy", 0.0), ("moved", 3.0)):
        record = copy_trained(name, bias=bias)
        record.finish("COMPLETE")
        ids.append(tracker.send(record))
    return ids


def test_runs_are_compared_on_the_validation_films_alone(
    tracker: Tracker, runs: list[str], index: Index, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (opened.append(self), read(self))[1])
    record, found = compare_and_record(runs, index, RunContext(home=home, tracker=tracker, tags={"who": "me"}))
    films = {path.relative_to(index.root).as_posix() for path in opened if path.is_relative_to(index.root)}
    assert films == set(index.only("val")["path"])

    copy, moved = found.pairs
    assert copy.differences["auc"].p == copy.differences["accuracy"].p == 1.0
    assert copy.alone == (0, 0)
    assert moved.differences["auc"].value == pytest.approx(0)  # the order of films is the same
    assert moved.differences["log_loss"].value > 0

    run = tracker.client.get_run(sent(record)["run_id"])
    assert (run.info.status, run.data.tags["role"], run.data.tags["who"]) == ("FINISHED", "compare", "me")
    assert run.data.params["models"] == " ".join(runs)
    assert run.data.metrics["compare/3/log_loss_difference"] == pytest.approx(moved.differences["log_loss"].value)
    assert run.data.metrics["compare/2/auc_p"] == 1.0
    root = Path(run.info.artifact_uri)
    assert json.loads((root / "comparison.json").read_text())["films"] == len(index.only("val"))
    assert (root / "comparison.md").read_text() == found.text() + "\n"
    png = (root / "figures" / "roc.png").read_bytes()
    assert len(png) > 5000
    assert base64.b64encode(png).decode() in (root / "comparison.html").read_text()
    table = pd.read_csv(root / "predictions" / "val.csv")
    np.testing.assert_allclose(table[f"moved {runs[2][:8]}"], found.probabilities[2], atol=1e-12)
    assert f"one {runs[0][:8]}" in (root / "comparison.html").read_text()


def test_a_model_that_was_trained_from_other_films_is_told_of(
    tracker: Tracker, runs: list[str], index: Index, home: Path
) -> None:
    tracker.client.set_tag(runs[1], "data.fingerprint", "another")
    record, found = compare_and_record(runs, index, RunContext(home=home, tracker=tracker))
    told = [note for note in found.notes if "not trained from these films" in note]
    assert len(told) == 1
    assert told[0].startswith(f"copy {runs[1][:8]} ")
    assert told[0] in (record.artifacts / "comparison.html").read_text()


def test_models_of_other_classes_are_not_compared(tracker: Tracker, runs: list[str], index: Index, home: Path) -> None:
    other = replace(index, classes=("DOG", "CAT"))
    with pytest.raises(ValueError, match=r"one .* tells NORMAL from PNEUMONIA, but the films are DOG and CAT"):
        compare_and_record(runs, other, RunContext(home=home, tracker=tracker))
    (run,) = tracker.client.search_runs(["1"], "tags.role = 'compare'")
    assert run.info.status == "FAILED"


def test_a_run_that_kept_no_model_is_compared_by_what_it_predicted(
    tracker: Tracker, runs: list[str], index: Index, home: Path
) -> None:
    whole = compare_and_record(runs, index, RunContext(home=home, tracker=tracker))[1]
    drop(tracker, runs[1])
    part = compare_and_record(runs, index, RunContext(home=home, tracker=tracker))[1]
    assert part.models == whole.models
    np.testing.assert_allclose(part.probabilities, whole.probabilities, atol=1e-4)
    np.testing.assert_allclose(part.thresholds, whole.thresholds)
    (note,) = set(part.notes) - set(whole.notes)
    assert note.startswith(f"copy {runs[1][:8]} was not kept")

    newer = index.table["path"].where(index.table["path"] != index.only("val")["path"].iloc[0], "another.png")
    (failure,) = compare_and_record(
        runs[:2], replace(index, table=index.table.assign(path=newer)), RunContext(home=home, tracker=tracker)
    )[1].failures  # fmt: skip
    assert failure[0] == "another.png"
    assert f"the run {runs[1]} has no prediction of it" in failure[1]


def test_what_a_run_logged_is_compared_on_its_own_films_alone(
    tracker: Tracker, runs: list[str], index: Index, home: Path
) -> None:
    for run_id in runs:
        drop(tracker, run_id)
    with pytest.raises(ValueError, match=r"one .* takes PNEUMONIA for the positive class, but .* NORMAL"):
        compare_and_record(
            runs, replace(index, classes=("PNEUMONIA", "NORMAL")), RunContext(home=home, tracker=tracker)
        )
    tracker.client.set_tag(runs[1], "data.fingerprint", "another")
    with pytest.raises(ValueError, match=r"copy .* kept no model, and what it logged is of other films"):
        compare_and_record(runs, index, RunContext(home=home, tracker=tracker))


def test_the_first_model_says_which_class_is_positive(tracker: Tracker, runs: list[str], trained: Record) -> None:
    """By the tags of a run, also of one made before they named both classes, or as the model itself has it."""
    told = ("NORMAL", "PNEUMONIA")
    assert classes_of(tracker, runs[0]) == classes_of(tracker, str(trained.folder / "model")) == told
    for name in ("data.negative", "data.positive"):
        tracker.client.delete_tag(runs[0], name)
    assert classes_of(tracker, runs[0]) == told
    assert classes_of(tracker, "0" * 32) is None


def test_a_comparison_is_no_model_and_a_broken_model_is_no_missing_one(
    tracker: Tracker, runs: list[str], index: Index, home: Path
) -> None:
    record, _ = compare_and_record(runs, index, RunContext(home=home, tracker=tracker))
    with pytest.raises(ModelError):
        compare_and_record([runs[0], sent(record)["run_id"]], index, RunContext(home=home, tracker=tracker))
    (model,) = tracker.client.search_logged_models(["1"], f"source_run_id = '{runs[1]}'")
    next(Path(model.artifact_location).rglob("*.onnx")).write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be loaded"):
        compare_and_record(runs, index, RunContext(home=home, tracker=tracker))


def drop(tracker: Tracker, run_id: str) -> None:
    """Deletes the run's model, as a search of many trials does."""
    (model,) = tracker.client.search_logged_models(["1"], f"source_run_id = '{run_id}'")
    delete_model(model, tracker.client, tracker.uri)


def test_a_run_without_a_model_is_named(tracker: Tracker, runs: list[str], index: Index, home: Path) -> None:
    empty = tracker.client.create_run("1").info.run_id
    with pytest.raises(ModelError, match=empty):
        compare_and_record([runs[0], empty], index, RunContext(home=home, tracker=tracker))
