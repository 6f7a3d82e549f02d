"""Films that a model does not know, in its evaluation: how many there are, and the scores of both kinds apart."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pneumonia.data.index import Index
from pneumonia.metrics import scores as metrics
from pneumonia.reports import model_card
from pneumonia.reports.evaluation_page import html
from pneumonia.results.evaluation import UNIQUE, Evaluation
from pneumonia.runs.artifacts import write_predictions
from tests.conftest import TINY
from tests.results.test_evaluation import assess, tables

STRANGE = 30  # the last ones


def known(*, failed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, predictions = tables(failed=failed)
    familiarity = np.where(np.arange(len(rows)) < len(rows) - STRANGE, 0.6, 0.01)
    familiar = pd.array(familiarity >= 0.05, dtype="boolean")
    return rows, predictions.assign(familiarity=familiarity, familiar=familiar)


@pytest.fixture(scope="module")
def result() -> Evaluation:
    return assess(*known())


def test_both_kinds_are_scored_apart(result: Evaluation) -> None:
    rows, predictions = tables(failed=0)
    labels, p = rows["label"].to_numpy(), predictions["probability"].to_numpy()
    parts = {"familiar": slice(-STRANGE), "unfamiliar": slice(-STRANGE, None)}
    named, told = result.named(), json.loads(json.dumps(result.as_dict(), allow_nan=False))["familiarity"]
    assert named["test/unfamiliar"] == told["share_unfamiliar"]["value"] == STRANGE / len(rows)
    assert named["test/unfamiliar_low"] < STRANGE / len(rows) < named["test/unfamiliar_high"]
    for name, part in parts.items():
        expected = metrics.score(labels[part], p[part], 0.4)
        assert told[name]["films"] == len(labels[part])
        for score in UNIQUE:
            assert named[f"test/{name}_{score}"] == told[name][score]["value"] == expected[score]


def test_the_text_and_the_page_say_so(result: Evaluation, index: Index) -> None:
    assert "30.0% of the films are unfamiliar to the model" in result.text()
    names = ("confusion_matrix", "roc", "precision_recall", "histograms")
    pictures = dict.fromkeys(names, b"")
    page = html(result, index, model="m", openings=1, pictures=pictures, calibrations=[], heatmaps=[b""] * 100)
    assert "Films that the model does not know" in page
    for part in result.by_familiarity.values():
        assert f"{part.scores['auc']:.3f} (" in page
    strange = [film for film in result.wrong() if film.familiarity < 0.05]
    assert strange
    assert page.count(", unfamiliar") == len(strange)
    assert page.count("0.010</td>") >= len(strange)


def test_a_film_that_could_not_be_scored_is_of_neither_kind() -> None:
    rows, predictions = known(failed=2)
    predictions.loc[:1, "familiarity"] = np.nan
    predictions.loc[:1, "familiar"] = pd.NA
    parts = assess(rows, predictions).by_familiarity
    assert {name: len(part.rows) for name, part in parts.items()} == {"familiar": 68, "unfamiliar": 30}


def test_all_films_may_be_familiar() -> None:
    rows, predictions = known()
    result = assess(rows[:50], predictions[:50])
    assert list(result.by_familiarity) == ["familiar"]
    assert result.named()["test/unfamiliar"] == 0


def test_of_a_model_of_before_nothing_is_said(index: Index) -> None:
    rows, predictions = tables(failed=0)
    silent = predictions.assign(familiarity=np.nan, familiar=pd.array([pd.NA] * len(rows), dtype="boolean"))
    for result in (assess(rows, predictions), assess(rows, silent)):
        assert result.by_familiarity == {}
        assert result.as_dict()["familiarity"] is None
        assert not [name for name in result.named() if "familiar" in name]
        assert "familiar" not in result.text()


def test_predictions_of_the_test_films_have_it(result: Evaluation, tmp_path) -> None:
    write_predictions(tmp_path / "test.csv", result.rows, result.probabilities, result.classes)
    table = pd.read_csv(tmp_path / "test.csv")
    assert table.columns.tolist() == ["path", "patient", "label", "probability", "familiarity", "familiar"]
    assert (~table["familiar"]).sum() == STRANGE


def test_the_card_says_what_was_not_measured(result: Evaluation, index: Index) -> None:
    made = model_card.Made(TINY, best_epoch=2)
    card = model_card.card("pneumonia", index=index, made=made, validation=replace(result, split="val"), tags={})
    assert "## Films that it does not know" in card
    assert "Below 0.05 it is called unfamiliar" in card
    tested = model_card.with_test(card, result, folder="films", openings=1)
    assert "30.0% of the films are unfamiliar" in tested
