"""A network adapted to a place of another look: who is held out, what it gains, and where it learns nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pneumonia.metrics.calibration import Calibration, match_prevalence, recalibrate
from pneumonia.metrics.scores import auc
from pneumonia.training import adaptation
from pneumonia.training.adaptation import FILMS, LocalFilms, Model, adapt, can_tune, folds
from pneumonia.training.loop import FitData, Step, fit, predict
from pneumonia.training.network import Ensemble, Network
from pneumonia.training.sampling import sampler
from tests.training.conftest import TINY, blobs


@pytest.fixture(scope="module")
def start(data: FitData) -> Model:
    """A model of films whose ill ones have a bright patch."""
    fitted = fit(replace(TINY, epochs=4), data)
    assert isinstance(fitted.network, Network)
    return Model(networks=[fitted.network], calibration=Calibration(1.0, 0.0), threshold=0.5)


def place(count: int, *, each: int = 2, seed: int = 3) -> LocalFilms:
    """Films of a place where the bright patch is what normal ones have. A patient has `each` of them."""
    films, bright = blobs(count, seed=seed)
    labels = 1 - bright
    order = np.argsort(labels, kind="stable")
    patients = np.array([f"p{number // each}" for number in range(count)])
    return LocalFilms(
        films=films[order],
        labels=labels[order],
        patients=patients,
        home_films=np.empty((0, 32, 32), np.uint8),
        home_labels=np.empty(0, np.int64),
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "RECIPE", replace(TINY, lr=2e-2, ema_decay=0.9, disturb=0.0, opacity=0.0))
    monkeypatch.setattr(adaptation, "STEPS", 30)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("films", "count"), [(12, 2), (40, 5)])
def test_no_patient_is_in_two_parts_and_what_is_left_has_both_classes(films: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, films // 2, films).astype(str)
    labels = (rng.random(films) < 0.3).astype(int)
    labels[[0, 1]], patients[[0, 1]] = 1, ["a", "b"]  # two patients of the rarer class at least
    fold = folds(labels, patients, count, seed=seed)
    assert all(len(set(fold[patients == name])) == 1 for name in patients)
    assert all(set(labels[fold != part]) == {0, 1} for part in range(count))


def test_a_place_of_another_look_is_learned_from_few_films(start: Model, quick: None) -> None:
    local, other = place(40), place(60, seed=9)
    steps: list[Step] = []
    found = adapt(start, local, on_step=steps.append)
    assert found.method == "fine-tuned"
    assert auc(other.labels, start.logits(other.films)) < 0.1
    assert auc(other.labels, found.model.logits(other.films)) > 0.9
    told = found.model.calibration.apply(found.model.logits(other.films)) >= found.model.threshold
    assert (told == other.labels).mean() > 0.8
    # what it said of itself by the held-out films holds on others
    called = found.after.probabilities >= found.after.thresholds
    assert (called == local.labels).mean() == pytest.approx((told == other.labels).mean(), abs=0.2)
    assert [step.step for step in steps] == list(range(1, steps[-1].steps + 1))


def test_a_film_is_scored_by_networks_that_did_not_learn_from_its_patient(start: Model, quick: None) -> None:
    """The films of a part, all black, change nothing for each other, but for those that are learned from them."""
    local = place(24)
    found = adapt(start, local)
    part = found.fold == found.fold[-1]
    spoilt = local.films.copy()
    spoilt[np.flatnonzero(part)[:-1]] = 0
    again = adapt(start, replace(local, films=spoilt))
    assert found.method == again.method == "fine-tuned"
    assert again.logits[-1] == found.logits[-1]
    assert (again.logits[~part] != found.logits[~part]).all()


@pytest.mark.slow
def test_same_seed_same_model(start: Model, quick: None) -> None:
    one, two, other = adapt(start, place(20)), adapt(start, place(20)), adapt(start, place(20), seed=1)
    assert (one.after.probabilities == two.after.probabilities).all()
    assert one.model.threshold == two.model.threshold
    assert (one.after.probabilities != other.after.probabilities).any()


@pytest.mark.slow
def test_every_member_of_an_ensemble_learns(start: Model, quick: None) -> None:
    twice = replace(start, networks=[*start.networks, *start.networks])
    assert isinstance(twice.network, Ensemble)
    local = place(20)
    found = adapt(twice, local)
    assert found.method == "fine-tuned"
    first, second = (predict(network, torch.from_numpy(local.films)) for network in found.model.networks)
    before = start.logits(local.films)
    assert auc(local.labels, before) < 0.5 < min(auc(local.labels, first), auc(local.labels, second))
    assert (first != second).any()
    assert found.model.logits(local.films) == pytest.approx((first + second) / 2, abs=1e-5)


def test_home_films_fill_half_of_each_batch(start: Model) -> None:
    home, labels = blobs(200, positives=0.8)
    plan = adaptation._plan(start, replace(place(20), home_films=home, home_labels=labels), np.ones(20, bool), 0)
    assert plan.data.strata is not None
    draws = sampler(plan.data.strata, "weighted", torch.Generator().manual_seed(0))
    drawn = np.bincount(plan.data.strata[list(draws)])
    assert drawn / drawn.sum() == pytest.approx([0.25] * 4, abs=0.06)


@pytest.mark.parametrize(("films", "each", "able"), [(FILMS, 1, True), (FILMS - 2, 1, False), (40, 10, False)])
def test_too_few_films_or_patients_are_recalibrated_alone(start: Model, films: int, each: int, able: bool) -> None:
    local = place(films, each=each)
    assert can_tune(local.labels, local.patients) is able
    if not able:
        found = adapt(start, local)
        assert (found.method, found.tuned) == ("recalibrated", None)
        assert found.model.networks is start.networks
        assert found.model.calibration != start.calibration


@pytest.mark.parametrize("missing", [0, 1])
def test_films_that_tell_nothing_are_refused(start: Model, missing: int) -> None:
    local = place(12)
    kept = local.labels != missing
    with pytest.raises(ValueError, match="adapting needs films of 2 patients of each class"):
        adapt(start, replace(local, films=local.films[kept], labels=local.labels[kept], patients=local.patients[kept]))


def test_a_part_s_own_films_have_no_say_in_how_they_are_scored(start: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is far better on one part and worse on all others is taken for the sake of that part: it scores
    the others, whose films it won with the help of that part, and not that part's."""
    local, rng = place(40, each=1), np.random.default_rng(0)
    fold = folds(local.labels, local.patients, adaptation.FOLDS, seed=0)
    way, noise = 2 * local.labels - 1, rng.normal(0, 1, len(fold))
    first, learned = 0.5 * way + noise, np.where(fold == 0, 2 * way, 0.4 * way + noise)

    class Learned(Model):
        pass

    def logits(model: Model, films: np.ndarray) -> np.ndarray:
        at = [np.flatnonzero((local.films == film).all((1, 2)))[0] for film in films]
        return (learned if isinstance(model, Learned) else first)[at]

    monkeypatch.setattr(Model, "logits", logits)
    monkeypatch.setattr(adaptation, "_learn", lambda model, place, takes, *_: [Learned(**vars(model)) for _ in takes])
    found = adapt(start, local)
    assert (found.method, found.tuning_parts) == ("fine-tuned", (1, 2, 3, 4))
    for part in range(5):
        scored = found.recalibrated if part == 0 else found.tuned
        assert (found.after.probabilities[fold == part] == scored.probabilities[fold == part]).all()
        assert (found.after.thresholds[fold == part] == scored.thresholds[fold == part]).all()


