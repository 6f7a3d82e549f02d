"""Runs and recipes are compared on validation films alone."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia.data.index import Index
from pneumonia.metrics.logistic import sigmoid
from pneumonia.results.recipes import Recipes
from pneumonia.runs.artifacts import write_predictions
from pneumonia.runs.compare import classes_of, compare_and_record, named
from pneumonia.runs.context import RunContext, data_tags
from pneumonia.serving import predict
from pneumonia.serving.predict import ModelError
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent


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


@pytest.mark.figures
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


def test_a_run_without_a_model_is_named(tracker: Tracker, runs: list[str], index: Index, home: Path) -> None:
    empty = tracker.client.create_run("1").info.run_id
    with pytest.raises(ModelError, match=empty):
        compare_and_record([runs[0], empty], index, RunContext(home=home, tracker=tracker))


@pytest.fixture
def parents(tracker: Tracker, new_record: Callable[..., Record], index: Index) -> list[str]:
    """Run ids of two recipes of three seeds each, the second one better, as `train --seeds` leaves them."""
    val, rng, ids = index.only("val"), np.random.default_rng(0), []
    truth = 2 * val["label"].to_numpy() - 1
    for name, skill in (("plain", 0.5), ("better", 3.0)):
        parent = new_record(name, role="seeds", tags=data_tags(index))
        ids.append(tracker.send(parent))
        for seed in range(3):
            child = new_record(f"{name}-{seed}", parent=ids[-1], tags=data_tags(index))
            child.add_params({"seed": seed, "sampler": name, "width": 4})
            p = sigmoid(skill * truth + rng.normal(size=len(val)))
            write_predictions(child.artifacts / "predictions" / "val.csv", val, p, index.classes)
            child.summarise({"val/threshold": 0.4 + 0.1 * seed}, step=1)
            child.finish("COMPLETE")
            tracker.send(child)
        parent.finish("COMPLETE")
        tracker.send(parent)
    return ids


@pytest.mark.figures
def test_runs_of_seeds_are_compared_by_what_their_trainings_logged(
    tracker: Tracker, parents: list[str], index: Index, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_model(*args: Any, **more: Any) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(predict, "load", no_model)
    record, found = compare_and_record(parents, index, RunContext(home=home, tracker=tracker))
    assert isinstance(found, Recipes)
    assert [recipe.name for recipe in found.recipes] == [f"plain {parents[0][:8]}", f"better {parents[1][:8]}"]
    assert [recipe.seeds for recipe in found.recipes] == [[0, 1, 2]] * 2
    assert found.recipes[0].thresholds == pytest.approx([0.4, 0.5, 0.6])
    assert found.sentences()[0].startswith(f"better {parents[1][:8]}: its mean")
    assert found.sentences()[1].endswith("sampler better, not plain")

    run = tracker.client.get_run(sent(record)["run_id"])
    assert (run.info.status, run.data.tags["role"]) == ("FINISHED", "compare")
    assert run.data.metrics["compare/2/auc_difference"] == pytest.approx(found.differences[0]["auc"].value)
    assert run.data.metrics["compare/1/auc_std"] > 0
    root = Path(run.info.artifact_uri)
    assert (root / "comparison.md").read_text() == found.text() + "\n"
    assert json.loads((root / "comparison.json").read_text())["films"] == len(index.only("val"))
    png = (root / "figures" / "seeds.png").read_bytes()
    assert len(png) > 5000
    assert base64.b64encode(png).decode() in (root / "comparison.html").read_text()
    assert "Comparison of recipes" in (root / "comparison.html").read_text()
    table = pd.read_csv(root / "predictions" / "val.csv")
    np.testing.assert_allclose(table[f"better {parents[1][:8]} seed 2"], found.recipes[1].probabilities[2], atol=1e-12)


def test_a_recipe_and_a_model_are_not_compared(tracker: Tracker, parents: list[str], index: Index, home: Path) -> None:
    model = tracker.client.create_run("1").info.run_id
    for other in (model, "models:/pneumonia@champion"):
        with pytest.raises(ValueError, match=f"{parents[0]} is a run of several seeds and {other} is not"):
            compare_and_record([parents[0], other], index, RunContext(home=home, tracker=tracker))


def test_recipes_of_other_films_are_not_compared(
    tracker: Tracker, parents: list[str], index: Index, home: Path
) -> None:
    with pytest.raises(ValueError, match=r"the run plain .* is of other films"):
        compare_and_record(parents, replace(index, fingerprint="another"), RunContext(home=home, tracker=tracker))


def test_seeds_that_failed_and_films_that_one_has_not_are_left_out(
    tracker: Tracker, parents: list[str], index: Index, home: Path
) -> None:
    (failed,) = tracker.client.search_runs(["1"], "tags.`mlflow.runName` = 'better-1'")
    tracker.client.set_tag(failed.info.run_id, "trial.state", "FAIL")
    first = index.only("val")["path"].iloc[0]
    newer = replace(index, table=index.table.assign(path=index.table["path"].replace(first, "another.png")))
    _, found = compare_and_record(parents, newer, RunContext(home=home, tracker=tracker))
    assert isinstance(found, Recipes)
    assert [recipe.seeds for recipe in found.recipes] == [[0, 1, 2], [0, 2]]
    assert any("has not the seeds of" in note for note in found.notes)
    assert len(found.rows) == len(index.only("val")) - 1
    ((path, reason),) = found.failures
    assert path == "another.png"
    assert "has no prediction of it" in reason
