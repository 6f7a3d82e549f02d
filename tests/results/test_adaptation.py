"""What is said of an adapting: scores before and after on the same films, and their difference."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pneumonia.metrics.calibration import Calibration
from pneumonia.results.adaptation import Matched, assess
from pneumonia.training.adaptation import Adapted, Method, Model, Scored
from pneumonia.training.network import build

CLASSES = ("normal", "ill")


def scored(probabilities: np.ndarray, thresholds: np.ndarray) -> Scored:
    return Scored(probabilities=probabilities, thresholds=thresholds)


def adapted(films: int = 40, *, method: Method = "fine-tuned") -> tuple[Adapted, pd.DataFrame]:
    """Before: all ill at the threshold. Since: a third of the films on the wrong side of a threshold of their part."""
    rng = np.random.default_rng(0)
    labels, part = np.arange(films) % 2, np.arange(films) // 2 % 2
    after = np.clip(np.where(labels == 1, 0.6, 0.3) + rng.normal(0, 0.2, films), 0.01, 0.99)
    tuned = scored(after, np.where(part == 0, 0.4, 0.5))
    found = Adapted(
        model=Model(networks=[build(4, 0.0, seed=0)], calibration=Calibration(1.0, 0.0), threshold=0.45),
        method=method,
        fold=part,
        logits=after,
        before=scored(np.clip(after / 10 + 0.8, 0, 1), np.full(films, 0.5)),
        recalibrated=scored(after * 0.9, np.full(films, 0.4)),
        tuned=tuned,
        tuning_parts=(0, 1) if method == "fine-tuned" else (),
        seconds=1.0,
    )
    rows = pd.DataFrame({"path": [f"{n}.png" for n in range(films)], "patient": np.arange(films).astype(str)})
    return found, rows.assign(label=labels, sha256="")


def test_each_film_is_called_at_the_threshold_that_was_chosen_without_it() -> None:
    found, rows = adapted()
    told = assess(found, rows, CLASSES)
    labels = rows["label"].to_numpy()
    called = found.after.probabilities >= found.after.thresholds
    assert told.after.scores["sensitivity"] == pytest.approx(called[labels == 1].mean())
    assert told.after.scores["specificity"] == pytest.approx(1 - called[labels == 0].mean())
    assert told.after.confusion.tolist() == [
        [int((~called[labels == 0]).sum()), int(called[labels == 0].sum())],
        [int((~called[labels == 1]).sum()), int(called[labels == 1].sum())],
    ]
    assert told.before.scores["specificity"] == 0
    gain = told.gains["balanced_accuracy"]
    assert gain.value == pytest.approx(told.after.scores["balanced_accuracy"] - 0.5)
    assert gain.interval[0] < gain.value < gain.interval[1]


def test_metrics_text_and_json_say_the_same() -> None:
    told = assess(*adapted(), CLASSES)
    named, json = told.named(), told.as_dict()
    assert named["gain/auc"] == json["gain"]["auc"]["value"]
    assert [named["gain/brier_low"], named["gain/brier_high"]] == json["gain"]["brier"]["interval"]
    assert all(np.isfinite(value) for value in named.values())
    assert f"{named['after/auc']:.3f}" in told.text()
    assert "40 local films of 40 patients (20 ill, 20 normal)" in told.text()
    assert "only 20 ill films" in told.text()


@pytest.mark.parametrize(
    ("method", "tuned", "said"),
    [
        ("fine-tuned", True, "fine-tuned and recalibrated; fine-tuning gave AUC"),
        ("fine-tuned", True, "scored by the way that the other parts chose, 2 of 2 by fine-tuning"),
        ("recalibrated", True, "fine-tuning would not have paid"),
        ("recalibrated", False, "fine-tuning needs 16 films and 5 patients of each class"),
    ],
)
def test_what_was_done_is_said(method: Method, tuned: bool, said: str) -> None:
    found, rows = adapted(method=method)
    told = assess(found if tuned else replace(found, tuned=None), rows, CLASSES)
    assert said in told.text()
    assert bool(told.learned) is tuned


def test_a_threshold_without_labels_says_what_it_rests_on() -> None:
    found = Matched(films=50, prevalence=0.3, assumed=True, called_before=0.81, called=0.3, threshold=0.4)
    assert "Of 50 films without labels 81% were called ill before, 30% now" in found.text()
    assert "assumed" in found.text()
    assert "as given" in replace(found, assumed=False).text()
    assert found.as_dict()["method"] == "unlabelled"
