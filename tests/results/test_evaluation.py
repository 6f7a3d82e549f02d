"""The numbers of an evaluation: of all films, of copies, of subgroups, of films that could not be scored."""

import json

import numpy as np
import pandas as pd
import pytest

from pneumonia.metrics import scores as metrics
from pneumonia.metrics.calibration import Calibration
from pneumonia.results import evaluation


def tables(*, negative: int = 40, positive: int = 60, failed: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of an index and `predict`'s table for them; the first `failed` films could not be scored."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], [negative, positive]))
    probabilities = Calibration(1.0, 0.0).apply(rng.normal(3 * labels - 1.5, 1.5))
    bad = np.arange(labels.size) < failed
    rows = pd.DataFrame(
        {
            "path": [f"test/{i}.jpeg" for i in range(labels.size)],
            "label": labels,
            "patient": [f"p{i // 2}" for i in range(labels.size)],
            "subtype": np.where(labels == 1, np.where(np.arange(labels.size) % 3, "virus", "bacteria"), ""),
            "sha256": [f"{i}" for i in range(labels.size)],
        }
    )
    predictions = pd.DataFrame(
        {"probability": np.where(bad, np.nan, probabilities), "error": np.where(bad, "the film is cut off", "")}
    )
    return rows, predictions


def assess(rows: pd.DataFrame, predictions: pd.DataFrame) -> evaluation.Evaluation:
    return evaluation.assess(rows, predictions, split="test", classes=("NORMAL", "PNEUMONIA"), threshold=0.4)


def test_scores_are_those_of_the_films_that_could_be_scored() -> None:
    rows, predictions = tables()
    result = assess(rows, predictions)
    labels, p = rows["label"].to_numpy()[2:], predictions["probability"].to_numpy()[2:]
    assert result.scores == metrics.score(labels, p, 0.4)
    assert result.confusion.sum() == len(result.rows) == 98
    assert result.rows["path"].tolist() == rows["path"].tolist()[2:]
    assert result.failures == [(f"test/{i}.jpeg", "the film is cut off") for i in range(2)]
    named = result.named()
    for name, value in result.scores.items():
        assert named[f"test/{name}"] == value
        if name != "ece":
            assert named[f"test/{name}_low"] <= value <= named[f"test/{name}_high"]


def test_the_text_holds_every_score_and_every_film_that_failed() -> None:
    result = assess(*tables())
    text = result.text()
    assert text.startswith("98 test films of 49 patients")
    for value in result.scores.values():
        assert f"{value:.3f}" in text
    assert text.count("not scored: test/") == 2
    many = assess(*tables(failed=30)).text()
    assert many.count("not scored: test/") == 5
    assert "not scored: 25 more, see evaluation.json" in many
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_a_missing_class_is_said_and_is_json() -> None:
    result = assess(*tables(negative=0, failed=0))
    assert "test/auc" not in result.named()
    assert "no NORMAL film" in result.text()
    as_dict = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert as_dict["scores"]["auc"] == {"value": None, "interval": [None, None]}
    assert as_dict["scores"]["sensitivity"]["value"] == result.scores["sensitivity"]
    assert np.sum(as_dict["confusion_matrix"]) == as_dict["films"] == 60


def test_no_film_that_could_be_scored_is_said() -> None:
    with pytest.raises(ValueError, match=r"none of 100 test films .* test/0\.jpeg: the film is cut off"):
        assess(*tables(failed=100))


def test_wrong_films_are_those_called_what_they_are_not_the_surest_first() -> None:
    result = assess(*tables(failed=0))
    wrong = result.wrong()
    assert len(wrong) == result.confusion[0, 1] + result.confusion[1, 0] > 3
    assert all((film.probability >= 0.4) == (film.label == 0) for film in wrong)
    logits = [abs(np.log(film.probability / (1 - film.probability)) - np.log(0.4 / 0.6)) for film in wrong]
    assert logits == sorted(logits, reverse=True)


def test_copies_are_counted_once_among_the_unique_films() -> None:
    rows, predictions = tables(failed=0)
    assert assess(rows, predictions).unique is None
    twice = assess(pd.concat([rows, rows.head(10)]), pd.concat([predictions, predictions.head(10)]))
    unique = twice.unique
    assert unique is not None
    assert (len(twice.rows), len(unique.rows)) == (110, 100)
    assert unique.scores == assess(rows, predictions).scores


def test_what_the_page_shows_is_among_the_metrics() -> None:
    rows, predictions = tables()
    twice = [pd.concat([table, table[2:12]], ignore_index=True) for table in (rows, predictions)]
    result = assess(*twice)
    named, as_dict = result.named(), json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert (named["test/films"], named["test/not_scored"]) == (108, 2)
    assert named["test/patients"] == result.rows["patient"].nunique()
    for at, told in zip(result.predictive, as_dict["predictive_values"], strict=True):
        assert named[f"test/ppv_at_{at.prevalence:g}"] == at.ppv == told["ppv"]["value"]
        assert named[f"test/npv_at_{at.prevalence:g}_low"] == at.npv_interval[0]
    assert result.unique is not None
    assert named["test/unique_auc"] == result.unique.scores["auc"] == as_dict["unique"]["auc"]["value"]
    assert as_dict["unique"]["films"] == 98
    assert as_dict["best_accuracy"] == result.best_accuracy >= result.scores["accuracy"]


def test_subgroups_make_up_the_whole() -> None:
    result = assess(*tables(failed=0))
    right = sum(group.right * group.films for group in result.subgroups)
    assert right == pytest.approx(result.scores["accuracy"] * 100)
    assert {name: len(p) for name, p in result.by_group().items()} == {
        result.name(group.label, group.subtype): group.films for group in result.subgroups
    }
    named = result.named()
    for subtype in ("bacteria", "virus"):
        low, value, high = (named[f"test/sensitivity_{subtype}{end}"] for end in ("_low", "", "_high"))
        assert low < value < high


def test_the_bootstrap_of_auc_is_that_of_whole_patients() -> None:
    result = assess(*tables(failed=0))
    rng = np.random.default_rng(1)
    labels, patient = result.rows["label"].to_numpy(), np.arange(100) // 2
    drawn = []
    for _ in range(1000):
        films = np.concatenate([np.flatnonzero(patient == one) for one in rng.integers(0, 50, 50)])
        drawn.append(metrics.auc(labels[films], result.probabilities[films]))
    assert result.auc_bootstrap == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.015)
    assert result.named()["test/auc_bootstrap_low"] == result.auc_bootstrap[0]
    assert result.as_dict()["auc_bootstrap"] == list(result.auc_bootstrap)


def test_the_best_accuracy_is_that_of_the_best_threshold() -> None:
    result = assess(*tables(failed=0))
    labels = result.rows["label"].to_numpy()
    grid = np.linspace(0, 1, 20_001)
    expected = max(((result.probabilities >= at) == (labels == 1)).mean() for at in grid)
    assert metrics.best_accuracy(labels, result.probabilities) == pytest.approx(expected)
