"""How far a film is from those that a network was trained on: a Gaussian over what the network makes of them.

The squared Mahalanobis distance of a network's pooled features (Lee et al. 2018) from the mean of the training films,
without their classes, since a stranger is one to both. Features that were trained to part two classes let some strange
films pass (one network of three took a sixth of the films that stood on their heads for known), so a coarse look at
the film itself stands beside them. It is fitted to films as they are and disturbed as training does: what the network
was taught to see through is less strange. No film is kept. What else was tried: `experiments/familiarity.py`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pneumonia.augmentation.augment import standardise
from pneumonia.augmentation.disturb import disturb
from pneumonia.config import TrainConfig
from pneumonia.training.data_parallel import team

FILMS = 1000  # training films that it is fitted to, each as it is and disturbed: four times as many change nothing
LOOK = 8  # a side of the coarse look, cells; of a film and its mirror image together half of them say all
SHRINK = 1e-3  # of the way from the correlations to none, more where there are fewer films
LEAST = 0.01  # of the mean feature's spread, for a feature that hardly varies, or it would outweigh all others
QUANTILES = 101  # of the validation films' distances
BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """`weight` float32 [K, K] and `bias` [K] turn the features of a film into numbers of mean 0 and deviation 1 that do
    not go together, whose squares' sum is the film's distance; `distances` float64 are quantiles, from the 0th to the
    100th in equal steps, of those of the validation films.
    """

    weight: np.ndarray
    bias: np.ndarray
    distances: np.ndarray


def features(maps: Tensor, films: Tensor) -> Tensor:
    """Feature maps [B, C, h, w] of standardised films [B, 1, S, S], S a multiple of 8 -> features [B, C + 32]. Of the
    coarse look only the left half is taken, since a film's features are the mean of its own and its mirror image's.
    """
    coarse = functional.avg_pool2d(films, films.shape[-1] // LOOK)[..., : LOOK // 2]
    return torch.cat([maps.mean(dim=(2, 3)), coarse.flatten(1)], dim=1)


def fit(network: nn.Module, config: TrainConfig, train_films: np.ndarray, val_films: np.ndarray) -> Familiarity:
    """Fits to training films uint8 [N, S, S], as they are and as `config` disturbs them; validation films [M, S, S] set
    the scale.

    Args:
        network: on the CPU, in eval mode, with `.maps(films) -> [B, C, h, w]`.
    """
    weight, bias = _gaussian(network, config, train_films)
    return _familiarity(weight, bias, _distances(weight, bias, network, val_films))


def fit_to_few(network: nn.Module, config: TrainConfig, films: np.ndarray, folds: np.ndarray) -> Familiarity:
    """Fits to films uint8 [N, S, S] beside which there are none to set the scale: each is measured by a fit to those of
    the other folds [N]. The network may have learned from all of them, which makes them a little more alike.

    Args:
        network: as of `fit`.
    """
    distances = np.empty(len(films))
    for fold in np.unique(folds):
        out = folds == fold
        weight, bias = _gaussian(network, config, films[~out])
        distances[out] = _distances(weight, bias, network, films[out])
    return _familiarity(*_gaussian(network, config, films), distances)


def _gaussian(network: nn.Module, config: TrainConfig, films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight float64 [K, K] and bias [K] as `Familiarity` has them."""
    picked = np.linspace(0, len(films) - 1, min(FILMS, len(films))).astype(int)
    plain = _standardised(films[picked])
    copies = plain.repeat(math.ceil(FILMS / len(plain)), 1, 1, 1)
    changed = disturb(copies, strength=config.disturb, generator=torch.Generator().manual_seed(config.seed))
    seen = _features(network, torch.cat([plain, changed]))
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    spread += LEAST * spread.mean()
    apart = (seen - mean) / spread
    shrink = min(0.5, SHRINK * (FILMS / len(plain)) ** 1.5)  # 0.09 for 50 films, 0.35 for 20
    values, vectors = np.linalg.eigh((1 - shrink) * apart.T @ apart / len(apart) + shrink * np.eye(apart.shape[1]))
    weight = (vectors / np.sqrt(values)).T / spread
    return weight, -weight @ mean


def _distances(weight: np.ndarray, bias: np.ndarray, network: nn.Module, films: np.ndarray) -> np.ndarray:
    """Of films uint8 [N, S, S], float64 [N]."""
    standing = _features(network, _standardised(films)) @ weight.T + bias
    return np.asarray(np.square(standing).sum(axis=1))


def _familiarity(weight: np.ndarray, bias: np.ndarray, distances: np.ndarray) -> Familiarity:
    return Familiarity(
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        distances=np.quantile(distances, np.linspace(0, 1, QUANTILES)),
    )


def _standardised(films: np.ndarray) -> Tensor:
    return standardise(torch.from_numpy(np.ascontiguousarray(films)))


def _features(network: nn.Module, films: Tensor) -> np.ndarray:
    """Of standardised films [N, 1, S, S] and their mirror images, the means: float64 [N, K]."""

    @torch.inference_mode()
    def seen(part: Tensor) -> Tensor:
        part = part.contiguous(memory_format=torch.channels_last)
        one, other = (features(network.maps(x), x) for x in (part, part.flip(3)))  # type: ignore[operator]
        return (one + other) / 2

    with team(torch.get_num_threads()) as each:
        return torch.cat(each(seen, torch.split(films, BATCH))).double().numpy()
