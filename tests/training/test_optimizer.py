"""The optimizer against torch's own."""

import subprocess
import sys

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from pneumonia.training.network import build
from pneumonia.training.optimizer import WARM_UP, AdamW


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 40])
def test_a_training_is_torchs_own_step_for_step(steps: int) -> None:
    mine, theirs = build(4, 0.0, seed=0), build(4, 0.0, seed=0)
    optimizer = AdamW(mine, lr=3e-3, weight_decay=0.05, steps=steps)
    kernels = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=3e-3, fused=True)
    rising = max(WARM_UP, 2 / (steps + 1))
    schedule = OneCycleLR(reference, 3e-3, total_steps=steps + 1, pct_start=rising)
    for step in range(1, steps + 1):
        films = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        for network in (mine, theirs):
            network.zero_grad()
            network(films).square().sum().backward()
        assert optimizer.lr == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
        assert optimizer.beta1 == pytest.approx(reference.param_groups[0]["betas"][0], rel=1e-12)
        optimizer.step()
        reference.step()
        optimizer.at(step)
        schedule.step()
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_kernels_alone_decay() -> None:
    network = build(4, 0.3, seed=0)
    groups = AdamW(network, lr=1.0, weight_decay=0.05, steps=2).param_groups
    decay = {weight: group["weight_decay"] for group in groups for weight in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    kernels = {m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    for name, weight in network.named_parameters():
        assert decay[weight] == (0.05 if weight in kernels else 0), name


def test_a_parameter_without_a_gradient_stays() -> None:
    network = build(4, 0.0, seed=0)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = AdamW(network, lr=1.0, weight_decay=0.5, steps=2)
    optimizer.step()
    network.head.bias.grad = torch.ones(1)
    optimizer.step()
    moved = [not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True)]
    assert [name for (name, _), there in zip(network.named_parameters(), moved, strict=True) if there] == ["head.bias"]


def test_torchs_scaler_takes_it_and_skips_a_step_without_numbers() -> None:
    network, plain = build(4, 0.0, seed=0), build(4, 0.0, seed=0)
    optimizer = AdamW(network, lr=0.1, weight_decay=0.0, steps=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    films = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def step(factor: float) -> None:
        network.zero_grad()
        scaler.scale(network(films).sum() * factor).backward()
        scaler.unscale_(optimizer)  # type: ignore[arg-type]
        scaler.step(optimizer)  # type: ignore[arg-type]
        scaler.update()

    step(float("inf"))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), plain.parameters(), strict=True))
    assert scaler.get_scale() == 4
    step(1.0)
    reference = AdamW(plain, lr=0.1, weight_decay=0.0, steps=2)
    plain.train()(films)  # as many passes, for batch norm's statistics
    plain(films).sum().backward()
    reference.step()
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_training_does_not_import_torchs_compiler() -> None:
    """It would take one to three seconds of every process."""
    code = """
import sys
import numpy as np
from pneumonia.config import TrainConfig
from pneumonia.training.loop import FitData, fit

films, labels = np.random.default_rng(0).integers(0, 256, (16, 32, 32), np.uint8), np.arange(16) % 2
fit(TrainConfig(size=32, width=4, epochs=1, batch_size=8, device="cpu"), FitData(
    train_films=films, train_labels=labels, val_films=films, val_labels=labels))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
