"""Training: repeatable, honest about divergence, and the best epoch is what comes out."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from pneumonia.augmentation import stress_tests as stress
from pneumonia.config import TrainConfig
from pneumonia.metrics import objective as objectives
from pneumonia.training import loop
from pneumonia.training.backbones import start
from pneumonia.training.device import half_precision
from pneumonia.training.loop import Diverged, Epoch, FitData, Step, fit, fit_data, predict
from pneumonia.training.network import Network, build
from tests.training.conftest import TINY, blobs


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_opacities_are_painted_where_the_class_is_one_they_show_and_a_share_is_asked_for(data: FitData) -> None:
    without, painted = fit(replace(TINY, opacity=0.0), data), fit(replace(TINY, opacity=0.5), data)
    other_class = fit(replace(TINY, opacity=0.5), replace(data, opacities=False))
    losses = [[epoch["train/loss"] for epoch in fitted.history] for fitted in (without, other_class, painted)]
    assert losses[0] == losses[1] != losses[2]


def test_one_batch_is_overfitted() -> None:
    rng = np.random.default_rng(0)
    films, labels = rng.integers(0, 255, (16, 32, 32), dtype=np.uint8), np.arange(16) % 2  # nothing but noise to learn
    same = FitData(train_films=films, train_labels=labels, val_films=films, val_labels=labels)
    config = replace(
        TINY, epochs=60, patience=60, augment=0, disturb=0, dropout=0, label_smoothing=0, weight_decay=0, width=8
    )
    fitted = fit(config, same)
    assert min(epoch["train/loss"] for epoch in fitted.history) < 0.05
    assert ((fitted.val_logits > 0) == labels).all()


def test_the_same_seed_gives_the_same_network_bit_for_bit(data: FitData) -> None:
    one, two, other = fit(TINY, data), fit(TINY, data), fit(replace(TINY, seed=1), data)
    assert [e["train/loss"] for e in one.history] == [e["train/loss"] for e in two.history]
    assert np.array_equal(one.val_logits, two.val_logits)
    assert not np.array_equal(one.val_logits, other.val_logits)


def test_two_threads_give_the_network_that_one_gives(data: FitData) -> None:
    """A batch of 64 goes through two replicas, whether in one thread or in two; an epoch ends with a batch of 32."""
    config = replace(TINY, batch_size=64)
    one = fit(config, data)
    torch.set_num_threads(2)
    two = fit(config, data)
    assert torch.get_num_threads() == 2
    assert one.history[-1]["train/loss"] == two.history[-1]["train/loss"]
    assert np.array_equal(one.val_logits, two.val_logits)


def test_the_first_epochs_may_have_half_the_size(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[int] = []
    real = loop.augment
    monkeypatch.setattr(loop, "augment", lambda films, **more: (sides.append(films.shape[-1]), real(films, **more))[1])
    fitted = fit(replace(TINY, epochs=4, half_size=0.5), data)
    steps = len(sides) // 4
    assert sides == [16] * 2 * steps + [32] * 2 * steps
    assert np.allclose(predict(fitted.network, torch.from_numpy(data.val_films)), fitted.val_logits, atol=1e-5)


def test_it_learns_what_can_be_learnt(data: FitData) -> None:
    assert fit(replace(TINY, epochs=6), data).history[-1]["val/auc"] > 0.95


def test_global_state_is_left_alone(data: FitData) -> None:
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), (torch.get_num_threads(), cv2.getNumThreads())
    fit(replace(TINY, epochs=1), data)
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads


def test_opencv_keeps_to_one_thread_while_training(data: FitData) -> None:
    counts: list[int] = []
    fit(replace(TINY, epochs=1), data, on_step=lambda _: counts.append(cv2.getNumThreads()))
    assert set(counts) == {1}


def test_the_best_epochs_weights_come_out(data: FitData) -> None:
    fitted = fit(replace(TINY, epochs=5), data)
    values = [epoch["val/objective"] for epoch in fitted.history]
    assert fitted.best_epoch == int(np.argmin(values)) + 1
    assert np.allclose(predict(fitted.network, torch.from_numpy(data.val_films)), fitted.val_logits, atol=1e-5)
    assert not fitted.network.training


def test_training_stops_when_it_gets_no_better(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.4, 0.6, 0.6, 0.6, 0.6])
    monkeypatch.setattr(objectives, "epoch_scores", lambda *_: {"val/objective": next(losses), "val/loss": 1.0})
    fitted = fit(replace(TINY, epochs=6, patience=2), data)
    assert (len(fitted.history), fitted.best_epoch) == (4, 2)


def test_a_learning_rate_beyond_reason_is_named(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "augment", lambda films, **_: torch.full((len(films), 1, 32, 32), float("nan")))
    with pytest.raises(Diverged, match=r"the loss is not finite at step 1, learning rate"):
        fit(TINY, data)


def test_validation_films_are_neither_augmented_nor_drawn(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = loop.augment
    monkeypatch.setattr(loop, "augment", lambda films, **more: (seen.append(films), real(films, **more))[1])
    fit(replace(TINY, epochs=1), data)
    val = {film.tobytes() for film in data.val_films}
    assert not any(film.numpy().tobytes() in val for batch in seen for film in batch)


def test_no_test_film_reaches_the_training(decoded) -> None:  # type: ignore[no-untyped-def]
    given = fit_data(decoded)
    split = decoded.index.table["split"].to_numpy()
    assert len(given.train_films) == (split == "train").sum()
    assert len(given.val_films) == (split == "val").sum()
    test = {film.tobytes() for film in decoded.films[split == "test"]}
    assert not any(film.tobytes() in test for film in (*given.train_films, *given.val_films))


def test_what_the_callbacks_say_and_raise(data: FitData) -> None:
    epochs: list[Epoch] = []
    steps: list[Step] = []
    fitted = fit(TINY, data, on_epoch=epochs.append, on_step=steps.append)
    assert [e.number for e in epochs] == [1, 2, 3]
    assert [e.metrics for e in epochs] == fitted.history
    assert [s.step for s in steps] == list(range(1, 19))
    assert {s.steps for s in steps} == {18}

    def stop(epoch: Epoch) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        fit(TINY, data, on_epoch=stop)


@pytest.mark.parametrize("positives", [0.01, 0.1])
def test_a_rare_class_works(positives: float) -> None:
    films, labels = blobs(200, positives=positives)
    val, val_labels = blobs(40, seed=1)
    rare = FitData(train_films=films, train_labels=labels, val_films=val, val_labels=val_labels)
    assert np.isfinite(fit(replace(TINY, epochs=1), rare).val_logits).all()


@pytest.mark.parametrize("positives", [0.0, 1.0])
def test_validation_films_of_one_class_choose_by_plain_loss(data: FitData, positives: float) -> None:
    val, val_labels = blobs(20, positives=positives)
    lacking = replace(data, val_films=val, val_labels=val_labels)
    fitted = fit(TINY, lacking)
    assert all(np.isnan(epoch["val/objective"]) for epoch in fitted.history)
    assert fitted.best_epoch == int(np.argmin([epoch["val/loss"] for epoch in fitted.history])) + 1


def test_what_cannot_be_trained_on_is_refused(data: FitData) -> None:
    with pytest.raises(ValueError, match="films of both classes, not 0 negative"):
        fit(TINY, replace(data, train_labels=np.ones_like(data.train_labels)))
    with pytest.raises(ValueError, match="no validation films"):
        fit(TINY, replace(data, val_films=data.val_films[:0], val_labels=data.val_labels[:0]))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda is not available"):
            fit(replace(TINY, device="cuda"), data)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 7])
def test_a_training_of_few_steps_works(data: FitData, epochs: int) -> None:
    """One step an epoch: films that fit in one batch. OneCycleLR alone fails at three steps."""
    few = replace(data, train_films=data.train_films[:12], train_labels=data.train_labels[:12])
    rates = [epoch["train/lr"] for epoch in fit(replace(TINY, epochs=epochs), few).history]
    assert len(rates) == epochs
    assert 0 < rates[-1] < max(TINY.lr / 100, max(rates[:-1], default=1))


@pytest.mark.parametrize("films", [4, 5])
def test_batches_of_two_work_with_a_film_left_over(data: FitData, films: int) -> None:
    order = np.argsort(data.train_labels, kind="stable")[[0, -1, 1, -2, 2]][:films]
    few = replace(data, train_films=data.train_films[order], train_labels=data.train_labels[order])
    steps: list[Step] = []
    fit(replace(TINY, epochs=2, batch_size=2), few, on_step=steps.append)
    assert len(steps) == steps[-1].steps == 4


def test_validation_films_change_nothing_that_is_learnt(data: FitData) -> None:
    val, val_labels = blobs(20, positives=0.3, seed=9)
    one, two = fit(TINY, data), fit(TINY, replace(data, val_films=val, val_labels=val_labels))
    assert [e["train/loss"] for e in one.history] == [e["train/loss"] for e in two.history]


def test_an_earlier_best_epoch_comes_out_and_not_the_last(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, logits, best = iter([0.5, 0.4, 0.6]), [], []
    real = objectives.epoch_scores

    def judge(labels: np.ndarray, values: np.ndarray, painted: np.ndarray) -> dict[str, float]:
        logits.append(np.concatenate([values, painted]))
        return {**real(labels, values, painted), "val/objective": next(losses)}

    monkeypatch.setattr(objectives, "epoch_scores", judge)
    fitted = fit(TINY, data, on_epoch=lambda epoch: best.append(epoch.best))
    assert best == [True, True, False]
    assert fitted.best_epoch == 2
    painted = stress.painted(data.val_films, data.val_labels)
    val = torch.from_numpy(np.concatenate([data.val_films, stress.change(data.val_films), painted]))
    half = half_precision(torch.device("cpu"))
    assert np.array_equal(predict(fitted.network, val, mirror=False, half=half), logits[1])
    assert not np.array_equal(logits[1], logits[2])
    both = np.concatenate([fitted.val_logits, fitted.changed_logits])
    assert np.allclose(predict(fitted.network, val[: -len(painted)]), both, atol=1e-5)


def test_changed_films_judge_where_training_disturbs(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, alone = fit(TINY, data), fit(replace(TINY, disturb=0), data)
    labels, logits = fitted.calibration_data(data.val_labels)
    assert len(logits) == len(labels) == 3 * len(data.val_labels)
    assert np.array_equal(labels, np.tile(data.val_labels, 3))
    assert np.array_equal(logits[: len(data.val_labels)], fitted.val_logits)
    for copies in np.split(fitted.changed_logits, 2):
        assert not np.allclose(fitted.val_logits, copies)
    judged: list[tuple[int, ...]] = []
    real = objectives.epoch_scores
    monkeypatch.setattr(objectives, "epoch_scores", lambda y, *x: (judged.append(tuple(map(len, x))), real(y, *x))[1])
    for disturb, opacities in ((1.0, True), (1.0, False), (0.0, True)):
        fit(replace(TINY, epochs=1, disturb=disturb), replace(data, opacities=opacities))
    films, normal = len(data.val_labels), int((data.val_labels == 0).sum())
    assert judged == [(3 * films, normal), (3 * films, 0), (films, 0)]

    assert alone.changed_logits.size == 0
    assert np.array_equal(alone.calibration_data(data.val_labels)[1], alone.val_logits)
    assert not np.array_equal(alone.val_logits, fitted.val_logits)


def test_the_averaged_network_predicts_sensibly_after_few_steps(data: FitData) -> None:
    """18 steps with a memory of 200: the average must not hang on the random start, and batch norm's statistics must
    be averaged with the weights. The order of the films (AUC) hardly shows it; the loss does (log 2 is chance)."""
    fitted = fit(replace(TINY, epochs=3, ema_decay=0.995, augment=0, disturb=0), data)
    start, end = build(TINY.width, TINY.dropout, seed=TINY.seed).state_dict(), fitted.network.state_dict()
    kernels = [name for name, tensor in end.items() if tensor.ndim > 1]
    assert min(float((end[name] - start[name]).norm() / start[name].norm()) for name in kernels) > 0.02
    for name in (name for name in end if name.endswith("running_mean")):
        assert end[name].any(), name  # 0 at the start
    assert float(end["stem.1.running_var"].mean()) < 0.8  # 1 at the start
    assert fitted.history[-1]["val/auc"] > 0.95
    assert fitted.history[-1]["val/loss"] < 0.55


def test_a_huge_learning_rate_diverges_and_is_named(data: FitData) -> None:
    config = replace(TINY)
    object.__setattr__(config, "lr", 1e36)  # TrainConfig itself stops at 1
    with pytest.raises(Diverged, match=r"not finite at step \d+, learning rate \d\.?\d*e\+3\d"):
        fit(config, data)


def test_a_poisoned_batch_names_its_step_and_learning_rate(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = iter(range(1, 100)), loop.augment

    def poison(films: torch.Tensor, **more: Any) -> torch.Tensor:
        x = real(films, **more)
        return x * torch.nan if next(calls) == 4 else x

    monkeypatch.setattr(loop, "augment", poison)
    steps: list[Step] = []
    with pytest.raises(Diverged, match=r"the loss is not finite at step 4, learning rate [\d.e-]+: lower"):
        fit(TINY, data, on_step=steps.append)
    assert [s.step for s in steps] == [1, 2, 3]


def test_an_infinite_gradient_is_named(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    def rigged(config: TrainConfig) -> Network:
        network = start(config)
        network.head.weight.register_hook(lambda gradient: gradient * torch.inf)
        return network

    monkeypatch.setattr(loop.backbones, "start", rigged)
    rate = f"{TINY.lr / 25:.3g}"  # OneCycleLR's first
    with pytest.raises(Diverged, match=f"the gradient is not finite at step 1, learning rate {rate}"):
        fit(TINY, data)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-3])
def test_a_gradient_that_stays_infinite_in_float16_is_named(scale: float) -> None:
    """On CUDA the scaler skips the step and halves its scale, which is to help."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.zeros(1))
    with pytest.raises(Diverged, match="the gradient is not finite at step 10") if scale < 1 else nullcontext():
        loop._check(torch.tensor(0.5), torch.tensor(torch.inf), scaler, 10, 1e-3)


