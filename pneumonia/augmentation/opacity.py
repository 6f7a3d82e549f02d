"""Opacities painted into normal films, which then count as ill.

Within one hospital much besides the lungs tells the classes apart. A painted film has all of that in common with normal
films, and is ill by its lungs alone, so that the rest no longer says normal. (CutPaste, Li et al. 2021, makes abnormal
images this way; here they are added to real ones.) Results: `experiments/LOG.md`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

LUNGS = ((0.31, 0.48), (0.69, 0.48))  # centres (across, down) of two ellipses about the lungs, of the film's side
PLACES = (0.05, 0.08)  # how far they vary, either way
HALF_WIDTH, HALF_HEIGHT, SIZES = 0.2, 0.42, 0.25  # and by how much the ellipses vary, of the logarithm
CELLS = (3, 6, 12)  # sides of the grids of noise that an opacity is made of: lobes, patches, mottling
AIR, TISSUE = 0.25, 0.85  # quantiles of a film's greys: about those of lungs, and of heart and liver
SOFT = 10.0  # grey levels above tissue within which an overlying opacity fades out on denser structures
SEVERITY = (0.6, 1.0)  # of the way from air to tissue, where the opacity is densest


def paint_share(films: Tensor, targets: Tensor, *, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A `share` of the normal films gets an opacity, and counts as ill.

    Films [B, S, S] of grey levels and targets [B] from 0 to 1, normal ones below 0.5 -> the same. The target t of a
    painted film becomes 1 - t. All draws come from `generator`, on the CPU.
    """
    chosen = torch.rand(len(films), generator=generator).to(films.device) < share
    chosen &= targets < 0.5
    if not chosen.any():
        return films, targets
    shown = films.to(torch.float32, copy=True)
    shown[chosen] = paint(films[chosen], generator)
    return shown, torch.where(chosen, 1 - targets, targets)


def paint(films: Tensor, generator: torch.Generator) -> Tensor:
    """Films [B, S, S] of grey levels -> float32 [B, S, S], each with an opacity in its lungs.

    Clouds of three sizes, seen through a soft window of any size somewhere in either lung. They hide ribs and vessels,
    by turning all to the grey of soft tissue, or lie over them, by adding the difference between tissue and air, or do
    anything in between. Nothing gets darker. All draws come from `generator`, on the CPU. The films of `stress_tests`
    depend on this function: raise `stress_tests.VERSION` when it changes.
    """
    return paint_where(films, generator)[0]


def paint_where(films: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The films that `paint` makes, and where their opacities are: how dense, [B, S, S] from 0 to 1."""
    batch, side, device = len(films), films.shape[-1], films.device

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    clouds, power = torch.zeros(batch, side, side), torch.zeros(batch, 1, 1)
    for cells in CELLS:
        noise = torch.randn(batch, 1, cells, cells, generator=generator)
        weight = draw(0, 1, 1, 1)
        clouds += weight * functional.interpolate(noise, side, mode="bicubic").squeeze(1)
        power += weight**2
    lung = torch.tensor(LUNGS)[torch.randint(2, (batch,), generator=generator)]
    across, down = (lung + draw(-1, 1, 2) * torch.tensor([0.12, 0.28])).T.reshape(2, batch, 1, 1)
    radius = torch.exp(draw(-2.3, 0.0, 1, 1))  # of the film's side: from a tenth to the whole
    window = torch.exp(_squares(side, across, down, 1.0, 1.0) / (-2 * radius**2))
    edge = draw(0.15, 0.6, 1, 1)  # of an opacity, from sharp to soft
    dense = torch.sigmoid((clouds / power.sqrt() - draw(-1.0, 0.5, 1, 1)) / edge) * window * _lungs(side, draw)
    dense = (dense * draw(*SEVERITY, 1, 1) / dense.amax(dim=(1, 2), keepdim=True)).to(device)

    x, border = films.float(), side // 8
    inner = x[:, border : side - border, border : side - border].flatten(1)
    air, tissue = inner.quantile(torch.tensor([AIR, TISSUE], device=device), dim=1).view(2, batch, 1, 1)
    hiding = (tissue - x).clamp(min=0)
    overlying = (tissue - air) * torch.sigmoid((tissue - x) / SOFT + 1)
    return (x + dense * torch.lerp(hiding, overlying, draw(0, 1, 1, 1).to(device))).clamp(max=255), dense


def _lungs(side: int, draw: Callable[..., Tensor]) -> Tensor:
    """1 within two ellipses, [B, S, S], 0 outside, and between them a soft edge; each of its own size and place."""
    far = []
    for across, down in LUNGS:
        wide, high = (half * torch.exp(draw(-SIZES, SIZES, 1, 1)) for half in (HALF_WIDTH, HALF_HEIGHT))
        aside, below = (draw(-most, most, 1, 1) for most in PLACES)
        far.append(_squares(side, across + aside, down + below, wide, high))
    return ((1 - torch.stack(far).amin(dim=0)) * 2.5).clamp(0, 1)


def _squares(side: int, across: Tensor, down: Tensor, wide: Tensor | float, high: Tensor | float) -> Tensor:
    """Squared distances [B, S, S] from the points (across, down), in units of the half axes `wide` and `high`."""
    centres = (torch.arange(side) + 0.5) / side
    squares: Tensor = ((centres - across) / wide) ** 2 + ((centres[:, None] - down) / high) ** 2
    return squares
