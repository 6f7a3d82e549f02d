"""Means over seeds on the same films: the interval holds the truth, whether seeds, films or both are what differs."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from pneumonia.metrics import recipe_differences
from pneumonia.metrics import scores as metrics
from pneumonia.metrics.logistic import sigmoid
from pneumonia.metrics.recipe_differences import Scores, mean_difference

NAMES = ("accuracy", "auc")


def simulate(
    rng: np.random.Generator,
    *,
    seeds: tuple[int, int] = (5, 5),
    films: int = 120,
    skills: tuple[float, float] = (1.0, 1.0),
    apart: float,
    alike: float = 0.0,
    own: float = 0.3,
    together: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Labels and patients [N], two films each, and the probabilities [S, N] of each recipe's models.

    A model's logit is its skill times the truth plus a film's difficulty of variance 1. Skills of a recipe's seeds have
    the standard deviation `apart`, of which the share `alike` is the seed's own in both recipes. Of the difficulty the
    share .4 is the same to all models, `own` to all of a recipe, the rest differs; `together` is the correlation of a
    patient's films in the first two.
    """
    y, patients = np.tile([0, 0, 1, 1], films // 4), np.arange(films) // 2

    def difficulty(share: float) -> np.ndarray:
        of_patients = rng.normal(size=films // 2)[patients]
        return np.sqrt(share) * (np.sqrt(together) * of_patients + np.sqrt(1 - together) * rng.normal(size=films))

    of_all, of_seed, found = difficulty(0.4), rng.normal(size=max(seeds)), []
    for skill, n in zip(skills, seeds, strict=True):
        moved = apart * (np.sqrt(alike) * of_seed[:n] + np.sqrt(1 - alike) * rng.normal(size=n))
        rest = np.sqrt(0.6 - own) * rng.normal(size=(n, films))
        found.append(sigmoid(2 * ((2 * y - 1) * (skill + moved)[:, None] + of_all + difficulty(own) + rest)))
    return y, patients, found


def truth(skill: float, apart: float) -> dict[str, float]:
    """A recipe's scores in the mean over all seeds and films."""
    return {
        "accuracy": float(stats.norm.cdf(skill / np.sqrt(1 + apart**2))),
        "auc": float(stats.norm.cdf(np.sqrt(2) * skill / np.sqrt(1 + 2 * apart**2))),
    }


def simulated(times: int, **setting: Any) -> list[list[dict[str, Scores]]]:
    """The scores of both recipes, `times` times."""
    rng, found = np.random.default_rng(0), []
    for at in range(times):
        y, patients, models = simulate(rng, **setting)
        found.append(
            [recipe_differences.scores(y, p, [0.5] * len(p), patients=patients, draws=200, seed=at) for p in models]
        )
    return found


def coverage(
    found: list[list[dict[str, Scores]]], *, paired: bool = True, films_alone: bool = False, **setting: Any
) -> dict[str, float]:
    """How often the interval holds the true difference, by score; `films_alone` is the same with seeds that are said
    not to differ.
    """
    held = dict.fromkeys(NAMES, 0)
    first, second = (truth(skill, setting["apart"]) for skill in setting.get("skills", (1.0, 1.0)))
    for each in found:
        for name in NAMES:
            scores = [of[name] for of in each]
            if films_alone:
                scores = [Scores(np.full_like(of.values, of.values.mean()), of.drawn) for of in scores]
            low, high = mean_difference(*scores, paired=paired).interval
            held[name] += low <= second[name] - first[name] <= high
    return {name: count / len(found) for name, count in held.items()}


def test_the_simulation_s_truth_is_true() -> None:
    y, _, (first, second) = simulate(
        np.random.default_rng(0), seeds=(400, 400), films=2000, skills=(1.0, 1.3), apart=0.3
    )
    for probabilities, skill in ((first, 1.0), (second, 1.3)):
        found = {
            "accuracy": [np.mean((p >= 0.5) == (y == 1)) for p in probabilities[:200]],
            "auc": [metrics.auc(y, p) for p in probabilities[:200]],
        }
        for name, value in truth(skill, 0.3).items():
            assert np.mean(found[name]) == pytest.approx(value, abs=0.025)


@pytest.mark.slow
def test_seeds_and_films_both_count() -> None:
    """With seeds that lie apart an interval of films alone would hold the truth half of the time."""
    found = simulated(60, apart=0.3)
    whole, alone = coverage(found, apart=0.3), coverage(found, apart=0.3, films_alone=True)
    for name in NAMES:
        assert whole[name] >= 0.87
        assert alone[name] < 0.75


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"apart": 0.3},
        {"apart": 0.0},
        {"apart": 0.1, "own": 0.55},
        {"apart": 0.1, "own": 0.5, "together": 0.8},
        {"apart": 0.2, "skills": (1.0, 1.4)},
        {"apart": 0.3, "alike": 0.8},
        {"apart": 0.3, "paired": False},
        {"apart": 0.1, "paired": False, "own": 0.55},
        {"apart": 0.1, "seeds": (3, 3)},
        {"apart": 0.1, "seeds": (4, 6), "paired": False},
    ],
)
def test_the_interval_holds_the_truth(setting: dict[str, Any]) -> None:
    """Of 300 with 95% each, 99.9% of the time 271 to 297 hold it; a little is left to few films."""
    of_films = {name: value for name, value in setting.items() if name != "paired"}
    for name, share in coverage(simulated(300, **of_films), **setting).items():
        assert 0.90 <= share <= 0.995, name


