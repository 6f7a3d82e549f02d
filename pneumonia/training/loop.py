"""Training: films in memory in, the best network out. Knows neither MLflow nor Optuna."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pneumonia.augmentation import clahe, opacity, stress_tests
from pneumonia.augmentation.augment import augment, halve, standardise
from pneumonia.config import TrainConfig
from pneumonia.data.cache import Decoded
from pneumonia.data.classes import is_opacity_task
from pneumonia.metrics import objective
from pneumonia.training import allocator, backbones, data_parallel, sampling
from pneumonia.training.checkpoint import State
from pneumonia.training.data_parallel import Replicas, team
from pneumonia.training.device import half_precision, pick_device
from pneumonia.training.network import Network
from pneumonia.training.optimizer import AdamW

CLIP_NORM = 5.0  # of the gradient; far above a healthy step's, so it only tames outliers
VAL_BATCH = 128
SMALLEST_SCALE = 1.0  # of the loss, in float16; a healthy training's lies in the thousands
CUDA_READ_EVERY = 10  # on CUDA the loss is read every so many steps, since reading waits for the device


class Diverged(ArithmeticError):
    """The loss or the gradient is not finite."""


@dataclass(frozen=True, kw_only=True)
class FitData:
    """Films uint8 [N, S, S] and labels [N] of 0 and 1; the validation films are of other patients.

    `opacities`: whether class 1 is told from normal by opacities of the lungs, so that they may be painted. `changed`:
    whether corrupted copies of the validation films (see `stress_tests`) are scored beside them; None: if `disturb` is
    above 0. Trials that are compared need the same value, whatever each has for `disturb`. `strata` [N], numbers from
    0, are what the sampler balances in place of the labels.
    """

    train_films: np.ndarray
    train_labels: np.ndarray
    val_films: np.ndarray
    val_labels: np.ndarray
    opacities: bool = False
    changed: bool | None = None
    strata: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a training is: step of steps, the loss, training films a second."""

    step: int
    steps: int
    loss: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """An epoch's end: its number from 1, its metrics, whether it is the best so far, and the network of averaged
    weights that was scored (in eval mode, on the training's device), which the next epoch changes.
    """

    number: int
    epochs: int
    metrics: dict[str, float]
    best: bool
    network: Network


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The best epoch's network (averaged weights, on the CPU, in eval mode) and how it came about.

    `history` has one entry an epoch, fewer than `config.epochs` where the training ended early; `best_epoch` counts
    from 1; `objective` and `loss` are that epoch's. An ensemble (see `ensemble`) has no history of its own; `members`
    says how many networks it has. `training` has the last epoch's `train/loss` and `train/images_per_second`.
    `val_logits` is float64 [N], the mean over the film and its mirror image; `changed_logits` [2 N] are those of the
    corrupted copies, empty where these are not scored.
    """

    network: Network
    config: TrainConfig
    history: list[dict[str, float]]
    best_epoch: int
    objective: float
    loss: float
    val_logits: np.ndarray
    changed_logits: np.ndarray
    seconds: float
    device: str
    training: dict[str, float]
    members: int = 1

    def calibration_data(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels and logits that calibration and threshold are fitted to: of the validation films as they are and,
        where these are scored, their corrupted copies; `labels` [N] are those of the films.
        """
        logits = np.concatenate([self.val_logits, self.changed_logits])
        return np.resize(labels, len(logits)), logits


def fit_data(data: Decoded, *, changed: bool | None = None) -> FitData:
    """The training and validation films; no test film passes through here. `changed`: see `FitData`."""
    split = data.index.table["split"].to_numpy()
    label = data.index.table["label"].to_numpy()
    return FitData(
        train_films=data.films[split == "train"],
        train_labels=label[split == "train"],
        val_films=data.films[split == "val"],
        val_labels=label[split == "val"],
        opacities=is_opacity_task(data.index.classes),
        changed=changed,
    )


