"""A setting is declared once: its bounds, its options, its place in the search and in MLproject follow from that."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import click
import pytest
import yaml
from click.testing import CliRunner

from pneumonia import config
from pneumonia.cli import cli
from pneumonia.cli.options import given, settings
from pneumonia.config import TRAINING, SearchConfig, TrainConfig
from pneumonia.search import study as studies
from pneumonia.search_space import search_space
from pneumonia.settings import Bounds, choices, setting

MLPROJECT = yaml.safe_load((Path(__file__).parent.parent / "MLproject").read_text())["entry_points"]
OF_SEARCH = {one.name: one for one in fields(SearchConfig)}


@pytest.mark.parametrize(
    ("data", "films", "name"),
    [
        ("synthetic", 883, "4c0fa143"),
        ("films", 500, "3714a6df"),
        ("films", 883, "6b7b76a9"),
        ("films", 4400, "cb394db8"),
    ],
)
def test_a_default_search_that_was_begun_before_is_found_by_its_name(data: str, films: int, name: str) -> None:
    """Only what makes old trials and new ones differ changes these: VERSION, the changes of `stress_tests`, defaults,
    ranges. Then unfinished studies of before are not gone on with, and the names here are to be replaced.
    """
    search = SearchConfig(data=data).for_data(cores=2, films=films)
    called = studies.default_name("f" * 64, search.recipe(), search.ranges(), changed=search.changed)
    assert called == f"ffffffffffff-{name}"


def test_a_setting_that_came_later_is_in_the_name_only_where_it_is_not_at_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def name(sampler: Literal["weighted", "none"]) -> str:
        return studies.default_name("f" * 64, TrainConfig(sampler=sampler), {}, changed=True)

    def told(in_name: str) -> None:
        @dataclass
        class Later:
            sampler: str = field(default="weighted", metadata={"in_name": in_name})

        monkeypatch.setitem(config.TRAINING, "sampler", fields(Later)[0])

    before = {one: name(one) for one in ("weighted", "none")}
    told("changed")
    assert name("weighted") not in before.values()
    assert name("none") == before["none"]
    without = name("weighted")
    told("never")
    assert name("weighted") == name("none") == without


def test_the_search_space_is_as_declared() -> None:
    assert search_space(long=True).keys() - search_space(long=False).keys() == {"batch_size", "disturb"}
    assert search_space(long=True).keys() <= TRAINING.keys()


def refused(bounds: Bounds) -> Iterator[float]:
    """Values just outside."""
    yield math.nan
    step = bounds.multiple if bounds.multiple > 1 else 1e-9
    yield bounds.low if bounds.above else bounds.low - step
    if bounds.high < math.inf:
        yield bounds.high if bounds.below else bounds.high + max(step, math.ulp(bounds.high))
    if bounds.multiple > 1:
        yield bounds.low + bounds.multiple - 1


@pytest.mark.parametrize("name", [name for name in TRAINING if name not in ("network", "weights")])  # names and files
def test_every_setting_of_a_training_has_bounds_or_choices_and_keeps_them(name: str) -> None:
    one = TRAINING[name]
    bounds = one.metadata["bounds"]
    values: list[Any] = [*refused(bounds)] if bounds else ["neither"]
    assert bounds or choices(one.type)
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} must be .+, not "):
            TrainConfig(**{name: value})


@pytest.mark.parametrize("name", [name for name, one in OF_SEARCH.items() if one.metadata["bounds"]])
def test_every_number_of_a_search_keeps_its_bounds(name: str) -> None:
    for value in refused(OF_SEARCH[name].metadata["bounds"]):
        with pytest.raises(ValueError, match=rf"^{name} must be .+, not "):
            SearchConfig(**{name: value})  # type: ignore[arg-type]


def test_what_a_search_hands_to_its_trainings_is_what_was_given() -> None:
    handed = [name for name, one in OF_SEARCH.items() if one.metadata.get("training")]
    assert handed == ["size", "network", "weights", "disturb", "opacity"]
    some: dict[str, Any] = {"size": 96, "network": "resnet18", "weights": "default", "disturb": 0.75, "opacity": 0.125}
    recipe = SearchConfig(data="films", **some).for_data(cores=2, films=4400).recipe()
    assert {name: getattr(recipe, name) for name in handed} == some


def test_mlproject_takes_what_is_declared() -> None:
    of_training = {name for name, one in TRAINING.items() if one.metadata["project"]}
    assert set(MLPROJECT["main"]["parameters"]) == set(OF_SEARCH)
    others = {"data", "positive", "seeds", "new", "gallery", "any_dicom"}
    assert set(MLPROJECT["train"]["parameters"]) == {*others, *of_training}


@pytest.mark.parametrize(("entry", "made"), [("main", SearchConfig), ("train", TrainConfig)])
def test_the_defaults_of_mlproject_are_those_declared(entry: str, made: type[SearchConfig] | type[TrainConfig]) -> None:
    defaults = {name: one["default"] for name, one in MLPROJECT[entry]["parameters"].items()}
    command, *words = shlex.split(MLPROJECT[entry]["command"].format(**defaults))[3:]
    taken = cli.commands[command].make_context(command, words).params
    assert made(**given(**{one.name: taken[one.name] for one in fields(made)})) == made()


@dataclass
class Networks:
    network: Literal["cnn", "wide"] | None = setting(None, "what is trained")


@pytest.mark.parametrize(("words", "value"), [([], None), (["auto"], None), (["wide"], "wide"), (["deep"], "refused")])
def test_choices_may_be_left_open(words: list[str], value: str | None) -> None:
    @click.command()
    @settings(Networks)  # type: ignore[arg-type]
    def echo(network: str | None) -> None:
        click.echo(f"{network}")

    done = CliRunner().invoke(echo, ["--network", *words] if words else [])
    assert done.output == f"{value}\n" if value != "refused" else "'deep' is not one of 'cnn', 'wide'" in done.output