def test_a_validation_loss_that_is_no_number_is_named(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "predict", lambda network, films, **_: np.full(len(films), np.nan))
    with pytest.raises(Diverged, match=r"validation loss is not finite after epoch 1, step 6; .* rate was 0.005"):
        fit(TINY, data)


@pytest.mark.parametrize("where", ["on_step", "on_epoch"])
def test_what_a_callback_raises_comes_through_and_leaves_no_trace(data: FitData, where: str) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        fit(TINY, data, **{where: stop})  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_global_generator_has_no_part_in_the_training(data: FitData) -> None:
    torch.manual_seed(1)
    one = fit(replace(TINY, epochs=1), data)
    torch.manual_seed(2)
    assert np.array_equal(one.val_logits, fit(replace(TINY, epochs=1), data).val_logits)


@pytest.mark.slow
@pytest.mark.parametrize(("films", "positives"), [(60, 1 / 6), (404, 400 / 404)])
def test_a_class_of_ten_films_and_one_of_a_hundredth_are_learnt(films: int, positives: float) -> None:
    train_films, labels = blobs(films, positives=positives)
    val, val_labels = blobs(40, seed=1)
    rare = FitData(train_films=train_films, train_labels=labels, val_films=val, val_labels=val_labels)
    assert fit(replace(TINY, epochs=6), rare).history[-1]["val/auc"] > 0.9