def fit(
    config: TrainConfig,
    data: FitData,
    *,
    on_epoch: Callable[[Epoch], bool | None] = lambda epoch: None,
    on_step: Callable[[Step], None] = lambda step: None,
    on_state: Callable[[State], None] | None = None,
    resume: State | None = None,
) -> Fitted:
    """Trains by the recipe: AdamW, one-cycle learning rate, label smoothing, averaged weights, and, if asked for, small
    films first (progressive resizing: Howard 2018, Tan and Le 2021).

    Epochs are scored in the training's number format and on the film alone, which takes a quarter of the time; the
    result in float32, on film and mirror image.
    The best epoch is the one with the lowest `val/objective`, or the lowest `val/loss` where the validation films lack
    a class. The objective (see `metrics.objective`) is of the validation films as they are and, where corrupted copies
    are scored too (see `FitData`), of these and, with `opacities`, of painted normal films, which count as ill. On the
    CPU of one machine the same configuration and films give the same network, bit for bit, on one thread or on two,
    which halve the time (see `data_parallel`).

    Args:
        on_epoch: told after each epoch; where it returns True the training ends there, with the best epoch so far.
        on_step: told after each step, on CUDA after every tenth. What either raises ends the training without a result.
        on_state: given, after `on_epoch`, all that the training needs to go on from there.
        resume: such a state of a training with this configuration and these films. The result is that of the training
            which was not interrupted; its callbacks hear nothing of the epochs before.

    Raises:
        Diverged: the loss or the gradient is not a finite number; names the step and the learning rate.
        ValueError: a class has no training film, there is no validation film, or the device is not there.
    """
    if len(data.val_films) == 0:
        raise ValueError("there are no validation films: the training films need at least two patients a class")
    device = pick_device(config.device)
    parts = data_parallel.parts(config.batch_size, device)
    with allocator.keep_freed_memory(), clahe.one_thread(), team(parts) as each:
        training = _Training(config, data, device, parts, each)
        if resume is not None:
            training.restore(resume)
        while not training.ended:
            number = len(training.history) + 1
            epoch = training.validate(number, training.epoch(number, on_step))
            enough = number == config.epochs or number - training.best_epoch >= config.patience
            training.ended = bool(on_epoch(epoch)) or enough
            if on_state is not None:
                on_state(training.state())
        return training.fitted()


def fine_tune(
    config: TrainConfig, data: FitData, start: Network, *, on_step: Callable[[Step], None] = lambda step: None
) -> Network:
    """Trains on from `start`, which stays as it is, by the recipe of `fit`, to the end: no validation film is needed.

    Returns:
        The averaged weights, on the CPU, in eval mode.

    Raises:
        Diverged: the loss or the gradient is not a finite number.
        ValueError: a class has no training film, or the device is not there.
    """
    device = pick_device(config.device)
    parts = data_parallel.parts(config.batch_size, device)
    with allocator.keep_freed_memory(), clahe.one_thread(), team(parts) as each:
        training = _Training(config, data, device, parts, each, start=start)
        for number in range(1, config.epochs + 1):
            training.epoch(number, on_step)
        average: Network = training.average.to("cpu")
        return average


