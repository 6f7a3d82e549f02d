"""Which parameters to try next: Optuna's TPE, seeded anew for each trial."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

STARTUP_TRIALS = 4  # drawn at random before there is anything to learn from


class Sampler(BaseSampler):
    """TPE (Bergstra et al. 2011), seeded for each trial by the search's seed and the trial's number.

    The database gives a number once. So no two workers propose the same, on whatever machine, and neither does a
    search that is resumed: a seed for each worker would be used again by the workers that come after a killed one.
    """

    _tpe: TPESampler  # of the trial at hand: Optuna calls `before_trial` before anything else

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        seed = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0]
        self._tpe = TPESampler(n_startup_trials=STARTUP_TRIALS, seed=int(seed))
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(study, trial, dict(search_space))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)
