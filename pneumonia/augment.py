"""Augmentation of a whole batch at once, on films that stay uint8 in memory."""

import math

import torch
from torch import Tensor
from torch.nn import functional

ROTATION = math.radians(15)
SCALE, ASPECT = 0.15, 0.15
SHIFT = 0.1  # of the film's side
GAMMA = 0.3  # of the logarithm
NOISE = 0.1  # of the film's standard deviation
EPSILON = 1e-3  # grey levels; a film of one grey becomes zeros, not infinities


def standardise(films: Tensor) -> Tensor:
    """Films [B, S, S] of grey levels -> float32 [B, 1, S, S], each of mean 0 and deviation 1; as `served` does."""
    x = films.float()
    deviation, mean = torch.std_mean(x, dim=(1, 2), keepdim=True, correction=0)
    return ((x - mean) / (deviation + EPSILON)).unsqueeze(1)


def augment(films: Tensor, *, strength: float, generator: torch.Generator) -> Tensor:
    """Films uint8 [B, S, S] -> float32 [B, 1, S, S], moved, re-exposed, blurred, noisy, and standardised.

    Rotation, scale, aspect, shift and mirroring stand for the child's pose; gamma and blur for exposure and film;
    noise for grain. All draws come from `generator`, on the CPU, so that the device does not change them.

    Args:
        strength: scales every effect; 0 is `standardise` alone.
    """
    if strength == 0:
        return standardise(films)
    batch, device = len(films), films.device

    def draw(spread: float) -> Tensor:
        """[B], uniform in [-spread, spread] times the strength."""
        return (torch.rand(batch, generator=generator) * 2 - 1) * spread * strength

    angle, scale, aspect = draw(ROTATION), torch.exp(draw(SCALE)), torch.exp(draw(ASPECT) / 2)
    mirror = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([cos * scale * aspect * mirror, -sin * scale, 2 * draw(SHIFT)], dim=1),
            torch.stack([sin * scale * mirror, cos * scale / aspect, 2 * draw(SHIFT)], dim=1),
        ],
        dim=1,
    ).to(device)
    gamma = torch.exp(draw(GAMMA)).to(device)
    blur = (torch.rand(batch, generator=generator) * 0.5 * min(strength, 2.0)).to(device)
    grain = (torch.rand(batch, generator=generator) * NOISE * strength).to(device)
    seed = int(torch.randint(2**62, (1,), generator=generator))

    x = films.unsqueeze(1).float() / 255
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = x.clamp_(min=1e-4).log_().mul_(gamma.view(-1, 1, 1, 1)).exp_()
    x = torch.lerp(x, functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False), blur.view(-1, 1, 1, 1))
    x = standardise(x.squeeze(1) * 255)
    noise = torch.empty(x.shape).normal_(generator=torch.Generator().manual_seed(seed)).to(device)
    return x.add_(noise * grain.view(-1, 1, 1, 1))
