"""The limits of a film's size, and the error for a film that breaks them or cannot be read.

OpenCV takes its limit from the environment when it is loaded, and by default lets 2**30 pixels through. Headers are
checked before anything is decoded; this stops OpenCV itself where such a check was tricked.
"""

import os

MAX_PIXELS = 100_000_000  # the largest film known to us has 54 million
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it complains of is said here

MIN_SIDE = 16  # pixels
MAX_BYTES = 128 * 2**20  # of one film as it is sent
MAX_DECODED = 256 * 2**20  # bytes of the largest buffer that a decoder may need for one film
MAX_SCANNED = 1_000_000_000  # pixels times scans of a JPEG: a thousand scans of a large film would take minutes
MAX_SECONDS = 60  # of GDCM for one film; the largest take 3


class FilmError(ValueError):
    """Bytes that are not a film that can be read. The message is one short sentence and holds nothing of the input."""


def check_bounds(height: int, width: int, decoded_bytes: float) -> None:
    if min(height, width) < MIN_SIDE:
        raise FilmError(f"the film is too small: a side has fewer than {MIN_SIDE} pixels")
    if height * width > MAX_PIXELS:
        raise FilmError(f"the film is too large: more than {MAX_PIXELS // 1_000_000} million pixels")
    if decoded_bytes > MAX_DECODED:
        raise FilmError(f"the film is too large: decoding it would take more than {MAX_DECODED >> 20} MiB")


def imdecode(data: bytes, flags: int, kind: str) -> np.ndarray:
    try:
        film: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        film = None
    if film is None:  # also for a file that ends early
        raise FilmError(f"the {kind} is damaged or cut short")
    return film
