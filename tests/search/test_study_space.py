"""A study keeps the space that it began with, and one of other parameters is refused."""

from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from pneumonia.search import connection, pruning, report
from pneumonia.search import study as studies
from pneumonia.search.storage import StudyError
from pneumonia.search_space import search_space
from tests.search.conftest import BASE, SPACE, claim


def test_the_first_trial_is_the_recipe(study: optuna.Study) -> None:
    assert claim(study).params == {name: getattr(BASE, name) for name in SPACE}


def test_parameters_lie_in_the_search_space(study: optuna.Study) -> None:
    for _ in range(6):
        params = claim(study).params
        replace(BASE, **params)
        for name, allowed in SPACE.items():
            assert params[name] in allowed.choices or allowed.low <= params[name] <= allowed.high


MINE = {"x": FloatDistribution(0, 1)}


def ask_for(study: optuna.Study) -> None:
    study.tell(study.ask(dict(MINE)), 0.5)


def queue(study: optuna.Study) -> None:
    study.enqueue_trial({"lr": 1e-3, "x": 0.5})


def write_a_space(study: optuna.Study) -> None:
    study.set_user_attr("space", {"x": distribution_to_json(MINE["x"])})


def write_nonsense(study: optuna.Study) -> None:
    study.set_user_attr("space", "films")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (ask_for, "other parameters than a search's: x;"),
        (queue, "other parameters than a search's: x;"),
        (write_a_space, "other parameters than a search's: x;"),
        (write_nonsense, "attribute 'space' of study films"),
    ],
)
def test_a_study_with_other_parameters_is_refused(make: Callable[[optuna.Study], None], word: str, url: str) -> None:
    theirs = optuna.create_study(study_name="films", storage=url)
    make(theirs)
    before = theirs.user_attrs, theirs.get_trials()
    for call in (
        lambda: studies.check(url, "films"),
        lambda: studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True),
    ):
        with pytest.raises(StudyError, match=word):
            call()
    assert (theirs.user_attrs, theirs.get_trials()) == before


def test_an_empty_study_made_beforehand_is_searched(url: str) -> None:
    """And one that follows a finished one is what counts."""
    optuna.create_study(study_name="films", storage=url)
    studies.check(url, "films")
    study = studies.create_or_resume(connection.connect(url), "films", BASE, SPACE, changed=True)
    assert claim(study).params == {name: getattr(BASE, name) for name in SPACE}
    studies.check(url, "films")
    study.set_user_attr("finished", "run")
    studies.check(url, "films")
    optuna.create_study(study_name="films-2", storage=url, direction="maximize")
    with pytest.raises(StudyError, match="films-2 is to maximize"):
        studies.check(url, "films")


def test_a_study_of_an_earlier_version_keeps_its_space(study: optuna.Study, url: str) -> None:
    """It has no space written down; its trials say what it is. One of the default name is named, not gone on with."""
    old = {"lr": FloatDistribution(5e-4, 1e-2, log=True), "width": CategoricalDistribution((8, 12, 16, 24))}
    name = f"{'f' * 12}-01234567"
    earlier = optuna.create_study(study_name=name, storage=connection.connect(url))
    earlier.set_user_attr("objective", studies.judge(changed=True))
    earlier.enqueue_trial({"lr": BASE.lr, "width": BASE.width})
    earlier.tell(earlier.ask(old), 0.5)
    resumed = studies.create_or_resume(connection.connect(url), name, BASE, SPACE, changed=True)
    assert resumed.study_name == name
    assert claim(resumed).params.keys() == old.keys()
    assert pruning.one_remains(resumed, BASE)
    assert list(report.table(resumed).columns[-5:]) == ["lr", "width", "epochs", "seconds", "reason"]
    assert studies.left_behind(connection.connect(url), "f" * 64) == {name: studies.judge(changed=True)}
    assert studies.left_behind(connection.connect(url), "e" * 64) == {}
    resumed.set_user_attr("finished", "run")
    assert studies.left_behind(connection.connect(url), "f" * 64) == {}


def test_long_trials_begin_with_what_few_films_have_wanted(url: str) -> None:
    study = studies.create_or_resume(connection.connect(url), "long", BASE, SPACE, changed=True, long=True)
    first = [claim(study).params for _ in range(5)]
    assert first[0] == {name: getattr(BASE, name) for name in SPACE}
    assert [p["batch_size"] for p in first[:4]] == [64, 16, 64, 64]
    few = studies.create_or_resume(connection.connect(url), "few", BASE, SPACE, changed=True, long=True, goal=2)
    assert len(studies.trials(few)) == 2
    fixed = {name: one for name, one in SPACE.items() if name != "disturb"}
    study = studies.create_or_resume(connection.connect(url), "fixed", BASE, fixed, changed=True, long=True)
    assert all(claim(study).params.keys() == fixed.keys() for _ in range(4))
    short = studies.create_or_resume(connection.connect(url), "short", BASE, search_space(long=False), changed=True)
    assert len(studies.trials(short)) == 1
