"""Films of more than 8 bits, stretched to 8 by their own grey values."""

import cv2
import numpy as np

from pneumonia.served.limits import FilmError

TAIL = 0.0005  # share of pixels at either end that may saturate when deep films become 8-bit


def to_8_bit(codes_hw: np.ndarray, values: np.ndarray, padding: np.ndarray | None = None) -> np.ndarray:
    """Stretches a film's own grey values over 0 to 255.

    12-bit data in a 16-bit file would otherwise be nearly black. `TAIL` keeps a hot pixel from deciding the contrast.

    Args:
        codes_hw: uint8 or uint16 [H, W], as stored.
        values: [256 or 65536], the grey value that each code stands for, in any unit.
        padding: bool, likewise, whether a code stands for no picture: black, whatever its value.
    """
    counts = cv2.calcHist([codes_hw], [0], None, [len(values)], [0, len(values)]).ravel()
    if padding is not None:
        counts[padding] = 0
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order], dtype=np.float64)
    low, high = values[order[np.searchsorted(upto, (TAIL * upto[-1], (1 - TAIL) * upto[-1]))]]
    if not (low < high and upto[-1]):
        raise FilmError("the film holds no picture: it is one even grey")
    greys = np.rint((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)
    if padding is not None:
        greys[padding] = 0
    return cv2.LUT(codes_hw, greys)
