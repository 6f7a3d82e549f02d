"""Corruptions of validation films that imitate distribution shift to another hospital, the same ones every time.

Corrupted copies are scored beside the films as they are, for epochs, trials, calibration, threshold and champion. On
films like those it was trained on, a network's AUC saturates above 0.99, and the threshold that separates such films is
too low for harder normal films.

Corrupted copies still share everything that one class's films of one hospital have in common. A normal film with a
painted opacity shares it too, and is ill: where opacities tell the classes apart, such films are scored for epochs,
trials (if training uses `disturb`) and champion. Calibration and threshold are for real films, and do not use them.
"""

from collections.abc import Callable

import cv2
import numpy as np

VERSION = 4  # raise it when a corruption or `opacity.paint` changes: scores on other copies do not compare
Change = Callable[[np.ndarray], np.ndarray]  # a film uint8 [S, S] -> uint8 [S, S]


def _exposed(gamma: float) -> Change:
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return lambda film: np.asarray(cv2.LUT(film, table))


def _evened(film: np.ndarray) -> np.ndarray:
    """CLAHE, as many viewers and archives apply it."""
    return np.asarray(cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(film))


def _coarse(film: np.ndarray) -> np.ndarray:
    """Half the resolution."""
    half = cv2.resize(film, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(half, film.shape[::-1], interpolation=cv2.INTER_LINEAR))


def _inner(film: np.ndarray, share: float) -> tuple[np.ndarray, slice]:
    edge = max(1, round(share * len(film)))
    inside = slice(edge, len(film) - edge)
    return film[inside, inside], inside


def _cropped(film: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(_inner(film, 0.1)[0], film.shape[::-1], interpolation=cv2.INTER_LINEAR))


def _masked(film: np.ndarray) -> np.ndarray:
    """The border in the mean grey of what is inside."""
    inner, inside = _inner(film, 0.1)
    painted = np.full_like(film, round(float(inner.mean())))
    painted[inside, inside] = inner
    return painted


def _collimated(film: np.ndarray) -> np.ndarray:
    inner, inside = _inner(film, 0.08)
    painted = np.zeros_like(film)
    painted[inside, inside] = inner
    return painted


def _wide(film: np.ndarray) -> np.ndarray:
    """A smaller chest in a black film."""
    _, inside = _inner(film, 0.1)
    painted = np.zeros_like(film)
    side = inside.stop - inside.start
    painted[inside, inside] = cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA)
    return painted


def stretched(ratio: float) -> Change:
    """The film as if its original had been wider by `ratio` (in width over height), with the same area.

    Kermany's ill films are a quarter wider than the normal ones, so that a narrowed chest looks ill to a network that
    uses shape.
    """
    across, down = ratio**0.5, ratio**-0.5

    def stretch(film: np.ndarray) -> np.ndarray:
        centre_x, centre_y = ((side - 1) / 2 for side in film.shape[::-1])
        map_xy = np.array([[across, 0, centre_x * (1 - across)], [0, down, centre_y * (1 - down)]])
        return np.asarray(cv2.warpAffine(film, map_xy, film.shape[::-1], borderMode=cv2.BORDER_REPLICATE))

    return stretch


def _turned(film: np.ndarray) -> np.ndarray:
    centre = ((len(film) - 1) / 2, (len(film) - 1) / 2)
    turn = cv2.getRotationMatrix2D(centre, 12, 1.0)
    return np.asarray(cv2.warpAffine(film, turn, film.shape[::-1], borderMode=cv2.BORDER_CONSTANT))


SHAPES: dict[str, Change] = {"broad": stretched(1.3), "narrow": stretched(1 / 1.3)}
CHANGES: dict[str, Change] = {
    "darker": _exposed(1.7),
    "lighter": _exposed(0.6),
    "evened": _evened,
    "coarse": _coarse,
    "cropped": _cropped,
    "masked": _masked,
    "collimated": _collimated,
    "wide": _wide,
    "turned": _turned,
}
# Each film gets one copy of each kind: films as they are flatter a network that uses shape, and as one of ten
# corruptions shape would weigh too little.
KINDS = (SHAPES, CHANGES)


def change(films: np.ndarray) -> np.ndarray:
    """Films uint8 [N, S, S] -> uint8 [2 N, S, S]: a copy of each in another shape, then a copy of each
    with another corruption, in rotation.
    """
    copies = np.empty((len(KINDS), *films.shape), dtype=np.uint8)
    for number, film in enumerate(films):
        copies[:, number] = copies_of(np.asarray(film), number)
    return copies.reshape(-1, *films.shape[1:])


def copies_of(film: np.ndarray, number: int) -> list[np.ndarray]:
    """Two copies of a film uint8 [S, S]: in the shape, and with the corruption, whose turn it is for film `number`."""
    return [list(kind.values())[number % len(kind)](film) for kind in KINDS]


def painted(films: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Films uint8 [N, S, S] and labels [N] -> uint8 [M, S, S]: the normal ones, each with an opacity, so that it counts
    as ill; without those that cannot show one.
    """
    pairs = [(film, painted_of(film, number)) for number, film in enumerate(np.asarray(films)) if labels[number] == 0]
    copies = [copy for film, copy in pairs if (copy != film).any()]
    return np.array(copies, dtype=np.uint8).reshape(-1, *films.shape[1:])


def painted_of(film: np.ndarray, number: int) -> np.ndarray:
    """The film uint8 [S, S] with the opacity of film `number`, the same one at every size."""
    import torch  # takes a second or two, only needed here

    from pneumonia.augmentation import opacity

    one = torch.from_numpy(np.array(film[None]))
    return np.asarray(opacity.paint(one, torch.Generator().manual_seed(number)).round().to(torch.uint8)[0].numpy())
