"""Models side by side on the same films."""

import json

import numpy as np
import pandas as pd
import pytest

from pneumonia.results.comparison import Comparison, assess


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


def test_films_of_one_class_cannot_be_compared_on() -> None:
    rows = pd.DataFrame({"path": ["a", "b"], "label": [1, 1], "patient": ["p", "q"]})
    with pytest.raises(ValueError, match="both classes"):
        assess(rows, np.full((2, 2), 0.5), names=["a", "b"], thresholds=[0.5] * 2, classes=("NORMAL", "PNEUMONIA"))
