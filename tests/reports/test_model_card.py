from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.data.index import Index
from pneumonia.reports import model_card
from pneumonia.results.evaluation import Evaluation, assess
from tests.conftest import TINY


def evaluated(index: Index, split: str) -> Evaluation:
    rows = index.table[index.table["split"] == split]
    p = np.clip(np.random.default_rng(1).normal(0.3 + 0.4 * rows["label"], 0.2), 0, 1)
    scored = pd.DataFrame({"probability": p, "error": ""})
    return assess(rows, scored, split=split, classes=index.classes, threshold=0.4)  # type: ignore[arg-type]


@pytest.fixture
def whole(index: Index) -> str:
    validation = evaluated(index, "val")
    tags = {"mlflow.source.git.commit": "abc123"}
    return model_card.card(
        "pneumonia", index=index, made=model_card.Made(TINY, best_epoch=2), validation=validation, tags=tags
    )


def test_the_card_says_what_made_the_model(whole: str, index: Index) -> None:
    for said in ("abc123", index.fingerprint, "--seed 0", f"--width {TINY.width}", "0.4000", "not a medical device"):
        assert said in whole
    for count in index.report.counts:
        assert f"| {count['split']} | {count['class']} | {count['subtype'] or '-'} | {count['films']} |" in whole
    assert "Not opened yet" in whole


def test_the_card_says_which_network_it_is_and_what_it_started_from() -> None:
    config = replace(TINY, network="resnet18")
    assert model_card.Made(TINY, 2).network() == "Residual CNN of width 4 from random weights, 32 px"
    assert model_card.Made(config, 2).network() == "resnet18 from random weights, 32 px"
    assert model_card.Made(config, 2, weights="w.pth").network() == "resnet18 from the weights w.pth, 32 px"


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_card_tells_of_painted_opacities(index: Index, share: float) -> None:
    config, validation = replace(TINY, opacity=share), evaluated(index, "val")
    text = model_card.card(
        "pneumonia", index=index, made=model_card.Made(config, best_epoch=2), validation=validation, tags={}
    )
    assert ("A share of 0.3 of the normal films drawn" in text) == (share > 0)


@pytest.mark.parametrize(("changed", "classes"), [(True, None), (False, None), (True, ("virus", "bacteria"))])
def test_the_card_says_which_films_chose_the_epoch(
    index: Index, changed: bool, classes: tuple[str, str] | None
) -> None:
    of = replace(index, classes=classes or index.classes)
    made = model_card.Made(TINY, best_epoch=2, changed=changed)
    text = model_card.card("pneumonia", index=of, made=made, validation=evaluated(index, "val"), tags={})
    assert ("as they are and changed" in text) == changed
    assert ("of normal ones painted, which count as ill" in text) == (changed and classes is None)


def test_the_card_says_how_many_networks_were_joined(index: Index) -> None:
    made = model_card.Made(TINY, best_epoch=0, members=3)
    text = model_card.card("pneumonia", index=index, made=made, validation=evaluated(index, "val"), tags={})
    assert "the mean of the 3 best trials' networks" in text
    assert "pneumonia search --data FILMS --positive PNEUMONIA --seed 0" in text
    assert "Positive class: PNEUMONIA; negative class: NORMAL." in text


def test_the_command_in_the_card_is_one_that_the_program_takes(whole: str) -> None:
    from pneumonia.cli.runs import train

    (line,) = [line for line in whole.splitlines() if "pneumonia train" in line]
    words = line.strip("- `").split()[2:]
    parsed = train.make_context("train", words).params
    assert {name: parsed[name] for name in ("size", "width", "lr", "seed", "sampler")} == {
        name: getattr(TINY, name) for name in ("size", "width", "lr", "seed", "sampler")
    }


def test_test_figures_take_the_place_of_their_absence(whole: str, index: Index) -> None:
    evaluation = evaluated(index, "test")
    tested = model_card.with_test(whole, evaluation, folder="chest_xray", openings=1)
    assert "Not opened yet" not in tested
    assert f"{evaluation.scores['auc']:.3f}" in tested
    assert [line for line in tested.splitlines() if line.startswith("#")] == [
        line for line in whole.splitlines() if line.startswith("#")
    ]
    again = model_card.with_test(tested, evaluation, folder="chest_xray", openings=2)
    assert again == tested.replace("the first time that they were opened", "opening number 2")


def test_a_description_never_exceeds_what_mlflow_takes(whole: str, index: Index) -> None:
    tested = model_card.with_test(whole, evaluated(index, "test"), folder="chest_xray", openings=1)
    for text in (whole, tested, tested.replace("Not for", "Not for " * 2000)):
        short = model_card.summary(text, more="model_card.md")
        assert len(short) <= 5000
        assert short.endswith("model_card.md")
        assert "## Test films" in short
    assert "## Intended use" in model_card.summary(tested, more="there")


def test_whose_films_they_are(index: Index) -> None:
    assert model_card.origin(index) == "synthetic" if "synthetic-v" in str(index.root) else "kermany"
    assert model_card.origin(replace(index, root=Path("/data/chest_xray"))) == "kermany"
    assert (
        model_card.origin(replace(index, root=Path("/h/.pneumonia/synthetic/synthetic-v1-s0/chest_xray")))
        == "synthetic"
    )
    assert model_card.origin(replace(index, root=Path("/data"), classes=("cat", "dog"))) == "other"
