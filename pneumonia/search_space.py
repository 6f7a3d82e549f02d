"""Between which values a search varies which settings of a training."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values that the search may give a setting: `choices`, or the interval [low, high], uniform in the log if `log`.

    `long`: searched only where a trial is as long as the final training; shorter trials always do best with less of it.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[int | str, ...] = ()
    long: bool = False


RANGES = {
    "width": Range(choices=(8, 12, 16, 24)),
    "batch_size": Range(choices=(16, 32, 64), long=True),
    "lr": Range(low=5e-4, high=1e-2, log=True),
    "weight_decay": Range(low=5e-3, high=0.5, log=True),
    "dropout": Range(low=0.0, high=0.5),
    "augment": Range(low=1.0, high=1.5),
    "disturb": Range(low=0.0, high=1.0, long=True),
}


def search_space(*, long: bool) -> dict[str, Range]:
    """The settings that a search varies, with their ranges; `long`: its trials are as long as the final training."""
    return {name: one for name, one in RANGES.items() if long or not one.long}
