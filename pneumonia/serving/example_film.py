"""A film that is drawn to try a model with: the input example of MLflow's model, and the first question to a server."""

import cv2
import numpy as np


def jpeg() -> bytes:
    """64 x 64 px, two dark lungs."""
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    film = 200 - 120 * np.exp(-((np.abs(columns) - 0.45) ** 2) * 12 - rows**2 * 2)
    return bytes(cv2.imencode(".jpg", film.astype(np.uint8))[1])
