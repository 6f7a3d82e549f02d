"""A film to its probability and its heat map, by ONNX Runtime."""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from pneumonia.served.film import DECODE_VERSION, standardise
from pneumonia.served.heatmap import evidence, overlay
from pneumonia.served.package_files import check_files, read_manifest

FORMAT = 2  # of package.json
OUTPUTS = ("logit", "cam", "standing")  # of the graph
FAMILIAR = 0.05  # the least familiarity of a film that is familiar: so many of the validation films are not
HEATMAP_SIDE = 512  # pixels, the longer side


class Predictor:
    """A package folder (`export.write`) that scores films; safe to call from several threads.

    Films go through the network one at a time: on one thread a batch is no faster (1.9 ms a film either way at 96 px,
    width 24), and kernels may round otherwise for another batch, so a film's result never depends on its batch.
    """

    def __init__(self, folder: Path) -> None:
        """Loads `folder`, when its files are those that were written.

        Raises:
            ValueError: the package is of another format, or was made with another reading of films; or a file of it was
                changed, added or, where it has its sums, taken away.
            OSError: a file of the package is missing.
        """
        settings = read_manifest(folder)
        for key, ours in (("format", FORMAT), ("decode_version", DECODE_VERSION)):
            if settings[key] != ours:
                raise ValueError(f"the package has {key} {settings[key]}, but this code reads {ours}: use its own code")
        check_files(folder, settings)
        self.size: int = settings["size"]
        self.classes: tuple[str, str] = tuple(settings["classes"])  # negative, positive
        self.threshold: float = settings["threshold"]
        self.slope: float = settings["calibration"]["slope"]
        self.intercept: float = settings["calibration"]["intercept"]
        self.distances = np.array(settings["familiarity"]["distances"])
        self._session = session((folder / "model.onnx").read_bytes())

    def logits(self, films: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] to float64 [N], uncalibrated; the mean of the film's and its mirror image's."""
        return np.array([self.look(film)[0] for film in films], np.float64)

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of the positive class for logits of any shape, by Platt's sigmoid (1999), float64."""
        return 1 / (1 + np.exp(-np.clip(self.slope * logits + self.intercept, -500, 500)))

    def probabilities(self, films: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] to float64 [N]: calibrated, of the positive class."""
        return self.calibrate(self.logits(films))

    def familiarity(self, distance: float) -> float:
        """The share of the validation films that are at least as far from the training films: 1 for the most ordinary
        film, 0 beyond the strangest of them.
        """
        return float(1 - np.interp(distance, self.distances, np.linspace(0, 1, len(self.distances))))

    def evidence(self, film: np.ndarray) -> np.ndarray:
        """By how much the logit of one uint8 [S, S] falls where it is darkened: float64 [h, w]. The mirror image, which
        doubles the time and adds nothing that could be measured, is not asked.
        """
        return evidence(lambda films: np.asarray(self._session.run(OUTPUTS[:1], {"films": films})[0]), film)

    def heat(self, logit: float, falls: np.ndarray) -> np.ndarray:
        """Numbers from 0 to 1 of the shape of `falls` (`evidence`): a film's probability, times the share of its odds
        that goes where it is darkened. One scale for all films: one that is probably normal stays cold.
        """
        lost = 1 - np.exp(-np.clip(self.slope * falls, 0, None))
        return np.asarray(self.calibrate(np.array(logit)) * lost)

    def heatmap(self, film_hw: np.ndarray, heat: np.ndarray) -> bytes:
        """`heat` in colour over the film uint8 [H, W] from `decode`, at any scale: a PNG in the film's aspect. What is
        cold stays grey.
        """
        scale = min(1.0, HEATMAP_SIDE / max(film_hw.shape))
        width, height = (max(1, round(side * scale)) for side in film_hw.shape[::-1])
        film_hw = cv2.resize(film_hw, (width, height), interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".png", overlay(film_hw, heat))[1])

    def look(self, film: np.ndarray) -> tuple[float, float]:
        """Logit and squared distance from the training films of one uint8 [S, S]: means over it and its mirror image,
        the distance of their mean features.
        """
        pair = standardise(np.stack((film, film[:, ::-1])))
        logits, standings = self._session.run((OUTPUTS[0], OUTPUTS[2]), {"films": pair})
        distance = np.square(standings.mean(axis=0, dtype=np.float64)).sum()
        return (float(logits[0]) + float(logits[1])) / 2, float(distance)


def session(model: bytes) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on one thread of the CPU: servers and workers bring their own parallelism."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
