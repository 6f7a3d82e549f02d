"""CLAHE on a share of the training films, since viewers, archives and digital detectors apply it.

`disturb` evens local contrast out smoothly, on a coarse grid, which does not protect a network against real CLAHE: with
CLAHE on all validation films, three models trained that way had specificities of 0.92, 0.82 and 0.49. Results:
`experiments/LOG.md`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor

CLIP = (1.0, 6.0)  # the limit of contrast, uniform in the logarithm; 2 to 4 are usual
TILES = (3, 12)  # a side of the grid of tiles; 8 is usual
# OpenCV rounds the limit down to whole pixels of a tile, at least one: with 8 by 8 pixels it is 4 whatever was drawn,
# and with fewer there would be no real limit.
SMALLEST_TILE = 8  # pixels a side


def apply(films: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Films [B, S, S] of grey levels -> the same, a `share` of them through CLAHE (contrast-limited adaptive histogram
    equalisation, Zuiderveld 1994, OpenCV's), each with its own limit and tiles.

    The result is float32, or `films` itself if none was chosen. All draws come from `generator`. The work is done on
    the CPU, an eighth of a millisecond a film of 96 pixels; another device waits for it.
    """
    batch, finest = len(films), max(TILES[0], min(TILES[1], films.shape[-1] // SMALLEST_TILE))
    chosen = torch.rand(batch, generator=generator) < share
    low, high = (math.log(limit) for limit in CLIP)
    clips = torch.exp(torch.rand(batch, generator=generator) * (high - low) + low)
    tiles = torch.randint(TILES[0], finest + 1, (batch,), generator=generator)
    if not chosen.any():
        return films
    shown, rows = films.to(torch.float32, copy=True), chosen.nonzero().squeeze(1).to(films.device)
    greys = shown[rows].round().clamp(0, 255).to("cpu", torch.uint8).numpy()
    evened = [
        cv2.createCLAHE(clipLimit=clip, tileGridSize=(grid, grid)).apply(grey)
        for grey, clip, grid in zip(greys, clips[chosen].tolist(), tiles[chosen].tolist(), strict=True)
    ]
    shown[rows] = torch.from_numpy(np.stack(evened)).to(shown)
    return shown


@contextmanager
def one_thread() -> Iterator[None]:
    """For a block that calls `apply` often: OpenCV's own threads, one per core, cost more to wake than they save on
    films this small.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
