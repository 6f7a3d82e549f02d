"""Settings: every field is checked, and the search space lies inside what is allowed."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from pneumonia.config import Plan, SearchConfig, TrainConfig
from pneumonia.search_space import search_space

BAD: dict[str, list[Any]] = {
    "size": [0, 31, 100, 2048],
    "width": [0, float("nan")],
    "epochs": [0, -1, float("nan")],
    "batch_size": [0, 1],
    "lr": [0.0, -1.0, 2.0, float("nan")],
    "weight_decay": [-0.1, 11.0, float("nan")],
    "dropout": [-0.1, 1.0, float("nan")],
    "label_smoothing": [-0.1, 1.0],
    "ema_decay": [-0.1, 1.0],
    "augment": [-0.1, 11.0],
    "disturb": [-0.1, 11.0, float("nan")],
    "half_size": [-0.1, 1.0],
    "opacity": [-0.1, 1.0],
    "sampler": ["all"],
    "patience": [0],
    "seed": [-1, 2**32],
    "device": ["tpu"],
}


def test_what_is_refused_is_named() -> None:
    for name, values in BAD.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name} must be .+, not "):
                replace(TrainConfig(), **{name: value})


def test_every_field_has_help() -> None:
    for config in (TrainConfig, SearchConfig):
        assert all(field.metadata["help"] for field in fields(config))


def test_the_defaults_and_the_ends_of_every_range_are_allowed() -> None:
    for name, values in search_space(long=True).items():
        ends = values.choices or (values.low, values.high)
        for end in ends:
            replace(TrainConfig(), **{name: end})  # type: ignore[arg-type]
        default = getattr(TrainConfig(), name)
        assert default in values.choices or values.low <= default <= values.high


def test_what_is_open_is_decided_by_the_films() -> None:
    real = SearchConfig(data="films").for_data(cores=2, films=4400)
    demo = SearchConfig().for_data(cores=2, films=883)
    assert real.decided().trials >= 8
    assert demo.decided().size == real.decided().size == TrainConfig().size
    assert real.decided().epochs < real.decided().final_epochs == TrainConfig().epochs
    assert demo.decided().epochs <= demo.decided().final_epochs < real.decided().final_epochs
    assert (real.pruner, demo.pruner) == ("halving", "halving")
    assert (real.opacity, demo.opacity) == (TrainConfig().opacity, 0.0)
    assert (real.recipe().disturb, demo.recipe().disturb) == (TrainConfig().disturb, 0.0)
    assert SearchConfig(pruner="halving").for_data(cores=2, films=883).pruner == "halving"
    assert SearchConfig(data="films", trials=3, size=64).for_data(cores=8, films=9).decided().trials == 3
    with pytest.raises(ValueError, match="trials, epochs, final_epochs"):
        SearchConfig().decided()


def test_trials_of_few_films_are_as_long_as_the_final_training() -> None:
    epochs = [SearchConfig(data="films").for_data(cores=2, films=n).decided().epochs for n in (1, 500, 2000, 9000)]
    assert epochs == [64, 64, 18, 8]
    assert SearchConfig(data="films", final_epochs=3).for_data(cores=2, films=500).decided().epochs == 3


def test_what_only_long_trials_can_judge_is_searched_by_them_alone() -> None:
    few = SearchConfig(data="films").for_data(cores=2, films=500)
    many = SearchConfig(data="films").for_data(cores=2, films=4400)
    assert few.ranges().keys() - many.ranges().keys() == {"batch_size", "disturb"}
    assert replace(few, disturb=0.25).ranges().keys() == few.ranges().keys() - {"disturb"}


def test_the_judge_depends_on_the_search_alone() -> None:
    given = [SearchConfig(data="films", disturb=value).for_data(cores=2, films=500) for value in (None, 0.25, 0.0)]
    assert [search.changed for search in given] == [True, True, False]
    assert [search.recipe().disturb for search in given] == [0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    "name", ["trials", "epochs", "final_epochs", "workers", "timeout", "keep_models", "size", "seed"]
)
def test_a_search_refuses_what_makes_no_sense(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SearchConfig(**{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("size", [32, 1024]),
        ("batch_size", [2]),
        ("lr", [1e-8, 1.0]),
        ("weight_decay", [0.0, 10.0]),
        ("dropout", [0.0, 0.999]),
        ("label_smoothing", [0.0, 0.999]),
        ("ema_decay", [0.0, 0.9999]),
        ("augment", [0.0, 10.0]),
        ("disturb", [0.0, 10.0]),
        ("half_size", [0.0, 0.999]),
        ("opacity", [0.0, 0.999]),
        ("seed", [0, 2**32 - 1]),
    ],
)
def test_the_bounds_themselves_are_allowed(name: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(TrainConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", 33),
        ("seed", 2**32),
        ("workers", 257),
        ("timeout", float("nan")),
        ("trials", 0),
        ("pruner", "median"),
        ("disturb", 11.0),
        ("disturb", float("nan")),
        ("opacity", 1.0),
        ("opacity", -0.1),
    ],
)
def test_a_search_is_refused_before_it_starts(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        SearchConfig(**{name: value})


def test_half_of_the_size_must_be_a_size() -> None:
    with pytest.raises(ValueError, match="multiple of 32 where some epochs have half of it, not 48"):
        TrainConfig(size=48, half_size=0.5)
    assert TrainConfig(size=48).size == 48


@pytest.mark.parametrize("config", [TrainConfig(), SearchConfig()])
def test_a_configuration_does_not_change(config: TrainConfig | SearchConfig) -> None:
    with pytest.raises(FrozenInstanceError):
        config.size = 64  # type: ignore[misc]


def test_what_was_given_is_kept() -> None:
    given = SearchConfig(
        trials=3,
        epochs=1,
        final_epochs=2,
        workers=5,
        size=32,
        network="resnet18",
        weights="none",
        keep_models=0,
        seed=7,
        timeout=60.0,
        pruner="none",
        disturb=0.5,
        opacity=0.25,
    )
    for data in ("synthetic", "films"):
        search = replace(given, data=data)
        assert search.for_data(cores=2, films=4400) == search


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_no_more_workers_than_cores_or_trials(cores: int) -> None:
    plan = SearchConfig(data="films").for_data(cores=cores, films=4400).decided()
    assert plan.workers == min(cores, plan.trials)


def test_small_searches_keep_all_models_and_large_ones_five() -> None:
    kept = [SearchConfig(trials=trials).for_data(cores=2, films=4400).keep_models for trials in (1, 20, 21)]
    assert kept == [1, 20, 5]


@pytest.mark.parametrize("name", [field.name for field in fields(Plan)])
def test_one_open_field_is_refused_by_name(name: str) -> None:
    whole = SearchConfig().for_data(cores=2, films=4400)
    with pytest.raises(ValueError, match=rf"^{name} must be given"):
        replace(whole, **{name: None}).decided()  # type: ignore[arg-type]
