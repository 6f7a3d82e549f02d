import math
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import pytest

from pneumonia.config import Plan, Range, SearchConfig, TrainConfig, search_space

WRONG: dict[str, list[Any]] = {
    "size": [0, -16, 16, 40, 97, 1040],
    "width": [0, -1, math.nan],
    "epochs": [0, -3, math.nan],
    "batch_size": [0, 1, math.nan],
    "lr": [0.0, -1e-3, 1.5, math.inf, math.nan],
    "weight_decay": [-0.1, 11.0, math.nan],
    "dropout": [-0.1, 1.0, math.nan],
    "label_smoothing": [-0.1, 1.0, math.nan],
    "ema_decay": [-0.1, 1.0, math.nan],
    "augment": [-0.1, 11.0, math.nan],
    "sampler": ["balanced", "", None],
    "patience": [0, -1, math.nan],
    "seed": [-1, 2**32],
    "device": ["tpu", "cuda:1", ""],
}
WRONG_SEARCH: dict[str, list[Any]] = {
    "trials": [0, -1],
    "epochs": [0],
    "final_epochs": [0],
    "workers": [0, 257],
    "size": [0, 33, 2048],
    "seed": [-1, 2**32],
    "timeout": [0.0, -5.0, math.nan],
    "keep_models": [-1],
}
LAST_RIGHT: dict[str, list[Any]] = {
    "size": [32, 1024],
    "width": [1],
    "epochs": [1],
    "batch_size": [2],
    "lr": [1e-8, 1.0],
    "weight_decay": [0.0, 10.0],
    "dropout": [0.0, 0.999],
    "label_smoothing": [0.0, 0.999],
    "ema_decay": [0.0, 0.9999],
    "augment": [0.0, 10.0],
    "sampler": ["weighted", "none"],
    "patience": [1],
    "seed": [0, 2**32 - 1],
    "device": ["auto", "cpu", "cuda", "mps"],
}


def pairs(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


def test_every_field_has_its_cases_here() -> None:
    names = {f.name for f in fields(TrainConfig)}
    assert set(WRONG) == set(LAST_RIGHT) == names


@pytest.mark.parametrize(("name", "value"), pairs(WRONG))
def test_a_wrong_value_is_refused_in_a_sentence_that_names_its_field(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .+, not ") as error:
        TrainConfig(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), pairs(LAST_RIGHT))
def test_the_bounds_themselves_are_allowed(name: str, value: Any) -> None:
    assert getattr(TrainConfig(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), pairs(WRONG_SEARCH))
def test_a_search_refuses_a_wrong_value_before_it_starts(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        SearchConfig(**{name: value})


@pytest.mark.parametrize("config", [TrainConfig(), SearchConfig(), Range()])
def test_a_configuration_does_not_change(config: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(config, fields(config)[0].name, 64)


@pytest.mark.parametrize("kind", [TrainConfig, SearchConfig])
def test_every_field_says_what_it_is(kind: type) -> None:
    for f in fields(kind):
        assert f.metadata["help"].strip(), f.name


def test_the_search_varies_fields_of_a_training_around_their_defaults() -> None:
    space, defaults = search_space(), asdict(TrainConfig())
    assert {"lr", "width"} <= set(space) <= set(defaults)
    assert space["lr"].log
    for name, r in space.items():
        if r.choices:
            assert defaults[name] in r.choices
        else:
            assert r.low <= defaults[name] <= r.high
            assert r.low < r.high
            assert r.low > 0 or not r.log, name


def test_every_corner_of_the_search_space_can_be_trained() -> None:
    for name, r in search_space().items():
        for value in r.choices or (r.low, r.high):
            TrainConfig(**{name: value})


@pytest.mark.parametrize("data", ["synthetic", "somewhere/chest_xray"])
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_for_data_decides_every_number(data: str, cores: int) -> None:
    search = SearchConfig(data=data)
    plan = search.for_data(cores=cores).decided()
    assert all(isinstance(value, int) for value in asdict(plan).values())
    assert 1 <= plan.workers <= min(cores, plan.trials)
    assert plan.keep_models == plan.trials  # a small search keeps all its models
    assert plan.trials >= (4 if data == "synthetic" else 8)
    assert plan.final_epochs >= plan.epochs
    assert search == SearchConfig(data=data), "the search itself stays as it was"


def test_for_data_keeps_what_was_given() -> None:
    given: dict[str, Any] = {
        "trials": 3,
        "epochs": 1,
        "final_epochs": 2,
        "workers": 5,
        "size": 32,
        "keep_models": 0,
        "seed": 7,
        "study": "s",
        "storage": "sqlite:///x.db",
        "timeout": 60.0,
    }
    for data in ("synthetic", "folder"):
        search = SearchConfig(data=data, **given)
        assert search.for_data(cores=2) == search
    assert SearchConfig(trials=21).for_data(cores=2).keep_models == 5
    assert SearchConfig(data="folder", size=32).for_data(cores=2).size == 32


@pytest.mark.parametrize("name", [f.name for f in fields(Plan)])
def test_decided_refuses_an_open_field_by_name(name: str) -> None:
    whole = asdict(SearchConfig().for_data(cores=2))
    with pytest.raises(ValueError, match=rf"^{name} must be given"):
        SearchConfig(**{**whole, name: None}).decided()


def test_decided_names_all_that_is_open() -> None:
    with pytest.raises(ValueError, match="trials, epochs, final_epochs, workers, size, keep_models must be given"):
        SearchConfig().decided()
