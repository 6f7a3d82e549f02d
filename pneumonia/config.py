"""What can be set, each setting declared once: name, type, default, help and bounds.

A field of `TrainConfig` is a flag of `train` and an MLflow parameter; `search_space` says which ones a search varies.
One of `SearchConfig` is a flag of `search`. The parameters in MLproject stand there once more: a test compares.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pneumonia.search_space import RANGES, Range, search_space
from pneumonia.settings import SHARE, STRENGTH, Bounds, check, setting

VERSION = 2  # raise it when the same settings train differently: a search begun before then does not resume
TRIAL_FILMS = 36_000  # films that a trial sees over all its epochs; nearly a minute on one core at 64 px
GALLERY = "log pictures of eight validation films with heatmaps; false where films may not leave the machine"
Sampler = Literal["weighted", "none"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Pruner = Literal["auto", "halving", "none"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the full recipe for real films.

    Raises:
        ValueError: a field is out of its range; the sentence names the field, its bound and the value given.
    """

    size: int = setting(
        64,
        "side of the square that films are resized to, pixels (a multiple of 16)",
        Bounds(low=32, high=1024, multiple=16),
    )
    network: str = setting("cnn", "cnn, or any classification network of torchvision or timm", in_name="changed")
    weights: str = setting(
        "none",
        "what the network starts from: none, default (from photographs, downloaded or installed) or a file",
        in_name="changed",
    )
    width: int = setting(
        16,
        "cnn: channels of the first stage; later stages have 2, 4 and 8 times as many",
        Bounds(low=1),
    )
    epochs: int = setting(64, "passes over the training films", Bounds(low=1))
    batch_size: int = setting(64, "films per step", Bounds(low=2))
    lr: float = setting(
        2e-3,
        "peak learning rate of the one-cycle schedule",
        Bounds(low=0, high=1, above=True),
    )
    weight_decay: float = setting(0.05, "AdamW's decoupled weight decay", STRENGTH, project=False)
    dropout: float = setting(0.3, "dropout before the last layer", SHARE, project=False)
    label_smoothing: float = setting(0.05, "share of each label spread evenly over both classes", SHARE, project=False)
    ema_decay: float = setting(
        0.995,
        "decay per step of the averaged weights, which are validated and kept; less in the first steps",
        SHARE,
        project=False,
    )
    augment: float = setting(
        1.0,
        "strength of the augmentation; 0 turns it off, but not disturb or opacity",
        STRENGTH,
        project=False,
    )
    disturb: float = setting(
        0.5,
        "strength of domain randomisation: frames, holes, exposure, tone, contrast, shape, blur; 0 turns it off",
        STRENGTH,
        synthetic=0.0,  # one program draws them all, so that nothing has to be hidden, and trainings are short
    )
    opacity: float = setting(
        0.2,
        "share of normal training films that get a painted opacity and count as ill; 0 turns it off",
        SHARE,
        synthetic=0.0,
    )
    half_size: float = setting(
        0.0, "share of the epochs, the first ones, trained at half the size, in half the time", SHARE, project=False
    )
    sampler: Sampler = setting(
        "weighted", "weighted: each class fills half of the draws (before opacity); none: films as they come"
    )
    patience: int = setting(
        12, "stop after this many epochs without a better val/objective", Bounds(low=1), project=False
    )
    seed: int = setting(
        0, "seed of the weights, the sampling and the augmentation", Bounds(low=0, high=2**32 - 1)
    )  # what NumPy and Optuna take
    device: Device = setting("auto", "auto takes CUDA if there is one, else MPS, else the CPU", in_name="never")

    def __post_init__(self) -> None:
        check(self)
        if self.half_size and self.size % 32:
            raise ValueError(f"size must be a multiple of 32 where some epochs have half of it, not {self.size}")


TRAINING = {field.name: field for field in fields(TrainConfig)}


def _of_training(name: str, help: str = "") -> Any:
    """A field of `SearchConfig` that gives the setting `name` to every training; None leaves it open."""
    one = TRAINING[name]
    help = help or f"{one.metadata['help']} [{one.default}]"
    return field(default=None, metadata={**one.metadata, "help": help, "training": True})


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search: how many trials, how long each, where they meet. `None` is decided by `for_data`.

    Raises:
        ValueError: a field is out of its range; the sentence names the field.
    """

    data: str = setting("synthetic", "'synthetic', a folder of films, or a CSV/Parquet manifest")
    positive: str | None = setting(None, "the positive class [chosen by the names of the two classes]")
    trials: int | None = setting(None, "trials to finish, pruned ones included [12; synthetic: 8]", Bounds(low=1))
    epochs: int | None = setting(
        None,
        "epochs of a trial [8; more where there are fewer than 4,500 training films]",
        Bounds(low=1),
    )
    final_epochs: int | None = setting(None, "epochs of the final training [64; synthetic: 8]", Bounds(low=1))
    workers: int | None = setting(
        None, "processes that run trials, one thread each [one per core]", Bounds(low=1, high=256)
    )
    size: int | None = _of_training("size")
    network: str | None = _of_training("network")
    weights: str | None = _of_training("weights")
    seed: int = setting(0, "seed of the search and of every training in it", TRAINING["seed"].metadata["bounds"])
    study: str | None = setting(
        None, "name of the study [made from the films, the search space and the fixed settings]"
    )
    storage: str | None = setting(None, "SQLAlchemy URL of the study's database, without a password [a sqlite file]")
    pruner: Pruner = setting(
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
    timeout: float | None = setting(None, "start no new trial after this many seconds", Bounds(low=1))
    keep_models: int | None = setting(
        None, "keep the models of only the N best trials [all up to 20 trials, then 5]", Bounds(low=0)
    )
    gallery: bool = setting(True, GALLERY)
    any_dicom: bool = setting(False, "also read DICOMs that say they are not chest radiographs")
    new: bool = setting(False, "start the next study where this one is done, instead of saying so")

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
        fixed = [name for name in self._training() if name not in RANGES]
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
        given, one = getattr(self, name), TRAINING[name]
        other = one.metadata["synthetic"] if self.data == "synthetic" else None
        return given if given is not None else one.default if other is None else other

    def ranges(self) -> dict[str, Range]:
        """The fields that the search varies, with their ranges: all that are not given.

        Raises:
            ValueError: as `decided`.
        """
        plan = self.decided()
        space = search_space(long=plan.long)
        unused = set() if self._value("network") == "cnn" else {"width"}
        return {name: one for name, one in space.items() if name not in unused and getattr(self, name, None) is None}

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
