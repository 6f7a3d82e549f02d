"""The search space of a study: stored in the study when it begins, so that all of its trials have the same.

A study that began under other ranges, by an earlier version, keeps them to its end.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial

from pneumonia.config import TrainConfig
from pneumonia.search.attributes import SPACE
from pneumonia.search_space import Range, search_space

# What suited few films better than the recipe: tried after it, before random trials, where trials are long enough to
# tell. In a search of a dozen trials such a portfolio (Feurer et al. 2022) is worth more than random ones.
BEGINNINGS: tuple[dict[str, Any], ...] = (
    {"lr": 3e-3, "batch_size": 16, "disturb": 0.25},
    {"weight_decay": 0.3, "disturb": 0.3},
    {"width": 24, "dropout": 0.45},
)


def distributions(ranges: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """Ranges as Optuna's distributions."""
    return {
        name: CategoricalDistribution(r.choices) if r.choices else FloatDistribution(r.low, r.high, log=r.log)
        for name, r in ranges.items()
    }


def write(study: optuna.Study, ranges: Mapping[str, Range]) -> None:
    """Fixes the space of a study that begins."""
    fixed = {name: distribution_to_json(one) for name, one in distributions(ranges).items()}
    study.set_user_attr(SPACE, fixed)


def read(study: optuna.Study) -> dict[str, BaseDistribution]:
    """The space of a study; where none is written, that of its trials, as in studies that were begun before 0.2."""
    written = study.user_attrs.get(SPACE)
    if written is not None:
        return {name: json_to_distribution(text) for name, text in written.items()}
    tried: list[FrozenTrial] = [trial for trial in study.get_trials(deepcopy=False) if trial.distributions]
    return dict(tried[0].distributions) if tried else distributions(search_space(long=False))


def beginnings(base: TrainConfig, space: Mapping[str, BaseDistribution], *, long: bool) -> list[dict[str, Any]]:
    """The parameters of the first trials: the recipe, and where trials are long, others that are known to be good."""
    recipe = values(base, space)
    tried = [{**recipe, **{name: value for name, value in one.items() if name in space}} for one in BEGINNINGS]
    return [recipe, *(one for one in tried if long and one != recipe)]


def values(config: TrainConfig, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """What `config` has for the fields of the space."""
    return {name: getattr(config, name) for name in space}
