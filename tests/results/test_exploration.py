"""What the exploration says of the classes is what its table holds."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pneumonia.metrics.scores import roc_curve
from pneumonia.results.exploration import STATISTICS, Exploration

PNEUMONIA = 1


def test_auc_of_a_statistic_is_the_area_under_its_curve(explored: Exploration) -> None:
    for split in explored.splits:
        rows = explored.films[explored.films["split"] == split]
        fpr, tpr = roc_curve(rows["label"], rows["bytes_per_pixel"] / rows["bytes_per_pixel"].max())
        assert explored.aucs()[split]["bytes_per_pixel"] == pytest.approx(np.trapezoid(tpr, fpr))


def test_a_shortcut_shows_and_says_its_direction(explored: Exploration) -> None:
    films = explored.films.copy()
    films["bytes_per_pixel"] = np.where(films["label"] == PNEUMONIA, 0.1, 0.2)
    films["aspect"] = 1.0
    aucs = replace(explored, films=films).aucs()
    assert {of["bytes_per_pixel"] for of in aucs.values()} == {0.0}
    assert {of["aspect"] for of in aucs.values()} == {0.5}


def test_counts_agree_with_each_other(explored: Exploration) -> None:
    named, told = explored.named(), explored.as_dict()
    json.dumps(told, allow_nan=False)
    assert named["data/films"] == sum(named[f"data/{split}/films"] for split in explored.splits)
    assert named["data/films"] == told["films"] == sum(count["films"] for count in told["counts"])
    assert explored.patients()["films"].sum() == named["data/films"]
    assert set(told["aucs"]["train"]) == set(STATISTICS)