def test_it_judges_by_plain_films_and_averaged_weights(data: FitData) -> None:
    fitted, half = fit(TINY, data), half_precision(torch.device("cpu"))
    logits = torch.from_numpy(predict(fitted.network, torch.from_numpy(data.val_films), mirror=False, half=half))
    loss = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(data.val_labels).double())
    assert fitted.history[fitted.best_epoch - 1]["val/loss"] == pytest.approx(float(loss), abs=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.95])
def test_weights_and_batch_statistics_are_averaged(
    data: FitData, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Network] = []
    monkeypatch.setattr(loop.backbones, "start", lambda config: (built.append(start(config)), built[0])[1])
    begun = build(TINY.width, TINY.dropout, seed=TINY.seed).state_dict()
    expected = {name: value for name, value in begun.items() if value.is_floating_point()}

    def follow(step: Step) -> None:
        share = 1 - min(decay, (1 + step.step) / (10 + step.step))
        raw = built[0].state_dict()
        expected.update({name: torch.lerp(value, raw[name], share) for name, value in expected.items()})

    average = fit(replace(TINY, epochs=1, ema_decay=decay), data, on_step=follow).network.state_dict()
    assert any("running_mean" in name for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(average[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_smoothing_moves_each_label_towards_a_half(data: FitData) -> None:
    """The loss is linear in the label: at the first step .4 lies as far from .2 as .2 from 0."""

    def first_loss(smoothing: float) -> float:
        losses: list[float] = []
        fit(replace(TINY, epochs=1, label_smoothing=smoothing), data, on_step=lambda step: losses.append(step.loss))
        return losses[0]

    none, some, more = first_loss(0.0), first_loss(0.2), first_loss(0.4)
    assert abs(more - none) > 1e-4
    assert some == pytest.approx((none + more) / 2, abs=1e-6)


def test_a_mirrored_film_gets_the_same_logit(data: FitData) -> None:
    network, films = fit(replace(TINY, epochs=1), data).network, torch.from_numpy(data.val_films)
    both, plain = predict(network, films), predict(network, films, mirror=False)
    assert np.allclose(both, predict(network, films.flip(2)), atol=1e-5)
    assert np.allclose(both, (plain + predict(network, films.flip(2), mirror=False)) / 2, atol=1e-5)
    assert np.abs(both - plain).max() > 1e-3
