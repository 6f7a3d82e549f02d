"""When a trial is ended early."""

import optuna
from optuna.trial import TrialState

from pneumonia.config import Pruner, TrainConfig
from pneumonia.search import study_space
from pneumonia.search.connection import with_retries
from pneumonia.search.study import trials


def pruner(kind: Pruner, epochs: int, *, long: bool) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (Li et al. 2020): after a quarter and three quarters of the `epochs` a trial
    goes on if it is in the best third of those so far, the default recipe included. It trains half of the epochs for
    the same best objective: `experiments/search_study.py`.

    Never sooner, since the learning rate rises for a quarter of the epochs. The default recipe is never pruned (see
    `worker`): narrow networks are ahead after few epochs and finish first, and would prune the wide ones that win in
    the end. `long` trials, as long as the final training, have few films and may differ in `disturb`: the best of
    them are not ahead in the middle. From half of the epochs on they go on unless they are behind the median
    of those that came to their end (Golovin et al. 2017), once there are four.
    """
    if kind == "none":
        return optuna.pruners.NopPruner()
    if long:
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 2)
    # bootstrap_count: a trial does not go on merely for being the first; the recipe always goes on
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=max(1, epochs // 4), reduction_factor=3, bootstrap_count=1
    )


def one_remains(study: optuna.Study, base: TrainConfig) -> bool:
    """Whether others may be pruned: a trial is complete, or the default recipe is running."""
    recipe = with_retries(lambda: study_space.values(base, study_space.read(study)))
    alive = trials(study, TrialState.COMPLETE, TrialState.RUNNING)
    return any(trial.state == TrialState.COMPLETE or trial.params == recipe for trial in alive)
