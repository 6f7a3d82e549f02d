"""What can be set, each setting declared once: name, type, default, help, bounds, and whether a search varies it.

A field of `TrainConfig` is a flag of `train`, an MLflow parameter and, where it has a range, a dimension of the search.
One of `SearchConfig` is a flag of `search`. The parameters in MLproject stand there once more: a test compares.
"""

import math
from dataclasses import dataclass, field, fields, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin

VERSION = 2  # raise it when the same settings train differently: a search begun before then does not resume
TRIAL_FILMS = 36_000  # films that a trial sees over all its epochs; nearly a minute on one core at 64 px
GALLERY = "log pictures of eight validation films with heatmaps; false where films may not leave the machine"
Sampler = Literal["weighted", "none"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Pruner = Literal["auto", "halving", "none"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values that the search may give a field: `choices`, or the interval [low, high], uniform in the log if `log`.

    `long`: searched only where a trial is as long as the final training; shorter trials always do best with less of it.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[int | str, ...] = ()
    long: bool = False


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a number may be: from `low` to `high`, these included unless it must lie `above` or `below` them."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    multiple: int = 1

    def hold(self, value: float) -> bool:
        """Whether the value is allowed; NaN never is."""
        low = self.low < value if self.above else self.low <= value
        high = value < self.high if self.below else value <= self.high
        return low and high and not (self.multiple > 1 and value % self.multiple)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low}"
        if self.above or self.below:
            ends = "above" if self.above else "at least", "below" if self.below else "at most"
            return f"{ends[0]} {self.low} and {ends[1]} {self.high}"
        return f"{f'a multiple of {self.multiple} ' if self.multiple > 1 else ''}from {self.low} to {self.high}"


SHARE = Bounds(low=0, high=1, below=True)
STRENGTH = Bounds(low=0, high=10)


def _setting(
    default: Any,
    help: str,
    bounds: Bounds | None = None,
    search: Range | None = None,
    *,
    synthetic: Any = None,
    project: bool = True,
    in_name: Literal["always", "never", "changed"] = "always",
) -> Any:
    """A field of a configuration. The values of a `Literal` are its choices.

    Args:
        bounds: of a number.
        search: what a search tries; None: it leaves the field alone.
        synthetic: the default of a search on synthetic films, where it is another.
        project: whether `mlflow run -e train` takes it.
        in_name: whether a study's default name tells it. A setting that comes later is told only when `changed` from
            its default, so that studies that were begun before keep their names.
    """
    metadata = {"help": help, "bounds": bounds, "search": search, "synthetic": synthetic}
    return field(default=default, metadata={**metadata, "project": project, "in_name": in_name})


def choices(annotation: Any) -> tuple[str, ...]:
    """The values of a `Literal`, or of one that may be None; of other types none."""
    inner = [one for one in get_args(annotation) if one is not NoneType]
    if get_origin(annotation) is Literal:
        return tuple(inner)
    return choices(inner[0]) if len(inner) == 1 else ()


def check(config: "TrainConfig | SearchConfig") -> None:
    """Raises:
    ValueError: a field is out of its bounds, or none of its choices; the sentence names it.
    """
    for one in fields(config):
        value, bounds, allowed = getattr(config, one.name), one.metadata["bounds"], choices(one.type)
        if value is None:
            continue
        if bounds is not None and not bounds.hold(value):
            given = f"{value:g}" if isinstance(value, float) else value
            raise ValueError(f"{one.name} must be {bounds}, not {given}")
        if allowed and value not in allowed:
            raise ValueError(f"{one.name} must be one of {', '.join(allowed)}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the full recipe for real films.

    Raises:
        ValueError: a field is out of its range; the sentence names the field, its bound and the value given.
    """

    size: int = _setting(
        64,
        "side of the square that films are resized to, pixels (a multiple of 16)",
        Bounds(low=32, high=1024, multiple=16),
    )
    width: int = _setting(
        16,
        "channels of the first stage; later stages have 2, 4 and 8 times as many",
        Bounds(low=1),
        Range(choices=(8, 12, 16, 24)),
    )
    epochs: int = _setting(64, "passes over the training films", Bounds(low=1))
    batch_size: int = _setting(64, "films per step", Bounds(low=2), Range(choices=(16, 32, 64), long=True))
    lr: float = _setting(
        2e-3,
        "peak learning rate of the one-cycle schedule",
        Bounds(low=0, high=1, above=True),
        Range(low=5e-4, high=1e-2, log=True),
    )
    weight_decay: float = _setting(
        0.05, "AdamW's decoupled weight decay", STRENGTH, Range(low=5e-3, high=0.5, log=True), project=False
    )
    dropout: float = _setting(0.3, "dropout before the last layer", SHARE, Range(low=0.0, high=0.5), project=False)
    label_smoothing: float = _setting(0.05, "share of each label spread evenly over both classes", SHARE, project=False)
    ema_decay: float = _setting(
        0.995,
        "decay per step of the averaged weights, which are validated and kept; less in the first steps",
        SHARE,
        project=False,
    )
    augment: float = _setting(
        1.0,
        "strength of the augmentation; 0 turns it off, but not disturb or opacity",
        STRENGTH,
        Range(low=1.0, high=1.5),
        project=False,
    )
    disturb: float = _setting(
        0.5,
        "strength of domain randomisation: frames, holes, exposure, tone, contrast, shape, blur; 0 turns it off",
        STRENGTH,
        Range(low=0.0, high=1.0, long=True),
        synthetic=0.0,  # one program draws them all, so that nothing has to be hidden, and trainings are short
    )
    opacity: float = _setting(
        0.2,
        "share of normal training films that get a painted opacity and count as ill; 0 turns it off",
        SHARE,
        synthetic=0.0,
    )
    half_size: float = _setting(
        0.0, "share of the epochs, the first ones, trained at half the size, in half the time", SHARE, project=False
    )
    sampler: Sampler = _setting(
        "weighted", "weighted: each class fills half of the draws (before opacity); none: films as they come"
    )
    patience: int = _setting(
        12, "stop after this many epochs without a better val/objective", Bounds(low=1), project=False
    )
    seed: int = _setting(
        0, "seed of the weights, the sampling and the augmentation", Bounds(low=0, high=2**32 - 1)
    )  # what NumPy and Optuna take
    device: Device = _setting("auto", "auto takes CUDA if there is one, else MPS, else the CPU", in_name="never")

    def __post_init__(self) -> None:
        check(self)
        if self.half_size and self.size % 32:
            raise ValueError(f"size must be a multiple of 32 where some epochs have half of it, not {self.size}")


TRAINING = {field.name: field for field in fields(TrainConfig)}


def search_space(*, long: bool) -> dict[str, Range]:
    """The fields that a search varies, with their ranges; `long`: its trials are as long as the final training."""
    ranges = {name: one.metadata["search"] for name, one in TRAINING.items()}
    return {name: one for name, one in ranges.items() if one is not None and (long or not one.long)}


def _of_training(name: str, help: str = "") -> Any:
    """A field of `SearchConfig` that gives the setting `name` to every training; None leaves it open."""
    setting = TRAINING[name]
    help = help or f"{setting.metadata['help']} [{setting.default}]"
    return field(default=None, metadata={**setting.metadata, "help": help, "training": True})


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search: how many trials, how long each, where they meet. `None` is decided by `for_data`.

    Raises:
        ValueError: a field is out of its range; the sentence names the field.
    """

    data: str = _setting("synthetic", "'synthetic', a folder of films, or a CSV/Parquet manifest")
    positive: str | None = _setting(None, "the positive class [chosen by the names of the two classes]")
    trials: int | None = _setting(None, "trials to finish, pruned ones included [12; synthetic: 8]", Bounds(low=1))
    epochs: int | None = _setting(
        None,
        "epochs of a trial [8; more where there are fewer than 4,500 training films]",
        Bounds(low=1),
    )
    final_epochs: int | None = _setting(None, "epochs of the final training [64; synthetic: 8]", Bounds(low=1))
    workers: int | None = _setting(
        None, "processes that run trials, one thread each [one per core]", Bounds(low=1, high=256)
    )
    size: int | None = _of_training("size")
    seed: int = _setting(0, "seed of the search and of every training in it", TRAINING["seed"].metadata["bounds"])
    study: str | None = _setting(
        None, "name of the study [made from the films, the search space and the fixed settings]"
    )
    storage: str | None = _setting(None, "SQLAlchemy URL of the study's database, without a password [a sqlite file]")
    pruner: Pruner = _setting(
        "auto",
        "halving ends trials that fall behind, but never the default recipe; none ends no trial; auto is halving",
    )
    disturb: float | None = _of_training(
        "disturb",
        "strength of domain randomisation; 0: none [0.5; searched where trials are as long as the final training]",
    )
    opacity: float | None = _of_training(
        "opacity",
        "share of normal training films that get a painted opacity and count as ill; 0: none [0.2; synthetic: 0]",
    )
    timeout: float | None = _setting(None, "start no new trial after this many seconds", Bounds(low=1))
    keep_models: int | None = _setting(
        None, "keep the models of only the N best trials [all up to 20 trials, then 5]", Bounds(low=0)
    )
    gallery: bool = _setting(True, GALLERY)
    any_dicom: bool = _setting(False, "also read DICOMs that say they are not chest radiographs")

    def __post_init__(self) -> None:
        check(self)

    def for_data(self, *, cores: int, films: int) -> "SearchConfig":
        """This search with every open field decided: a two-minute one on synthetic films, the full one on others.

        Args:
            films: number of training films. Where they are few, a trial can be as long as the final training, and the
                search then finds what suits that training, not what learns fastest.
        """
        demo = self.data == "synthetic"
        trials = self.trials or (8 if demo else 12)
        final_epochs = self.final_epochs or (8 if demo else TrainConfig.epochs)
        affordable = max(8, round(TRIAL_FILMS / max(films, 1)))
        fixed = [name for name in self._training() if TRAINING[name].metadata["search"] is None]
        return replace(
            self,
            **{name: self._value(name) for name in fixed},
            trials=trials,
            epochs=self.epochs or min(affordable, final_epochs),
            final_epochs=final_epochs,
            workers=self.workers or min(cores, trials),
            pruner=self.pruner if self.pruner != "auto" else "halving",
            keep_models=self.keep_models if self.keep_models is not None else (trials if trials <= 20 else 5),
        )

    def recipe(self) -> TrainConfig:
        """The first trial's configuration: the defaults, except for what is given.

        Raises:
            ValueError: as `decided`.
        """
        plan = self.decided()
        settings = {name: self._value(name) for name in self._training()}
        return TrainConfig(epochs=plan.epochs, seed=self.seed, **settings)

    def _training(self) -> list[str]:
        """The settings that are given to every training, or left open."""
        return [one.name for one in fields(self) if one.metadata.get("training")]

    def _value(self, name: str) -> Any:
        """What is given for a setting of the training, or its default for these films."""
        given, setting = getattr(self, name), TRAINING[name]
        other = setting.metadata["synthetic"] if self.data == "synthetic" else None
        return given if given is not None else setting.default if other is None else other

    def ranges(self) -> dict[str, Range]:
        """The fields that the search varies, with their ranges: all that are not given.

        Raises:
            ValueError: as `decided`.
        """
        plan = self.decided()
        space = search_space(long=plan.long)
        return {name: one for name, one in space.items() if getattr(self, name, None) is None}

    @property
    def changed(self) -> bool:
        """Whether trials are scored on corrupted copies of the validation films too; the same for all trials of a
        study, whatever each has for `disturb`.
        """
        return self.disturb is None or self.disturb > 0

    def decided(self) -> "Plan":
        """The fields that `for_data` decides, as numbers.

        Raises:
            ValueError: one is still open.
        """
        values = {name: getattr(self, name) for name in Plan.__dataclass_fields__}
        still_open = [name for name, value in values.items() if value is None]
        if still_open:
            raise ValueError(f"{', '.join(still_open)} must be given, or be decided by `for_data`")
        return Plan(**values)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much a search does, every number decided (see `SearchConfig`)."""

    trials: int
    epochs: int
    final_epochs: int
    workers: int
    size: int
    keep_models: int

    @property
    def long(self) -> bool:
        """Whether a trial is as long as the final training."""
        return self.epochs >= self.final_epochs
