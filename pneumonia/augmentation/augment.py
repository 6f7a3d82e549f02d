"""Augmentation of a whole batch at once, on films that stay uint8 in memory."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pneumonia.augmentation import clahe
from pneumonia.augmentation.disturb import disturb

ROTATION = math.radians(15)
SCALE, ASPECT = 0.15, 0.15  # of the logarithm
DISTURBED_ASPECT = 0.5  # added at disturbance 1
BLUR = 0.5  # share of the neighbourhood's mean in each pixel
DISTURBED_BLUR, SHARPENING = 0.5, 1.0  # more blur, and sharpening, at disturbance 1
DISTURBED_CLAHE = 0.6  # share of the films, at disturbance 1
SHIFT = 0.1  # of the film's side
GAMMA = 0.3  # of the logarithm
NOISE = 0.1  # of the film's standard deviation
EPSILON = 1e-3  # grey levels; a film of one grey becomes zeros, not infinities


def standardise(films: Tensor) -> Tensor:
    """Films [B, S, S] of grey levels -> float32 [B, 1, S, S], each of mean 0 and deviation 1; as `served` does."""
    x = films.float()
    x = x - x.mean(dim=(1, 2), keepdim=True)
    deviation = x.square().mean(dim=(1, 2), keepdim=True).sqrt()  # a tenth of std_mean's time
    return x.div_(deviation + EPSILON).unsqueeze(1)


def halve(films: Tensor) -> Tensor:
    """Films uint8 [N, S, S] -> uint8 [N, S / 2, S / 2]: the mean of each square of four."""
    parts = []
    for part in torch.split(films, 256):  # all at once would take 16 times the films' memory
        rows = part[:, ::2].short() + part[:, 1::2]
        parts.append(((rows[:, :, ::2] + rows[:, :, 1::2] + 2) // 4).to(torch.uint8))
    return torch.cat(parts)


def _grid(theta: Tensor, side: int) -> Tensor:
    """Where each pixel comes from, [B, S, S, 2], for theta [B, 2, 3]: affine_grid by broadcasting, a fortieth of its
    time on the CPU.
    """
    centres = (torch.arange(side, device=theta.device) * 2 + 1) / side - 1
    across, down, shift = (theta[:, :, i, None, None] for i in range(3))
    return (across * centres + (down * centres[:, None] + shift)).permute(0, 2, 3, 1)


def _box(x: Tensor) -> Tensor:
    """The mean of each pixel's 3x3 neighbourhood within the film, [B, 1, S, S]: by rows, then columns, a tenth of
    avg_pool2d's time on the CPU.
    """
    counts = torch.full((x.shape[-1],), 3.0, device=x.device)
    counts[0] = counts[-1] = 2
    x = functional.pad(x, (1, 1, 1, 1))
    x = (x[:, :, :-2] + x[:, :, 2:]).add_(x[:, :, 1:-1])
    return (x[..., :-2] + x[..., 2:]).add_(x[..., 1:-1]).div_(counts * counts[:, None])


def augment(films: Tensor, *, strength: float, disturbance: float = 0.0, generator: torch.Generator) -> Tensor:
    """Films [B, S, S] of grey levels -> float32 [B, 1, S, S], augmented and standardised.

    Rotation, scale, aspect, shift and mirroring stand for the child's pose; gamma and blur for exposure and film;
    noise for grain; then comes `disturb`. All draws come from `generator`, on the CPU, so that the device does not
    change them.

    Args:
        strength: scales every effect but mirroring, which 0 alone turns off.
        disturbance: strength of the domain randomisation (see `disturb`). It also widens the ranges of scale, gamma,
            aspect and blur and adds sharpening, since these give the class away too (ill films are wider than normal
            ones before both become squares, and coarser), and sends a share of the films through `clahe` first. With
            0 for both this is `standardise` alone.
    """
    if strength == disturbance == 0:
        return standardise(films)
    if disturbance:
        films = clahe.apply(films, share=DISTURBED_CLAHE * min(disturbance, 1.0), generator=generator)
    batch, device = len(films), films.device

    def draw(spread: float, strength: float = strength) -> Tensor:
        """[B], uniform in [-spread, spread] times the strength."""
        return (torch.rand(batch, generator=generator) * 2 - 1) * spread * strength

    both = strength + disturbance
    angle, scale = draw(ROTATION), torch.exp(draw(SCALE, both))
    aspect = torch.exp(draw(ASPECT * strength + DISTURBED_ASPECT * disturbance, 1.0) / 2)
    mirror = torch.where(torch.rand(batch, generator=generator) < (0.5 if strength else 0.0), -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(  # rotation and aspect together give a little shear
        [
            torch.stack([cos * scale * aspect * mirror, -sin * scale, 2 * draw(SHIFT)], dim=1),
            torch.stack([sin * scale * mirror, cos * scale / aspect, 2 * draw(SHIFT)], dim=1),
        ],
        dim=1,
    ).to(device)
    gamma = torch.exp(draw(GAMMA, both)).to(device)
    most, sharpest = min(BLUR * strength + DISTURBED_BLUR * disturbance, 1.0), min(SHARPENING * disturbance, 2.0)
    blur = (torch.rand(batch, generator=generator) * (most + sharpest) - sharpest).to(device)
    grain = (torch.rand(batch, generator=generator) * NOISE * strength).to(device)
    seed = int(torch.randint(2**62, (1,), generator=generator))

    x = films.unsqueeze(1).float() / 255
    x = functional.grid_sample(x, _grid(theta, x.shape[-1]), padding_mode="border", align_corners=False)
    x = x.clamp_(min=1e-4).log_().mul_(gamma.view(-1, 1, 1, 1)).exp_()
    x = torch.lerp(x, _box(x), blur.view(-1, 1, 1, 1))
    x = standardise(x.squeeze(1) * 255)
    noise = torch.empty(x.shape).normal_(generator=torch.Generator().manual_seed(seed)).to(device)
    return disturb(x.add_(noise * grain.view(-1, 1, 1, 1)), strength=disturbance, generator=generator)
