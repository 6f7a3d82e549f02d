"""Vessels and bronchi, as they branch."""

import numpy as np
from numpy.random import Generator

from pneumonia.synthetic.canvas import Points


def branches(rng: Generator, root: Points, spread: float, length: float, count: int) -> Points:
    """Lines [2 * count, 9, 2] that wander from `root` [2] to both of its far sides, fanned by `spread` radians."""
    angle = 0.2 + spread * rng.uniform(-1, 1, (count, 1)) + np.cumsum(rng.normal(0, 0.2, (count, 9)), axis=1)
    reach = length * rng.uniform(0.4, 1, (count, 1)) / 9
    step = np.stack([np.cos(angle) * reach * np.sign(root[0]), np.sin(angle) * reach], axis=-1)
    lines = root + np.cumsum(step, axis=1)
    start = rng.integers(2, 6, count)
    twigs = np.take_along_axis(lines, start[:, None, None].repeat(2, 2), axis=1)
    bent = angle + rng.choice([-1, 1], (count, 1)) * rng.uniform(0.3, 0.7, (count, 1))
    step = 0.6 * np.stack([np.cos(bent) * reach * np.sign(root[0]), np.sin(bent) * reach], axis=-1)
    return np.concatenate([lines, twigs + np.cumsum(step, axis=1)])
