"""Answers whose truth is known, and what is said of them."""

import re

import numpy as np
import pandas as pd
import pytest

from pneumonia.results.monitoring import Version, monitor

CLASSES = ("NORMAL", "PNEUMONIA")


def val(films=400):
    rng = np.random.default_rng(0)
    ill = rng.random(films) < 0.6
    x = np.where(ill, 2.5, -2.5) + 1.5 * rng.normal(size=films)
    label = np.where(ill, CLASSES[1], CLASSES[0])
    return pd.DataFrame({"path": "", "patient": np.arange(films), "label": label, "probability": 1 / (1 + np.exp(-x))})


def made(days=20, films=30, *, share=0.6, shift=0.0, strange=0.05, start="2026-03-02", apart=2.5, seed=1):
    """Answers and the true classes of their films."""
    rng = np.random.default_rng(seed)
    n = days * films
    ill = rng.random(n) < share
    p = 1 / (1 + np.exp(-(np.where(ill, apart, -apart) + 1.5 * rng.normal(size=n) + shift)))
    answers = pd.DataFrame(
        {
            "time": pd.Timestamp(start, tz="UTC") + pd.to_timedelta(np.arange(n) // films, unit="D"),
            "version": "pneumonia/1",
            "sha256": [f"{start}-{number}" for number in range(n)],
            "probability": p,
            "label": np.where(p >= 0.5, CLASSES[1], CLASSES[0]),
            "familiarity": 0.5,
            "familiar": (rng.random(n) >= strange).astype(float),
            "error": "",
        }
    )
    labels = pd.DataFrame({"sha256": answers["sha256"], "label": ill.astype(int), "patient": answers["sha256"]})
    return answers, labels


def look(answers, **given):
    version = Version(model="the model", classes=CLASSES, threshold=0.5, val=given.pop("val", val()))
    return monitor(answers, version, **given)


def test_alike_films_have_not_changed():
    answers, labels = made()
    found = look(answers, labels=labels)
    assert found.changes == []
    assert found.sentence().startswith("nothing says that the films of the model have changed (600 answers, 20 days)")
    assert found.as_dict()["changed"] is False
    assert found.labelled.scores["auc"] > 0.95


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shift": 2.0}, "scores are higher .* no share of PNEUMONIA explains it"),
        ({"share": 0.1}, r"scores are lower .* \d+% of PNEUMONIA would explain it"),
        ({"strange": 0.3}, r"% of the films are unfamiliar .*5% were"),
        ({"apart": 0.8}, "AUC is 0.7.. on 600 labelled films"),
    ],
)
def test_a_change_is_named_in_one_sentence(changed, words):
    answers, labels = made(**changed)
    found = look(answers, labels=labels)
    assert found.as_dict()["changed"] is True
    assert found.sentence().startswith("the model is asked about other films than it was validated on: ")
    assert re.search(words, found.sentence())


def test_another_share_of_ill_films_may_be_no_change():
    answers, _ = made(share=0.1)
    assert look(answers, any_share=True).changes == []
    assert look(made(shift=2.0)[0], any_share=True).changes != []


def test_two_days_are_too_few():
    found = look(made(days=2, shift=4, strange=0.5)[0])
    assert found.changes == []
    assert "too few to tell" in found.sentence()
    assert "served/score_p" not in found.named()


def test_days_refusals_and_shares_are_counted():
    answers, _ = made(days=3, films=10)
    answers.loc[[3, 4], ["probability", "familiar"]] = np.nan
    answers.loc[[3, 4], "label"] = ""
    answers.loc[3, "error"], answers.loc[4, "error"] = "damaged", "other_format"
    answers.loc[5, "error"] = "damaged"
    found = look(answers)
    assert found.refusals == {"damaged": 2, "other_format": 1}
    assert found.days["answers"].tolist() == [10, 10, 10]
    assert found.days["refused"].tolist() == [3, 0, 0]
    named = found.named()
    assert (named["served/answers"], named["served/refused"], named["served/days"]) == (30, 3, 3)
    scored = answers[answers["error"] == ""]
    assert named["served/positive"] == pytest.approx((scored["label"] == "PNEUMONIA").mean())
    assert found.days["positive"].iloc[0] == pytest.approx((scored["label"][:7] == "PNEUMONIA").mean())


def test_answers_without_familiarity_say_nothing_of_it():
    answers, _ = made()
    answers["familiar"] = np.nan
    found = look(answers)
    assert "served/unfamiliar" not in found.named()
    assert found.changes == []
    assert "not said" in found.text()


def test_without_validation_films_the_rest_is_told():
    found = look(made()[0], val=None)
    assert found.drift is None
    assert "no validation films" in found.sentence()
    assert found.named()["served/answers"] == 600


def test_only_refusals():
    answers, _ = made(days=4, films=5)
    answers["error"], answers["probability"], answers["familiar"] = "damaged", np.nan, np.nan
    found = look(answers)
    assert found.drift is None
    assert found.named()["served/refused"] == 20
    assert found.text()


@pytest.mark.parametrize(("films", "names"), [(20, ["2026-W10", "2026-W11"]), (2, ["2026-03"])])
def test_labelled_films_go_by_weeks_where_they_are_many_and_else_by_months(films, names):
    answers, labels = made(days=14, films=films)
    found = look(answers, labels=labels)
    assert [period.name for period in found.periods] == names
    assert sum(period.films for period in found.periods) == found.labelled.films == 14 * films
    for period in found.periods:
        low, high = period.intervals["sensitivity"]
        assert low <= period.scores["sensitivity"] <= high


def test_a_film_that_was_asked_twice_is_scored_once():
    answers, labels = made(days=4)
    found = look(pd.concat([answers, answers]).sort_values("time"), labels=labels)
    assert found.labelled.films == len(answers)
    assert len(found.answers) == 2 * len(answers)