@pytest.mark.slow
def test_what_has_nothing_to_learn_keeps_its_networks(start: Model, quick: None) -> None:
    """Labels by chance: fine-tuning cannot help on held-out films, and a new line cannot harm much."""
    rng = np.random.default_rng(0)
    local = place(40, each=1)
    films = rng.integers(0, 256, local.films.shape, dtype=np.uint8)
    methods = [adapt(start, replace(local, films=films), seed=seed).method for seed in range(3)]
    assert "recalibrated" in methods


def test_a_line_drawn_to_the_old_one() -> None:
    rng, old = np.random.default_rng(0), Calibration(1.5, 0.5)
    logits = rng.normal(0, 2, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-(0.8 * logits - 1)))).astype(int)
    line, threshold = recalibrate(old, labels, logits)
    assert (line.slope, line.intercept) == pytest.approx((0.8, -1), abs=0.15)
    assert threshold == pytest.approx(labels.mean(), abs=0.01)
    few, _ = recalibrate(old, labels[:6], logits[:6])
    assert abs(few.slope - old.slope) < abs(line.slope - old.slope)
    reverse, _ = recalibrate(old, (logits < 0).astype(int), logits)
    assert reverse.slope > 0


@pytest.mark.parametrize("prevalence", [0.1, 0.5, 0.9])
def test_without_labels_as_many_are_called_ill_as_there_are_thought_to_be(prevalence: float) -> None:
    logits = np.random.default_rng(0).normal(3, 2, 500)
    line, threshold = match_prevalence(Calibration(1.5, 0.5), logits, prevalence)
    probabilities = line.apply(logits)
    assert line.slope == 1.5
    assert (probabilities >= threshold).mean() == pytest.approx(prevalence, abs=0.005)
    assert probabilities.mean() == pytest.approx(prevalence, abs=1e-6)
