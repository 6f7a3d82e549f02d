"""A task that a few steps learn."""

import numpy as np
import pytest

from pneumonia.config import TrainConfig
from pneumonia.training.loop import FitData

TINY = TrainConfig(size=32, width=4, epochs=3, batch_size=16, lr=5e-3, dropout=0.1, ema_decay=0.9, device="cpu")


def blobs(n: int, *, positives: float = 0.5, seed: int = 0, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise, with a bright patch in the middle of the positive ones: a task that a few steps learn."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < round(n * positives)).astype(int)
    films = rng.integers(60, 120, (n, size, size))
    films[labels == 1, 10:20, 10:20] += 90
    order = rng.permutation(n)
    return films[order].astype(np.uint8), labels[order]


@pytest.fixture(scope="module")
def data() -> FitData:
    films, labels = blobs(96)
    val, val_labels = blobs(40, seed=1)
    return FitData(train_films=films, train_labels=labels, val_films=val, val_labels=val_labels, opacities=True)
