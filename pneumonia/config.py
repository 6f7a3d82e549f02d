"""What can be set: every field is a CLI flag, an MLflow parameter and, where it has a range, a search dimension."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

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
    choices: tuple[int, ...] = ()
    long: bool = False


def _setting(default: Any, help: str, search: Range | None = None) -> Any:
    return field(default=default, metadata={"help": help, "search": search})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the full recipe for real films.

    Raises:
        ValueError: a field is out of its range; the sentence names the field, its bound and the value given.
    """

    size: int = _setting(64, "side of the square that films are resized to, pixels (a multiple of 16)")
    width: int = _setting(
        16, "channels of the first stage; later stages have 2, 4 and 8 times as many", Range(choices=(8, 12, 16, 24))
    )
    epochs: int = _setting(64, "passes over the training films")
    batch_size: int = _setting(64, "films per step", Range(choices=(16, 32, 64), long=True))
    lr: float = _setting(2e-3, "peak learning rate of the one-cycle schedule", Range(low=5e-4, high=1e-2, log=True))
    weight_decay: float = _setting(0.05, "AdamW's decoupled weight decay", Range(low=5e-3, high=0.5, log=True))
    dropout: float = _setting(0.3, "dropout before the last layer", Range(low=0.0, high=0.5))
    label_smoothing: float = _setting(0.05, "share of each label spread evenly over both classes")
    ema_decay: float = _setting(
        0.995, "decay per step of the averaged weights, which are validated and kept; less in the first steps"
    )
    augment: float = _setting(
        1.0, "strength of the augmentation; 0 turns it off, but not disturb or opacity", Range(low=1.0, high=1.5)
    )
    disturb: float = _setting(
        0.5,
        "strength of domain randomisation: frames, holes, exposure, tone, contrast, shape, blur; 0 turns it off",
        Range(low=0.0, high=1.0, long=True),
    )
    opacity: float = _setting(
        0.2,
        "share of normal training films that get a painted opacity and count as ill; 0 turns it off",
    )
    half_size: float = _setting(0.0, "share of the epochs, the first ones, trained at half the size, in half the time")
    sampler: Sampler = _setting(
        "weighted", "weighted: each class fills half of the draws (before opacity); none: films as they come"
    )
    patience: int = _setting(12, "stop after this many epochs without a better val/objective")
    seed: int = _setting(0, "seed of the weights, the sampling and the augmentation")
    device: Device = _setting("auto", "auto takes CUDA if there is one, else MPS, else the CPU")

    def __post_init__(self) -> None:
        for name, low in (("width", 1), ("epochs", 1), ("batch_size", 2), ("patience", 1)):
            if not getattr(self, name) >= low:  # so that NaN is refused as well
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if self.size % 16 or not 32 <= self.size <= 1024:
            raise ValueError(f"size must be a multiple of 16 from 32 to 1024, not {self.size}")
        if self.half_size and self.size % 32:
            raise ValueError(f"size must be a multiple of 32 where some epochs have half of it, not {self.size}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr must be above 0 and at most 1, not {self.lr:g}")
        if not 0 <= self.seed < 2**32:  # what NumPy and Optuna take
            raise ValueError(f"seed must be from 0 to {2**32 - 1}, not {self.seed}")
        for name in ("dropout", "label_smoothing", "ema_decay", "opacity", "half_size"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name):g}")
        for name in ("weight_decay", "augment", "disturb"):
            if not 0 <= getattr(self, name) <= 10:
                raise ValueError(f"{name} must be from 0 to 10, not {getattr(self, name):g}")
        for name, allowed in (("sampler", get_args(Sampler)), ("device", get_args(Device))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")


def search_space(*, long: bool) -> dict[str, Range]:
    """The fields that a search varies, with their ranges; `long`: its trials are as long as the final training."""
    ranges = {field.name: field.metadata["search"] for field in fields(TrainConfig)}
    return {name: one for name, one in ranges.items() if one is not None and (long or not one.long)}


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search: how many trials, how long each, where they meet. `None` is decided by `for_data`.

    Raises:
        ValueError: a field is out of its range; the sentence names the field.
    """

    data: str = _setting("synthetic", "'synthetic', a folder of films, or a CSV/Parquet manifest")
    positive: str | None = _setting(None, "the positive class [chosen by the names of the two classes]")
    trials: int | None = _setting(None, "trials to finish, pruned ones included [12; synthetic: 8]")
    epochs: int | None = _setting(
        None,
        "epochs of a trial [8; more where there are fewer than 4,500 training films]",
    )
    final_epochs: int | None = _setting(None, "epochs of the final training [64; synthetic: 8]")
    workers: int | None = _setting(None, "processes that run trials, one thread each [one per core]")
    size: int | None = _setting(None, "side of the square that films are resized to, pixels [64]")
    seed: int = _setting(0, "seed of the search and of every training in it")
    study: str | None = _setting(
        None, "name of the study [made from the films, the search space and the fixed settings]"
    )
    storage: str | None = _setting(None, "SQLAlchemy URL of the study's database, without a password [a sqlite file]")
    pruner: Pruner = _setting(
        "auto",
        "halving ends trials that fall behind, but never the default recipe; none ends no trial; auto is halving",
    )
    disturb: float | None = _setting(
        None,
        "strength of domain randomisation; 0: none [0.5; searched where trials are as long as the final training]",
    )
    opacity: float | None = _setting(
        None,
        "share of normal training films that get a painted opacity and count as ill; 0: none [0.2; synthetic: 0]",
    )
    timeout: float | None = _setting(None, "start no new trial after this many seconds")
    keep_models: int | None = _setting(None, "keep the models of only the N best trials [all up to 20 trials, then 5]")
    gallery: bool = _setting(True, GALLERY)
    any_dicom: bool = _setting(False, "also read DICOMs that say they are not chest radiographs")

    def __post_init__(self) -> None:
        for name in ("trials", "epochs", "final_epochs", "workers", "timeout", "keep_models"):
            value, low = getattr(self, name), 0 if name == "keep_models" else 1
            if value is not None and not value >= low:
                raise ValueError(f"{name} must be at least {low}, not {value:g}")
        if self.workers is not None and self.workers > 256:
            raise ValueError(f"workers must be at most 256, not {self.workers}")
        if self.pruner not in get_args(Pruner):
            raise ValueError(f"pruner must be one of {', '.join(get_args(Pruner))}, not {self.pruner!r}")
        given = {
            name: getattr(self, name) for name in ("size", "disturb", "opacity") if getattr(self, name) is not None
        }
        TrainConfig(seed=self.seed, **given)  # the same bounds

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
        return replace(
            self,
            trials=trials,
            epochs=self.epochs or min(affordable, final_epochs),
            final_epochs=final_epochs,
            workers=self.workers or min(cores, trials),
            size=self.size or TrainConfig.size,
            pruner=self.pruner if self.pruner != "auto" else "halving",
            opacity=self.opacity if self.opacity is not None else 0.0 if demo else TrainConfig.opacity,
            keep_models=self.keep_models if self.keep_models is not None else (trials if trials <= 20 else 5),
        )

    def recipe(self) -> TrainConfig:
        """The first trial's configuration: the defaults, except for what is given. Without domain randomisation on
        synthetic films: one program draws them all, so that nothing has to be hidden, and trainings are short.

        Raises:
            ValueError: as `decided`.
        """
        plan = self.decided()
        disturb = 0.0 if self.data == "synthetic" else TrainConfig.disturb
        return TrainConfig(
            size=plan.size,
            epochs=plan.epochs,
            seed=self.seed,
            disturb=disturb if self.disturb is None else self.disturb,
            opacity=TrainConfig.opacity if self.opacity is None else self.opacity,
        )

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
