"""Local contrast evened out as viewers, archives and digital detectors do it, in a share of the training films.

`disturb` evens it out smoothly, on a coarse grid, and that does not guard a network against the real thing: with CLAHE
on all validation films, one trained so called half of the normal ones ill. What it brought: `experiments/LOG.md`.
"""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

CLIP = (1.0, 6.0)  # the limit of contrast, uniform in the logarithm; 2 to 4 are usual
TILES = (3, 12)  # a side of the grid of tiles; 8 is usual


def give(films: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Films [B, S, S] of grey levels -> the same, a `share` of them through CLAHE (contrast-limited adaptive histogram
    equalisation, Zuiderveld 1994, OpenCV's), each with its own limit and tiles; float32 if any was.

    All draws come from `generator`; the work is done on the CPU, an eighth of a millisecond a film of 96 pixels.
    """
    batch = len(films)
    chosen = torch.rand(batch, generator=generator) < share
    low, high = (math.log(limit) for limit in CLIP)
    clips = torch.exp(torch.rand(batch, generator=generator) * (high - low) + low)
    tiles = torch.randint(TILES[0], TILES[1] + 1, (batch,), generator=generator)
    if not chosen.any():
        return films
    shown = films.to(torch.float32, copy=True)
    greys = shown[chosen.to(films.device)].round().clamp(0, 255).to("cpu", torch.uint8).numpy()
    pairs = zip(clips[chosen].tolist(), tiles[chosen].tolist(), strict=True)
    evened = [
        cv2.createCLAHE(clipLimit=clip, tileGridSize=(grid, grid)).apply(grey)
        for grey, (clip, grid) in zip(greys, pairs, strict=True)
    ]
    shown[chosen.to(films.device)] = torch.from_numpy(np.stack(evened)).to(shown)
    return shown