class _Training:
    """The state of a running training, which begins at `start`, or at random weights."""

    def __init__(
        self,
        config: TrainConfig,
        data: FitData,
        device: torch.device,
        parts: int,
        each: Callable[..., list[Any]],
        *,
        start: Network | None = None,
    ) -> None:
        self.began = time.monotonic()
        self.config, self.data, self.device, self.map_parts = config, data, device, each
        self.generator = torch.Generator().manual_seed(config.seed)
        self.films = torch.from_numpy(np.ascontiguousarray(data.train_films)).to(device)
        self.half_films = halve(self.films) if config.half_size else self.films
        labels = torch.from_numpy(data.train_labels.astype(np.float32)).to(device)
        self.targets = labels * (1 - config.label_smoothing) + 0.5 * config.label_smoothing
        val_films, self.unpainted = films_to_score(config, data)
        self.val_films = torch.from_numpy(val_films).to(device)
        strata = data.train_labels if data.strata is None else data.strata
        self.sampler = sampling.sampler(strata, config.sampler, self.generator)

        network = copy.deepcopy(start) if start else backbones.start(config)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.replicas = Replicas(self.network, parts)
        self.average = copy.deepcopy(self.network).eval()
        self.average_tensors, self.network_tensors = _floats(self.average), _floats(self.network)
        self.steps = sampling.steps(len(self.films), config.batch_size) * config.epochs
        self.optimizer = AdamW(self.network, lr=config.lr, weight_decay=config.weight_decay, steps=self.steps)
        self.cuda, self.half = device.type == "cuda", half_precision(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.cuda)

        self.step, self.ended, self.seconds_before = 0, False, 0.0
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_value = 0, math.inf
        self.best_state = self.average.state_dict()

    @property
    def seconds(self) -> float:
        """How long the training has taken, also before it was interrupted."""
        return self.seconds_before + time.monotonic() - self.began

    def tensors(self) -> dict[str, Tensor]:
        """All that training changes in place; the replicas' statistics are the network's between steps."""
        of = {"network": self.network, "average": self.average}
        weights = {f"{name}.{key}": value for name, one in of.items() for key, value in one.state_dict().items()}
        return weights | {f"optimizer.{key}": value for key, value in self.optimizer.tensors().items()}

    def state(self) -> State:
        """The training after an epoch, for `restore`."""
        earlier = self.best_epoch < len(self.history)  # else the best weights are the average as it is
        best = {f"best.{key}": value for key, value in self.best_state.items()} if earlier else {}
        return State(
            tensors={**self.tensors(), **best, "generator": self.generator.get_state()},
            facts={
                "step": self.step,
                "ended": self.ended,
                "seconds": self.seconds,
                "history": self.history,
                "best": [self.best_epoch, self.best_value],
                "scaler": self.scaler.state_dict(),
            },
        )

    def restore(self, state: State) -> None:
        """Becomes the training whose `state` it is."""
        for name, tensor in self.tensors().items():
            tensor.copy_(state.tensors[name])
        self.replicas.share_statistics()
        self.generator.set_state(state.tensors["generator"])
        facts = state.facts
        self.step, self.ended, self.seconds_before = facts["step"], facts["ended"], facts["seconds"]
        self.history, (self.best_epoch, self.best_value) = list(facts["history"]), facts["best"]
        self.optimizer.at(self.step)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(facts["scaler"])
        self.best_state = copy.deepcopy(self.average.state_dict())
        for key, value in self.best_state.items():
            value.copy_(state.tensors.get(f"best.{key}", value))

    def epoch(self, number: int, on_step: Callable[[Step], None]) -> dict[str, float]:
        """Trains on one epoch of batches; its metrics."""
        self.replicas.train()
        shown = self.half_films if number <= self.config.half_size * self.config.epochs else self.films
        total, seen, started = (
            torch.zeros((), device=self.device),
            0,
            time.perf_counter(),
        )  # monotonic() may stand still
        for batch in sampling.batches(self.sampler, self.config.batch_size):
            loss = self._step(batch, shown)
            total += loss * len(batch)
            seen += len(batch)
            if self._reads_loss() or self.step == self.steps:
                pace = seen / (time.perf_counter() - started)
                on_step(Step(step=self.step, steps=self.steps, loss=float(loss), images_per_second=pace))
        return {
            "train/loss": float(total) / seen,
            "train/images_per_second": seen / (time.perf_counter() - started),
            "train/lr": self.optimizer.lr,
        }

    def _reads_loss(self) -> bool:
        """Whether this step's loss is read, which on CUDA waits for the device."""
        return not self.cuda or self.step % CUDA_READ_EVERY == 0

    def _step(self, batch: Tensor, films: Tensor) -> Tensor:
        """One step of the optimizer and of the averaged weights; the batch's mean loss."""
        parts = self.replicas.split(batch.to(self.device))
        seeds = torch.randint(2**62, (len(parts),), generator=self.generator).tolist()
        self.replicas.zero_grad()
        compute = partial(self._gradient, films=films, batch=len(batch))
        loss = torch.stack(self.map_parts(compute, parts, seeds)).sum()
        self.replicas.gather(len(parts))
        self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.step += 1
        if self._reads_loss():
            _check(loss, norm, self.scaler, self.step, self.optimizer.lr)
        self.scaler.step(self.optimizer)  # type: ignore[arg-type]
        self.scaler.update()
        self.optimizer.at(self.step)
        # less at first, so that the average forgets the random start (as in Polyak averaging with bias)
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average_tensors, self.network_tensors, 1 - decay)
        return loss

    def _gradient(self, part: tuple[nn.Module, Tensor], seed: int, *, films: Tensor, batch: int) -> Tensor:
        """The gradient of a part of a batch, and its share of the batch's loss."""
        config, (replica, picked) = self.config, part
        draws = torch.Generator().manual_seed(seed)
        shown, target = films[picked], self.targets[picked]
        if config.opacity and self.data.opacities:
            shown, target = opacity.paint_share(shown, target, share=config.opacity, generator=draws)
        x = augment(shown, strength=config.augment, disturbance=config.disturb, generator=draws)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            logits = replica(x, draws).float()
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / batch
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def validate(self, number: int, trained: dict[str, float]) -> Epoch:
        """The epoch's scores on the validation films, by the averaged weights, which are kept if they are the best."""
        logits = predict(self.average, self.val_films, mirror=False, half=self.half, each=self.map_parts)
        scores = objective.epoch_scores(self.data.val_labels, logits[: self.unpainted], logits[self.unpainted :])
        self.history.append({**trained, **scores})
        value = scores["val/objective"] if math.isfinite(scores["val/objective"]) else scores["val/loss"]
        if not math.isfinite(value):
            raise Diverged(
                f"the validation loss is not finite after epoch {number}, step {self.step}; "
                f"the peak learning rate was {self.config.lr:g}: lower it"
            )
        better = value < self.best_value
        if better:
            self.best_epoch, self.best_value = number, value
            self.best_state = copy.deepcopy(self.average.state_dict())
        epochs, metrics = self.config.epochs, self.history[-1]
        return Epoch(number=number, epochs=epochs, metrics=metrics, best=better, network=self.average)

    def fitted(self) -> Fitted:
        """The best epoch's network and what is known of it."""
        self.average.load_state_dict(self.best_state)
        logits = predict(self.average, self.val_films[: self.unpainted], each=self.map_parts)
        best, last, films = self.history[self.best_epoch - 1], self.history[-1], len(self.data.val_films)
        return Fitted(
            network=self.average.to("cpu"),
            config=self.config,
            history=self.history,
            best_epoch=self.best_epoch,
            objective=best["val/objective"],
            loss=best["val/loss"],
            training={name: last[name] for name in ("train/loss", "train/images_per_second")},
            val_logits=logits[:films],
            changed_logits=logits[films:],
            seconds=self.seconds,
            device=self.device.type,
        )


