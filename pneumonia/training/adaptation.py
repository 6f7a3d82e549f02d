"""A trained network taught by a few films of another place, and what that gains on films that it did not see."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from pneumonia.config import TrainConfig
from pneumonia.metrics.calibration import Calibration, operating_point, recalibrate
from pneumonia.metrics.logistic import logit
from pneumonia.metrics.scores import Floats, Ints, balanced_weights
from pneumonia.training import sampling
from pneumonia.training.loop import FitData, Step, fine_tune, predict
from pneumonia.training.network import Ensemble, Network

FOLDS = 5
FILMS, PATIENTS = 16, 5  # what fine-tuning needs: films, and patients of each class
FEWEST = 2  # patients of each class that recalibrating needs
STEPS = 80  # of each network's fine-tuning; those of an ensemble share `MOST` of them
MOST = 160
HOME = 1000  # home films that are mixed in, at most
RECIPE = TrainConfig(lr=5e-4, batch_size=64, ema_decay=0.98)

Method = Literal["fine-tuned", "recalibrated"]


@dataclass(frozen=True, kw_only=True)
class LocalFilms:
    """Films of a place: uint8 [N, S, S], labels [N] of 0 and 1, and the patient of each [N].

    `opacities`: as of `FitData`. `home_films` [M, S, S] and `home_labels` [M] are training films of the network's first
    place, to be mixed in; there may be none.
    """

    films: np.ndarray
    labels: Ints
    patients: np.ndarray
    home_films: np.ndarray
    home_labels: Ints
    opacities: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """Networks whose mean logit is asked, the line from that to the probability, and the threshold."""

    networks: Sequence[Network]
    calibration: Calibration
    threshold: float

    @property
    def network(self) -> Network | Ensemble:
        return Ensemble(self.networks).eval() if len(self.networks) > 1 else self.networks[0]

    def logits(self, films: np.ndarray) -> Floats:
        """Float64 [N] of uint8 films [N, S, S]."""
        return predict(self.network, torch.from_numpy(np.array(films)))


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Probabilities [N] of the local films, each by a model that was made without the film's patient, and the threshold
    [N] that was chosen without it.
    """

    probabilities: Floats
    thresholds: Floats

    def loss(self, labels: Ints, of: np.ndarray) -> float:
        """Class-balanced log loss of the films that `of` [N] picks, nats."""
        x, labels = logit(self.probabilities[of]), labels[of]
        return float(balanced_weights(labels) @ np.logaddexp(0, np.where(labels == 1, -x, x)))


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """The adapted model, and what it is worth: `before` is the first model at its own threshold, `recalibrated` its
    network with line and threshold of the place, `tuned` the network that learned there, None where the films were too
    few. `fold` [N] is the part of the films, from 0, that a film was held out with, `logits` [N] are those of the
    networks of the method that did not see the film. `tuning_parts` are those for which the other parts' films chose
    the network that learned, as all films together chose `method`.
    """

    model: Model
    method: Method
    fold: Ints
    logits: Floats
    before: Scored
    recalibrated: Scored
    tuned: Scored | None
    tuning_parts: tuple[int, ...]
    seconds: float

    @property
    def parts(self) -> int:
        return int(self.fold.max()) + 1

    @property
    def after(self) -> Scored:
        """Of the method that was chosen without the film: one that it helped to choose would flatter."""
        if self.tuned is None:
            return self.recalibrated
        by = np.isin(self.fold, self.tuning_parts)
        return Scored(
            probabilities=np.where(by, self.tuned.probabilities, self.recalibrated.probabilities),
            thresholds=np.where(by, self.tuned.thresholds, self.recalibrated.thresholds),
        )


def can_tune(labels: Ints, patients: np.ndarray) -> bool:
    """Whether the films are enough to learn from, and to tell what that is worth."""
    return len(labels) >= FILMS and _fewest(labels, patients) >= PATIENTS


