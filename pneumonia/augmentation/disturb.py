"""Domain randomisation against shortcuts: changes at random what tells how and where a film was made, a batch at once.

Without it a network uses the borders of Kermany's films, where collimators, letters and the crop differ between the
classes: with grey borders, nearly every normal validation film was called ill (`experiments/shortcut_audit.py`).
Results of each effect: `experiments/LOG.md`.
"""

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 8  # a side of the grid on which local contrast and exposure vary
LOCAL, FLAT = 0.6, 0.8  # share of films whose local contrast is evened out, and what deviation it tends to
TONE, MOST_TONE = 1.2, 0.9  # how far towards, or away from, a curve that saturates at one deviation
EXPOSURE = 0.6  # of the film's standard deviation, for the field of exposure
HOLE, HOLE_SIDE = 0.5, 0.35  # share of films with a hole, and its longest side, of the film's
FRAME, FRAME_WIDTH = 0.5, 0.2  # share of films with a frame, and the widest of its four bars, of the film's side
FRAME_GREY = 1.2  # spread of the frame's grey around the film's, in the film's standard deviations


def disturb(x: Tensor, *, strength: float, generator: torch.Generator) -> Tensor:
    """Standardised films x [B, 1, S, S], S a multiple of 8 -> the same films, disturbed and standardised again.

    In this order: greys spread or drawn together in the middle, as by a film's or a viewer's tone curve; local contrast
    evened out (towards what CLAHE does); a smooth field added, as of an uneven exposure; a rectangular hole (DeVries
    and Taylor 2017); a frame of one grey, whose four bars are of different width. All draws come from `generator`, on
    the CPU.

    Args:
        strength: scales tone, exposure, and the sizes of holes and frames; up to 1 also how often local contrast,
            holes and frames change. 0 returns x.
    """
    if strength == 0:
        return x
    batch, _, side, _ = x.shape
    often, device = min(strength, 1.0), x.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)

    def happens(share: float) -> Tensor:
        return (draw(1) < share * often).float()

    tone = ((draw(1) * 2 - 1) * min(TONE * strength, MOST_TONE)).view(-1, 1, 1, 1).to(device)
    x = torch.lerp(x, torch.tanh(1.25 * x) / 0.75, tone)
    even = (draw(1) * happens(LOCAL)).view(-1, 1, 1).to(device)
    field = torch.randn(batch, 1, CELLS // 2, CELLS // 2, generator=generator)
    uneven = draw(1, 1) * EXPOSURE * strength * functional.interpolate(field, CELLS, mode="bilinear").squeeze(1)
    mean, deviation = _local(x)
    gain = 1 - even + even * FLAT / deviation
    offset = uneven.to(device) - even * FLAT * mean / deviation
    x = torch.addcmul(_spread(offset, side), x, _spread(gain, side))

    at, size = draw(2), draw(2) * min(HOLE_SIDE * strength, 1.0) * happens(HOLE)
    bars = draw(4) * min(FRAME_WIDTH * strength, 0.45) * happens(FRAME)
    grey = (torch.randn(batch, generator=generator) * FRAME_GREY).view(-1, 1, 1, 1).to(device)
    down, across = _between(at - size / 2, at + size / 2, side, device)
    x.addcmul_(x, down @ across, value=-1)
    down, across = _between(bars[:, :2], 1 - bars[:, 2:], side, device)
    level = down.mT @ x @ across.mT / (down.sum(dim=2, keepdim=True) * across.sum(dim=3, keepdim=True))
    x = torch.lerp(level + grey, x, down @ across)
    x.sub_(x.mean(dim=(2, 3), keepdim=True))
    return x.div_(x.square().mean(dim=(2, 3), keepdim=True).sqrt() + 1e-5)


def _local(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [B, CELLS, CELLS] around each cell of x, over three by three cells."""
    side = x.shape[-1]
    cell = torch.repeat_interleave(torch.eye(CELLS, device=x.device), side // CELLS, dim=1) * (CELLS / side)
    moments = torch.cat([cell @ x @ cell.T, cell @ x.square() @ cell.T], dim=1)
    moments = functional.avg_pool2d(functional.pad(moments, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mean, square = moments.unbind(1)
    return mean, (square - mean**2).clamp(min=0.02).sqrt()


def _spread(cells: Tensor, side: int) -> Tensor:
    """Values on the grid of cells, [B, CELLS, CELLS] -> a smooth map [B, 1, S, S]: bilinear, by two matrix products."""
    device = cells.device
    at = ((torch.arange(side, device=device) + 0.5) / side * CELLS - 0.5).clamp(0, CELLS - 1)
    weights = (1 - (at[:, None] - torch.arange(CELLS, device=device)).abs()).clamp(min=0)  # [S, CELLS]
    return (weights @ cells @ weights.T).unsqueeze(1)


def _between(low: Tensor, high: Tensor, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """1 between low and high, [B, 2] as shares of the side (down, across), else 0: [B, 1, S, 1] and [B, 1, 1, S], whose
    product is the rectangle.
    """
    centres = (torch.arange(side) + 0.5) / side
    within = ((centres > low[:, :, None]) & (centres < high[:, :, None])).float().to(device)
    return within[:, :1, :, None], within[:, 1:, None, :]
