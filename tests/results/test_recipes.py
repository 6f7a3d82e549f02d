"""Recipes of several seeds side by side, from arrays and from what their runs logged."""

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
from pneumonia.reports.recipes_page import html
from pneumonia.results.comparison import SCORES
from pneumonia.results.recipes import Recipe, Recipes, assess
from pneumonia.runs.artifacts import write_predictions
from pneumonia.runs.compare import compare_and_record
from pneumonia.runs.context import RunContext, data_tags
from pneumonia.serving import predict
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent


def compared(*gains: float, seeds: tuple[int, ...] = (0, 1, 2, 3), films: int = 300) -> Recipes:
    """Recipes whose seeds see more of the truth than the first's by `gains`; the last has other seeds."""
    rng = np.random.default_rng(0)
    y = (np.arange(films) % 4 > 0).astype(int)
    rows = pd.DataFrame({"path": [f"{i}" for i in range(films)], "label": y, "patient": np.arange(films) // 2})
    common = rng.normal(size=films)
    recipes = []
    for at, gain in enumerate((0.0, *gains)):
        skill = 1 + gain + 0.05 * rng.normal(size=(len(seeds), 1))
        p = sigmoid(skill * (2 * y - 1) + common + 0.5 * rng.normal(size=(len(seeds), films)))
        recipes.append(Recipe(f"recipe {at}", list(seeds), [0.5] * len(seeds), p, {"width": f"{8 + at}", "size": "64"}))
    return assess(rows, recipes, classes=("NORMAL", "PNEUMONIA"), draws=200)


def test_a_better_recipe_is_called_so_and_a_like_one_is_not() -> None:
    better, differs, alike, _ = compared(1.5, 0.0).sentences()
    assert better.startswith("recipe 1: its mean AUC is higher")
    assert "log loss is lower" in better
    assert differs == "recipe 1: width 9, not 8"
    assert alike == "recipe 2: these seeds and films do not tell it from recipe 0"


def test_the_table_the_json_and_the_metrics_say_the_same() -> None:
    found = compared(0.5, 0.2)
    table, as_dict, metrics = found.table(), json.loads(json.dumps(found.as_dict(), allow_nan=False)), found.metrics()
    assert table["recipe"].tolist() == [
        "recipe 0",
        "recipe 1",
        "recipe 2",
        "recipe 1 - recipe 0",
        "recipe 2 - recipe 0",
    ]
    for at, recipe in enumerate(as_dict["recipes"]):
        auc = recipe["scores"]["auc"]
        assert auc["mean"] == pytest.approx(np.mean(auc["values"]))
        assert auc["std"] == pytest.approx(np.std(auc["values"], ddof=1))
        assert table["auc"][at] == f"{auc['mean']:.4f} ± {auc['std']:.4f}"
        assert metrics[f"compare/{at + 1}/auc"] == auc["mean"]
        assert metrics[f"compare/{at + 1}/auc_std"] == auc["std"]
    for at, pair in enumerate(as_dict["pairs"], start=1):
        assert set(pair["differences"]) == set(SCORES)
        for name, difference in pair["differences"].items():
            means = [as_dict["recipes"][k]["scores"][name]["mean"] for k in (0, at)]
            assert difference["value"] == pytest.approx(means[1] - means[0])
            assert difference["interval"][0] < difference["value"] < difference["interval"][1]
            assert metrics[f"compare/{at + 1}/{name}_difference_low"] == difference["interval"][0]
    text = found.text()
    assert text.startswith("1. recipe 0: 4 seeds\n2. recipe 1: 4 seeds\n")
    for line in (*found.sentences(), *found.notes, table["auc"][3]):
        assert line in text


def test_recipes_of_the_same_seeds_are_compared_seed_by_seed() -> None:
    found = compared(0.5)
    (note,) = [note for note in found.notes if "seed by seed" in note]
    assert "0, 1, 2, 3" in note
    other = replace(found.recipes[1], seeds=[4, 5, 6, 7])
    apart = assess(found.rows, [found.recipes[0], other], classes=found.classes, draws=200)
    assert any(note.startswith("recipe 1 has not the seeds of recipe 0") for note in apart.notes)
    assert apart.differences[0]["auc"].value == found.differences[0]["auc"].value
    assert apart.differences[0]["auc"].interval != found.differences[0]["auc"].interval
    assert not apart.as_dict()["pairs"][0]["paired_by_seed"]


def test_more_recipes_make_each_p_value_larger() -> None:
    alone, among = compared(0.3).differences[0], compared(0.3, 0.0, 0.0).differences[0]
    assert among["auc"].p > alone["auc"].p
    assert np.isnan(alone["brier"].p)


def test_the_page_shows_recipes_and_the_films_they_differ_on(index: Index) -> None:
    found = compared(1.0)
    page = html(found, index, seeds=b"\x89PNG")
    right = [(of.probabilities >= 0.5) == (found.rows["label"].to_numpy() == 1) for of in found.recipes]
    apart = (right[0].sum(axis=0) != right[1].sum(axis=0)).sum()
    assert f"of {apart} films, the farthest apart first" in page
    for sentence in found.sentences():
        assert sentence in page


def test_what_has_no_spread_cannot_be_compared() -> None:
    found = compared(0.5)
    one = replace(found.recipes[1], seeds=[0], thresholds=[0.5], probabilities=found.recipes[1].probabilities[:1])
    with pytest.raises(ValueError, match=r"recipe 1: 1 of its seeds came to an end"):
        assess(found.rows, [found.recipes[0], one], classes=found.classes)
    with pytest.raises(ValueError, match="both classes"):
        assess(found.rows.assign(label=1), found.recipes, classes=found.classes)


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