def adapt(
    start: Model,
    place: LocalFilms,
    *,
    seed: int = 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Adapted:
    """Fine-tunes and recalibrates a model for a place, by cross-validation over its patients.

    Line and threshold are fitted to the logits of the films by networks that did not see them. What each film's score
    is judged by is fitted without the film's part. With too few films for that (`can_tune`) the networks stay, and so
    they do where having learned makes the held-out films' log loss no better than a new line does. That is chosen for
    each part by the films of the others, so that the choice is judged too, and for the final model by all of them.

    Args:
        on_step: told after each step, numbered over all trainings.

    Raises:
        ValueError: the films are too few even to recalibrate; the sentence says how many are needed.
        Diverged: as `fine_tune`.
    """
    began = time.monotonic()
    labels, patients = place.labels, place.patients
    fewest = _fewest(labels, patients)
    if fewest < FEWEST:
        there = " and ".join(str(len(set(patients[labels == label]))) for label in (0, 1))
        raise ValueError(
            f"adapting needs films of {FEWEST} patients of each class, better {PATIENTS} and {FILMS} films in all, but "
            f"there are {there} patients of the negative and the positive class"
        )
    fold = folds(labels, patients, min(FOLDS, fewest), seed=seed)
    parts = [fold == number for number in range(fold.max() + 1)]
    raw = start.logits(place.films)
    before = Scored(probabilities=start.calibration.apply(raw), thresholds=np.full(len(labels), start.threshold))
    recalibrated = _held_out(parts, raw, labels, lambda y, x: recalibrate(start.calibration, y, x))
    method: Method = "recalibrated"
    tuning_parts: tuple[int, ...] = ()
    final, logits, tuned = start, raw, None
    line, threshold = recalibrate(start.calibration, labels, raw)
    if can_tune(labels, patients):
        every = np.ones(len(labels), bool)
        *held_models, learned = _learn(start, place, [*(~held for held in parts), every], seed, on_step)
        unseen = np.empty(len(labels))
        for held, model in zip(parts, held_models, strict=True):
            unseen[held] = model.logits(place.films[held])
        tuned = _held_out(parts, unseen, labels, operating_point)
        pays = partial(_pays, tuned, recalibrated, labels)
        tuning_parts = tuple(number for number, held in enumerate(parts) if pays(~held))
        if pays(every):
            method, final, logits = "fine-tuned", learned, unseen
            line, threshold = operating_point(labels, unseen)
    return Adapted(
        model=replace(final, calibration=line, threshold=threshold),
        method=method,
        fold=fold,
        logits=logits,
        before=before,
        recalibrated=recalibrated,
        tuned=tuned,
        tuning_parts=tuning_parts,
        seconds=time.monotonic() - began,
    )


def folds(labels: Ints, patients: np.ndarray, count: int, *, seed: int) -> Ints:
    """The part of each film [N], from 0 to `count` - 1, by whole patients: those with films of the rarer class are
    dealt out first, so that no part has all of them.
    """
    rare = int(np.bincount(labels, minlength=2).argmin())
    names = np.random.default_rng(seed).permutation(np.unique(patients))
    has = {name: set(labels[patients == name]) for name in names}
    order = sorted(names, key=lambda name: (rare not in has[name], 1 - rare in has[name]))
    part = {name: place % count for place, name in enumerate(order)}
    return np.array([part[name] for name in patients])


def _fewest(labels: Ints, patients: np.ndarray) -> int:
    """Patients of the class that has fewer."""
    return min(len(set(patients[labels == label])) for label in (0, 1))


def _learn(
    start: Model, place: LocalFilms, takes: Sequence[np.ndarray], seed: int, on_step: Callable[[Step], None]
) -> list[Model]:
    """A model fine-tuned on each of `takes` of the films, each bool [N]."""
    plans = [_plan(start, place, taken, seed) for taken in takes]
    total, done, made = sum(plan.steps for plan in plans) * len(start.networks), 0, []
    for plan in plans:
        networks = []
        for member, network in enumerate(start.networks):
            tell = partial(_tell, on_step, before=done, steps=total)
            networks.append(fine_tune(replace(plan.config, seed=seed + member), plan.data, network, on_step=tell))
            done += plan.steps
        made.append(replace(start, networks=networks))
    return made


def _held_out(
    parts: Sequence[np.ndarray],
    logits: Floats,
    labels: Ints,
    point: Callable[[Ints, Floats], tuple[Calibration, float]],
) -> Scored:
    """Each part's films by the operating point that `point` finds for the other parts."""
    probabilities, thresholds = np.empty(len(labels)), np.empty(len(labels))
    for held in parts:
        line, threshold = point(labels[~held], logits[~held])
        probabilities[held], thresholds[held] = line.apply(logits[held]), threshold
    return Scored(probabilities=probabilities, thresholds=thresholds)


def _pays(tuned: Scored, recalibrated: Scored, labels: Ints, of: np.ndarray) -> bool:
    """Whether the films that `of` [N] picks say that having learned is better."""
    return tuned.loss(labels, of) < recalibrated.loss(labels, of)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One fine-tuning of each network: settings, films, number of steps."""

    config: TrainConfig
    data: FitData
    steps: int


def _plan(start: Model, place: LocalFilms, taken: np.ndarray, seed: int) -> _Plan:
    """Of the `taken` films [N], with home films, if there are any, so mixed in that each class of each place fills a
    quarter of a batch. An epoch of a few films would be a step or two, so that they stand in it several times.
    """
    films, labels, strata = place.films[taken], place.labels[taken], None
    if len(place.home_films):
        drawn = np.sort(np.random.default_rng(seed).permutation(len(place.home_films))[:HOME])
        films = np.concatenate([films, place.home_films[drawn]])
        strata = np.concatenate([labels, place.home_labels[drawn] + 2])
        labels = np.concatenate([labels, place.home_labels[drawn]])
    batch = RECIPE.batch_size
    times = math.ceil(4 * batch / len(films))
    films, labels = np.tile(films, (times, 1, 1)), np.tile(labels, times)
    per_epoch = sampling.steps(len(films), batch)
    epochs = max(1, round(min(STEPS, MOST / len(start.networks)) / per_epoch))
    return _Plan(
        config=replace(RECIPE, size=films.shape[1], epochs=epochs),
        data=FitData(
            train_films=films,
            train_labels=labels,
            val_films=films[:0],
            val_labels=labels[:0],
            opacities=place.opacities,
            changed=False,
            strata=None if strata is None else np.tile(strata, times),
        ),
        steps=epochs * per_epoch,
    )


def _tell(on_step: Callable[[Step], None], step: Step, *, before: int, steps: int) -> None:
    on_step(replace(step, step=before + step.step, steps=steps))
