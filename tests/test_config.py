"""Settings: every field is checked, and the search space lies inside what is allowed."""

from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from pneumonia.config import SearchConfig, TrainConfig, search_space

BAD: dict[str, list[Any]] = {
    "size": [0, 31, 100, 2048],
    "width": [0],
    "epochs": [0, -1],
    "batch_size": [1],
    "lr": [0.0, -1.0, 2.0, float("nan")],
    "weight_decay": [-0.1, 11.0, float("nan")],
    "dropout": [-0.1, 1.0, float("nan")],
    "label_smoothing": [-0.1, 1.0],
    "ema_decay": [-0.1, 1.0],
    "augment": [-0.1, 11.0],
    "sampler": ["all"],
    "patience": [0],
    "seed": [-1, 2**32],
    "device": ["tpu"],
}


def test_every_field_has_a_bound_and_names_itself() -> None:
    assert set(BAD) == {field.name for field in fields(TrainConfig)}
    for name, values in BAD.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                replace(TrainConfig(), **{name: value})


def test_every_field_has_help() -> None:
    for config in (TrainConfig, SearchConfig):
        assert all(field.metadata["help"] for field in fields(config))


def test_the_defaults_and_the_ends_of_every_range_are_allowed() -> None:
    for name, values in search_space().items():
        ends = values.choices or (values.low, values.high)
        for end in ends:
            replace(TrainConfig(), **{name: end})
        default = getattr(TrainConfig(), name)
        assert default in values.choices or values.low <= default <= values.high


def test_what_is_open_is_decided_by_the_films() -> None:
    real, demo = SearchConfig(data="films").for_data(cores=2), SearchConfig().for_data(cores=2)
    assert None not in asdict(real.decided()).values()
    assert real.decided().trials >= 8
    assert demo.decided().size < real.decided().size
    assert SearchConfig(data="films", trials=3, size=64).for_data(cores=8).decided().trials == 3
    with pytest.raises(ValueError, match="trials, epochs, final_epochs"):
        SearchConfig().decided()


@pytest.mark.parametrize(
    "name", ["trials", "epochs", "final_epochs", "workers", "timeout", "keep_models", "size", "seed"]
)
def test_a_search_refuses_what_makes_no_sense(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SearchConfig(**{name: -1})
