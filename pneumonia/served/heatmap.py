"""Where in a film a network sees illness: by how much its logit falls when one place after another is darkened.

It is occlusion (Zeiler and Fergus 2014) by a soft dark spot, since an opacity is brighter than air. It asks for nothing
but the logit, so that all networks, and several together, have one and the same kind of map. Class-activation maps
(Zhou et al. 2016) miss most opacities, as each of their few cells has seen the whole film. What else was tried:
`experiments/pointing.py`.
"""

from collections.abc import Callable

import cv2
import numpy as np

from pneumonia.served.film import standardise

GRID = 8  # spots across, and down
SPREAD = 5 / 64  # of the film's side: a spot is a Gaussian of this deviation
DARKER = 0.5  # standard deviations of the film's greys, in the middle of a spot


def evidence(score: Callable[[np.ndarray], np.ndarray], film: np.ndarray) -> np.ndarray:
    """By how much the logit of a film uint8 [S, S] falls where it is darkened: float64 [GRID, GRID].

    Args:
        score: standardised films float32 [B, 1, S, S] to logits [B].
    """
    plain, side = standardise(film[np.newaxis]), len(film)
    middles, pixels = (np.arange(GRID) + 0.5) / GRID, (np.arange(side) + 0.5) / side
    bells = np.exp(-((pixels - middles[:, np.newaxis]) ** 2) / (2 * SPREAD**2)).astype(np.float32)
    rows = [plain - DARKER * (bell[:, np.newaxis] * bells[:, np.newaxis])[:, np.newaxis] for bell in bells]
    return float(score(plain)[0]) - np.stack([score(row) for row in rows]).astype(np.float64)


def overlay(film_hw: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A film uint8 [H, W] with a map [h, w] of numbers from 0 to 1 over it in colour: uint8 [H, W, 3]."""
    heat = enlarged(heat, film_hw.shape)
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = 0.6 * heat[..., np.newaxis]
    return np.asarray(np.rint((1 - weight) * film_hw[..., np.newaxis] + weight * colours), np.uint8)


def enlarged(heat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map [h, w] of numbers from 0 to 1 at a film's `shape`, smoothly, so that its hottest point may lie between two
    spots: float [H, W].
    """
    return np.asarray(np.clip(cv2.resize(heat, shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1))
