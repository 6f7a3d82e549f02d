"""Labels and logits, plain ones and ones that a fit may stumble over."""

import numpy as np


def draw(seed: int, *, negative: int = 80, positive: int = 240, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits in a shuffled order, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], [negative, positive]))
    return labels, np.round(rng.normal(gap * (2 * labels - 1), 2.0), 1)


HARD = {
    "separable": ([0] * 20 + [1] * 60, np.r_[np.full(20, -9.0), np.full(60, 9.0)]),
    "one value": ([0] * 20 + [1] * 60, np.full(80, 3.0)),
    "wrong way round": ([0] * 20 + [1] * 60, np.r_[np.linspace(1, 3, 20), np.linspace(-3, 2, 60)]),
    "huge": ([0] * 20 + [1] * 60, 1e8 * np.r_[np.linspace(-3, 1, 20), np.linspace(-1, 3, 60)]),
    "far off": ([0] * 20 + [1] * 60, 1e4 + np.r_[np.linspace(-3, 1, 20), np.linspace(-1, 3, 60)]),
    "one outlier": ([0] * 20 + [1] * 60, np.r_[np.linspace(-3, 1, 20), np.linspace(-1, 3, 59), -1e5]),
    "tiny classes": ([0, 1], np.array([1.0, 2.0])),
    "one class": ([1] * 10, np.linspace(-1, 1, 10)),
}
