"""The cards of adapted models: where they come from, what is known of them, and what is not."""

from dataclasses import replace

import pytest

from pneumonia.reports import model_card
from pneumonia.reports.adapted_card import adapted_card, matched_card
from pneumonia.results.adaptation import Matched, assess
from pneumonia.training.adaptation import Method
from tests.results.test_adaptation import CLASSES, adapted

TAGS = {"adapt.parent": "pneumonia/3", "adapt.parent_run": "abc", "adapt.place": "there", "data.fingerprint": "f" * 64}
MATCHED = Matched(films=50, prevalence=0.3, assumed=True, called_before=0.81, called=0.3, threshold=0.4)


def shorter(card: str) -> str:
    return model_card.summary(card, more="model_card.md")


@pytest.mark.parametrize("method", ["fine-tuned", "recalibrated"])
def test_a_card_says_where_the_model_comes_from_and_what_that_gained(method: Method) -> None:
    found = assess(*adapted(method=method), CLASSES)
    params = {"model": "models:/pneumonia/3", "replay": "none", "seed": 1}
    card = adapted_card("pneumonia-there", adaptation=found, params=params, tags=TAGS)
    assert "Made from pneumonia/3, run abc: " in card
    assert "scored by the way that the other parts chose" in shorter(card)
    assert found.text() in card
    assert "--name there --seed 1`" in card
    assert "--replay" not in card
    replayed = adapted_card("pneumonia-there", adaptation=found, params={**params, "replay": "/home"}, tags=TAGS)
    assert "with training films of its first place mixed in" in replayed
    assert "these weights" not in card
    found.adapted.model.networks[0].weights = "timm's lite (apache-2.0)"
    began = adapted_card("pneumonia-there", adaptation=found, params=params, tags=TAGS)
    assert "training of these weights began from timm's lite (apache-2.0)" in began


def test_a_card_without_labels_says_that_nobody_knows_what_it_is_worth() -> None:
    params = {"model": "models:/pneumonia/3", "labels": "none", "prevalence": 0.3}
    card = matched_card("pneumonia-there", matched=MATCHED, classes=CLASSES, params=params, tags=TAGS)
    assert "Made from pneumonia/3, run abc: its network as it was" in card
    assert "Not measured: nobody has read the films" in card
    assert "--name there --labels none --prevalence 0.3`" in card
    for said in (MATCHED.text(), "Where the prevalence is not 0.3", "at least 0.4000", "Not opened yet"):
        assert said in shorter(card)
    assert "assumed, since none was given" in card
    weights = "timm's lite (apache-2.0)"
    began = matched_card("pneumonia-there", matched=MATCHED, classes=CLASSES, params=params, tags=TAGS, weights=weights)
    assert f"training of these weights began from {weights}" in began
    given = matched_card(
        "pneumonia-there", matched=replace(MATCHED, assumed=False), classes=CLASSES, params=params, tags=TAGS
    )
    assert "as given" in given