def test_seeds_that_do_the_same_to_both_are_no_part_of_the_difference() -> None:
    y, patients, models = simulate(np.random.default_rng(1), films=400, apart=0.4, alike=1.0)
    first, second = (recipe_differences.scores(y, p, [0.5] * 5, patients=patients, draws=200)["auc"] for p in models)
    by_seed = mean_difference(first, second, paired=True)
    by_recipe = mean_difference(first, second, paired=False)
    assert by_seed.value == by_recipe.value == pytest.approx(second.values.mean() - first.values.mean())
    assert np.diff(by_seed.interval) < 0.5 * np.diff(by_recipe.interval)


def test_films_that_all_models_share_widen_no_difference_but_those_of_a_recipe_do() -> None:
    """All models alike: nothing. One recipe better on some patients: as wide as the films make it."""
    drawn = np.random.default_rng(0).normal(0.9, 0.01, 500)
    values = np.array([0.89, 0.90, 0.91])
    alike = Scores(values, np.tile(drawn, (3, 1)))
    nothing = mean_difference(alike, alike, paired=True)
    assert (nothing.value, nothing.p) == (0.0, 1.0)
    assert np.isnan(nothing.interval).all()
    other = Scores(values + 0.01, np.tile(np.random.default_rng(1).normal(0.9, 0.01, 500), (3, 1)))
    found = mean_difference(alike, other, paired=True)  # seeds differ by the same: films alone, two times .01
    assert np.diff(found.interval)[0] == pytest.approx(2 * 1.96 * 0.01 * np.sqrt(2), rel=0.1)


def test_where_films_do_not_matter_it_is_the_t_test_of_the_seeds() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.9, 0.01, 5), rng.normal(0.92, 0.01, 5)
    still = [Scores(values, np.tile(values[:, None], 10)) for values in (first, second)]
    paired, apart = (mean_difference(*still, paired=paired) for paired in (True, False))
    assert paired.p == pytest.approx(stats.ttest_rel(second, first).pvalue)
    assert paired.interval == pytest.approx(tuple(stats.ttest_rel(second, first).confidence_interval()))
    assert apart.p == pytest.approx(stats.ttest_ind(second, first, equal_var=False).pvalue)
    welch = stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    assert apart.interval == pytest.approx(tuple(welch))


def test_what_cannot_be_told_has_no_interval() -> None:
    one = Scores(np.array([0.9]), np.full((1, 10), 0.9))
    two = Scores(np.array([0.9, 0.91]), np.full((2, 10), 0.9))
    with pytest.raises(ValueError, match="takes two of each recipe: 1 and 2"):
        mean_difference(one, two, paired=False)
    three = Scores(np.array([0.9, 0.91, 0.92]), np.full((3, 10), 0.9))
    with pytest.raises(ValueError, match="pairs as many: 2 and 3"):
        mean_difference(two, three, paired=True)
    without = Scores(np.full(2, np.nan), np.full((2, 10), np.nan))
    assert np.isnan(mean_difference(without, two, paired=True).value)
    rare = Scores(np.array([0.9, 0.91]), np.full((2, 10), np.nan))
    assert np.isnan(mean_difference(rare, two, paired=True).interval).all()
