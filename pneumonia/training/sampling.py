"""Which training films a batch holds."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, WeightedRandomSampler

from pneumonia import config


def sampler(labels: np.ndarray, kind: config.Sampler, generator: torch.Generator) -> Sampler[int]:
    """As many draws as there are films; with `weighted` each class fills half of them, whatever the folder's ratio.

    Args:
        labels: [N] of 0 and 1.
        kind: `weighted` draws with replacement and weights of 1 over the film's class count (torch's
            WeightedRandomSampler); `none` goes through the films once, shuffled.
        generator: makes the draws repeatable.

    Raises:
        ValueError: a class has no film.
    """
    counts = np.bincount(labels, minlength=2)
    if not counts.all():
        raise ValueError(
            f"training needs films of both classes, not {counts[0]} negative and {counts[1]} positive ones"
        )
    if kind == "none":
        return RandomSampler(range(len(labels)), generator=generator)
    weights = 1.0 / counts[labels]
    return WeightedRandomSampler(weights.tolist(), num_samples=len(labels), replacement=True, generator=generator)


def batches(draws: Sampler[int], size: int) -> Iterator[torch.Tensor]:
    """One epoch of index tensors [B]; a single film left over is dropped, since batch norm needs two."""
    for batch in BatchSampler(draws, size, drop_last=False):
        if len(batch) > 1:
            yield torch.tensor(batch)


def steps(films: int, size: int) -> int:
    """How many batches `batches` yields."""
    return films // size + (films % size > 1)
