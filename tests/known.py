"""What a package needs besides a network: a familiarity, fitted to blurred noise."""

import copy

import cv2
import numpy as np
from torch import nn

from pneumonia.config import TrainConfig
from pneumonia.training import familiarity
from pneumonia.training.familiarity import Familiarity


def films(count: int, *, size: int = 32, seed: int = 0) -> np.ndarray:
    """Blurred noise, uint8 [N, S, S], of the same look and another one for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(film, (0, 0), 2) for film in noise])


def known(network: nn.Module, *, size: int = 32) -> Familiarity:
    network = copy.deepcopy(network).eval()
    return familiarity.fit(network, TrainConfig(size=size), films(400, size=size), films(100, size=size, seed=1))
