"""When a trial is ended early."""

import optuna
from optuna.trial import TrialState

from pneumonia.config import Pruner, TrainConfig
from pneumonia.search import space
from pneumonia.search.study import trials, with_retries


def pruner(kind: Pruner, epochs: int, *, long: bool) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (Li et al. 2020): after a quarter and three quarters of the `epochs` a trial
    goes on if it is in the best third of those that came so far, the recipe as it stands among them. It leaves half of
    the epochs for the same best objective: `experiments/search_study.py`.

    Never sooner, since for a quarter of the epochs the learning rate rises. The recipe is never given up (see
    `worker`): narrow networks are ahead after few epochs and come first, and would end the wide ones that win in the
    end. `long` trials, as long as the final training, are of few films and may differ in how much they disturb: the
    best of them are not ahead in the middle. From half of the epochs on they go on unless they are behind the median
    of those that came to their end (Golovin et al. 2017), once there are four.
    """
    if kind == "none":
        return optuna.pruners.NopPruner()
    if long:
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 2)
    # bootstrap_count: the first to come does not go on for want of others, which is what the recipe is for
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=max(1, epochs // 4), reduction_factor=3, bootstrap_count=1
    )


def one_remains(study: optuna.Study, base: TrainConfig) -> bool:
    """Whether a trial has come to its end, or the recipe is on its way there, so that others may be pruned."""
    recipe = with_retries(lambda: space.values(base, space.read(study)))
    alive = trials(study, TrialState.COMPLETE, TrialState.RUNNING)
    return any(trial.state == TrialState.COMPLETE or trial.params == recipe for trial in alive)
