"""Recipes of several seeds side by side, from arrays."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pneumonia.metrics.logistic import sigmoid
from pneumonia.results.comparison import SCORES
from pneumonia.results.recipes import Recipe, Recipes, assess


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


def test_what_has_no_spread_cannot_be_compared() -> None:
    found = compared(0.5)
    one = replace(found.recipes[1], seeds=[0], thresholds=[0.5], probabilities=found.recipes[1].probabilities[:1])
    with pytest.raises(ValueError, match=r"recipe 1: 1 of its seeds came to an end"):
        assess(found.rows, [found.recipes[0], one], classes=found.classes)
    with pytest.raises(ValueError, match="both classes"):
        assess(found.rows.assign(label=1), found.recipes, classes=found.classes)
