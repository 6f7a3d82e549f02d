import json

import numpy as np
import pandas as pd
import pytest

from pneumonia import evaluate, metrics
from pneumonia.calibration import Calibration


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
        }
    )
    predictions = pd.DataFrame(
        {"probability": np.where(bad, np.nan, probabilities), "error": np.where(bad, "the film is cut off", "")}
    )
    return rows, predictions


def assess(rows: pd.DataFrame, predictions: pd.DataFrame) -> evaluate.Evaluation:
    return evaluate.assess(rows, predictions, split="test", classes=("NORMAL", "PNEUMONIA"), threshold=0.4)


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