def films_to_score(config: TrainConfig, data: FitData) -> tuple[np.ndarray, int]:
    """The films that epochs are scored on, uint8 [N, S, S]: the validation films as they are, perhaps their corrupted
    copies, and perhaps painted ones; and how many come before the painted ones.
    """
    parts = [data.val_films]
    if config.disturb > 0 if data.changed is None else data.changed:
        parts.append(stress_tests.change(data.val_films))
        if data.opacities:
            parts.append(stress_tests.painted(data.val_films, data.val_labels))
    return np.concatenate(parts), sum(len(part) for part in parts[:2])


def _check(loss: Tensor, norm: Tensor, scaler: torch.amp.GradScaler, step: int, lr: float) -> None:
    """Raises Diverged for a loss or gradient that is not finite. With float16 on CUDA the scaler skips a step with an
    infinite gradient and halves its scale; only a scale below `SMALLEST_SCALE` counts there.
    """
    what = None if math.isfinite(float(loss)) else "loss"
    stuck = scaler.get_scale() < SMALLEST_SCALE if scaler.is_enabled() else not math.isfinite(float(norm))
    if what is None and stuck:
        what = "gradient"
    if what is not None:
        raise Diverged(f"the {what} is not finite at step {step}, learning rate {lr:.3g}: lower the peak learning rate")


def _floats(network: nn.Module) -> list[Tensor]:
    """Weights and batch-norm statistics, as the tensors that the network itself uses."""
    return [t for t in network.state_dict().values() if t.is_floating_point()]


def predict(
    network: nn.Module,
    films: Tensor,
    *,
    mirror: bool = True,
    half: torch.dtype | None = None,
    each: Callable[..., list[Any]] | None = None,
) -> np.ndarray:
    """Logits float64 [N] of uint8 films [N, S, S]; with `mirror` the mean of the film's and its mirror image's.

    `half` is the format of the convolutions, float32 if None. `each` maps over the batches, as `data_parallel.team`
    does.
    """

    @torch.inference_mode()
    def logits(chunk: Tensor) -> Tensor:
        x = standardise(chunk).contiguous(memory_format=torch.channels_last)
        with torch.autocast(chunk.device.type, half, enabled=half is not None):
            plain: Tensor = network(x)
            return ((plain + network(x.flip(3))) / 2 if mirror else plain).float()  # MPS has no float64

    chunks = torch.split(films, VAL_BATCH)
    parts = each(logits, chunks) if each else [logits(chunk) for chunk in chunks]
    return np.asarray(torch.cat(parts).cpu().double().numpy())
