"""Recipes side by side, each trained with several seeds, on the same films: the means of their scores, and whether the
differences are more than chance in seeds and films.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pneumonia.metrics import recipe_differences
from pneumonia.metrics.paired_tests import Difference, holm
from pneumonia.metrics.scores import Floats, mean_and_spread, number
from pneumonia.results.comparison import LEVEL, NOTE, SCORES, markdown, with_interval

TESTED = (("auc", "AUC"), ("accuracy", "accuracy"), ("log_loss", "log loss"))
METHOD = (
    "A difference's interval holds the chance of seeds and of patients together (Obuchowski and Rockette 1995; Hillis "
    "2007): it is about recipes, and one model of the better one may be the worse model"
)
PAIRED = "both recipes have the seeds {}: they are compared seed by seed"
UNPAIRED = "{} has not the seeds of {}: their seeds are compared as different ones"


@dataclass(frozen=True)
class Recipe:
    """What a recipe's models say of N films: `seeds` [S], `probabilities` float [S, N], `thresholds` [S], and the
    parameters that its trainings have in common.
    """

    name: str
    seeds: list[int]
    thresholds: list[float]
    probabilities: Floats
    params: dict[str, str]


@dataclass(frozen=True)
class Recipes:
    """Recipes on the same films. The first is the reference.

    `rows` are the films as in `Index.table`; `scores` are by name the values of each seed [S], one mapping a recipe;
    `differences` are by name the means of a later recipe minus the reference's, one mapping a recipe after the first,
    with p-values of those in `TESTED` after Holm's adjustment for the number of recipes; `failures` and `notes` as for
    `Comparison`.
    """

    recipes: list[Recipe]
    classes: tuple[str, str]
    rows: pd.DataFrame
    scores: list[dict[str, Floats]]
    differences: list[dict[str, Difference]]
    failures: list[tuple[str, str]]
    notes: list[str]

    @property
    def numbered(self) -> list[str]:
        """The recipes' names with their numbers, by which pages and figures tell them apart."""
        return [f"#{at} {recipe.name}" for at, recipe in enumerate(self.recipes, start=1)]

    def by_name(self) -> dict[str, dict[str, Floats]]:
        """Each recipe's scores by seed, under its numbered name."""
        return dict(zip(self.numbered, self.scores, strict=True))

    def table(self) -> pd.DataFrame:
        """Mean ± standard deviation over seeds as text, a row a recipe, with the differences of the means below."""
        lines = [
            {"recipe": recipe.name, **{name: mean_and_spread(*_mean(values[name])) for name in SCORES}}
            for recipe, values in zip(self.recipes, self.scores, strict=True)
        ]
        for recipe, found in zip(self.recipes[1:], self.differences, strict=True):
            shown = {name: with_interval(found[name]) for name in SCORES}
            lines.append({"recipe": f"{recipe.name} - {self.recipes[0].name}", **shown})
        return pd.DataFrame(lines)

    def text(self) -> str:
        """Markdown: the recipes by number, a table of their scores, one of the differences, and what the tests say."""
        numbers = [str(at) for at in range(1, len(self.recipes) + 1)]
        pairs, rows = [f"{at} - 1" for at in numbers[1:]], self.table()
        lines = [f"{at}. {recipe.name}: {len(recipe.seeds)} seeds" for at, recipe in enumerate(self.recipes, start=1)]
        for header, part in ((numbers, rows[: len(numbers)]), (pairs, rows[len(numbers) :])):
            lines += ["", *markdown(["score", *header], [[name.replace("_", " "), *part[name]] for name in SCORES])]
        notes = [*self.notes, *(f"not scored: {path}: {reason}" for path, reason in self.failures)]
        return "\n".join([*lines, "", *(f"- {line}" for line in (*self.sentences(), *notes))])

    def sentences(self) -> list[str]:
        """What the tests say, in plain words, and in what the recipes differ."""
        reference, said = self.recipes[0], []
        for recipe, found in zip(self.recipes[1:], self.differences, strict=True):
            told = [
                f"mean {words} is {'higher' if found[name].value > 0 else 'lower'} (p = {found[name].p:.2g})"
                for name, words in TESTED
                if found[name].p < LEVEL
            ]
            said.append(
                f"{recipe.name}: its {' and its '.join(told)} than that of {reference.name}"
                if told
                else f"{recipe.name}: these seeds and films do not tell it from {reference.name}"
            )
            said.append(_settings(recipe, reference))
        return said

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what has no meaning is null."""
        return {
            "films": len(self.rows),
            "patients": int(self.rows["patient"].nunique()),
            "reference": self.recipes[0].name,
            "recipes": [
                {
                    "recipe": recipe.name,
                    "seeds": recipe.seeds,
                    "scores": {
                        name: {
                            "mean": number(_mean(values[name])[0]),
                            "std": number(_mean(values[name])[1]),
                            "values": [number(value) for value in values[name]],
                        }
                        for name in SCORES
                    },
                }
                for recipe, values in zip(self.recipes, self.scores, strict=True)
            ],
            "pairs": [
                {
                    "recipe": recipe.name,
                    "paired_by_seed": recipe.seeds == self.recipes[0].seeds,
                    "differences": {
                        name: {
                            "value": number(difference.value),
                            "interval": [number(end) for end in difference.interval],
                            "p": number(difference.p),
                        }
                        for name, difference in found.items()
                    },
                }
                for recipe, found in zip(self.recipes[1:], self.differences, strict=True)
            ],
            "says": self.sentences(),
            "failures": [{"path": path, "error": error} for path, error in self.failures],
            "notes": self.notes,
        }

    def metrics(self) -> dict[str, float]:
        """`compare/1/auc`, `compare/1/auc_std`, `compare/2/auc_difference` and so on; recipes count from 1."""
        values = {}
        for at, scores in enumerate(self.scores, start=1):
            for name in SCORES:
                values[f"compare/{at}/{name}"], values[f"compare/{at}/{name}_std"] = _mean(scores[name])
        for at, found in enumerate(self.differences, start=2):
            for name, difference in found.items():
                values |= difference.metrics(f"compare/{at}/{name}")
        return values


def assess(
    rows: pd.DataFrame,
    recipes: Sequence[Recipe],
    *,
    classes: tuple[str, str],
    failures: Sequence[tuple[str, str]] = (),
    draws: int = 1000,
) -> Recipes:
    """The comparison of recipes by what their models say of N `rows` of an index. Those with the seeds of the first are
    compared with it seed by seed.

    Raises:
        ValueError: the films are not of both classes, or a recipe has fewer than two seeds.
    """
    y, patients = rows["label"].to_numpy(), rows["patient"].to_numpy()
    if not 0 < y.sum() < y.size:
        raise ValueError("comparing recipes needs validation films of both classes that all models have scored")
    few = [recipe for recipe in recipes if len(recipe.seeds) < 2]
    if few:
        raise ValueError(f"{few[0].name}: {len(few[0].seeds)} of its seeds came to an end, and a spread takes two")
    first = recipes[0]
    scored = [
        recipe_differences.scores(y, recipe.probabilities, recipe.thresholds, patients=patients, draws=draws)
        for recipe in recipes
    ]
    differences = [
        {
            name: recipe_differences.mean_difference(scored[0][name], other[name], paired=recipe.seeds == first.seeds)
            for name in SCORES
        }
        for recipe, other in zip(recipes[1:], scored[1:], strict=True)
    ]
    tested = {name: holm([found[name].p for found in differences]) for name, _ in TESTED}
    differences = [
        {name: replace(found[name], p=tested[name][at] if name in tested else float("nan")) for name in SCORES}
        for at, found in enumerate(differences)
    ]
    pairing = [
        PAIRED.format(", ".join(map(str, first.seeds)))
        if recipe.seeds == first.seeds
        else UNPAIRED.format(recipe.name, first.name)
        for recipe in recipes[1:]
    ]
    adjusted = ["p-values are adjusted for the number of recipes (Holm), intervals are not"] * (len(recipes) > 2)
    return Recipes(
        recipes=list(recipes),
        classes=classes,
        rows=rows,
        scores=[{name: each[name].values for name in SCORES} for each in scored],
        differences=differences,
        failures=list(failures),
        notes=[NOTE, METHOD, *dict.fromkeys(pairing), *adjusted],
    )


def _mean(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1))


def _settings(recipe: Recipe, reference: Recipe) -> str:
    """In what a recipe's parameters differ from the reference's."""
    names = sorted(recipe.params.keys() | reference.params.keys())
    apart = [name for name in names if recipe.params.get(name) != reference.params.get(name)]
    told = [f"{name} {recipe.params.get(name, 'none')}, not {reference.params.get(name, 'none')}" for name in apart]
    return f"{recipe.name}: {'; '.join(told)}" if told else f"{recipe.name}: with the settings of {reference.name}"
