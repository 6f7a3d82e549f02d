"""The same few validation films in every run, with their probabilities and heat maps, for the UI to compare."""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pneumonia.served import Predictor, evidence, overlay, standardise
from pneumonia.training.network import Network

FILMS = 8
SIDE = 192  # pixels, of a picture's square; MLflow shows 256 of the width of two, and writing a PNG is what takes time
LINE = 16  # pixels, of a line of text below it


def chosen(rows: pd.DataFrame, count: int = FILMS) -> list[int]:
    """Which of `rows` (as in `Index.table`), by position: as many of each class, and of its subtypes, as can be.

    Those with the lowest SHA-256, so that runs on the same films show the same ones whatever their seed.
    """
    order = np.argsort(rows["sha256"].to_numpy(), kind="stable")
    by_class: dict[int, dict[str, list[int]]] = {}
    for position in order.tolist():
        label, subtype = int(rows["label"].iloc[position]), str(rows["subtype"].iloc[position])
        by_class.setdefault(label, {}).setdefault(subtype, []).append(position)
    classes = [_by_turns(list(subtypes.values())) for _, subtypes in sorted(by_class.items())]
    return sorted(_by_turns(classes)[:count], key=lambda position: (rows["label"].iloc[position], position))


def key(number: int, row: pd.Series) -> str:
    """The picture's name in MLflow, which takes letters, digits and a few signs; the same in each run."""
    return f"films/{number}_{('negative', 'positive')[int(row['label'])]}"


def epochs(total: int) -> tuple[int, ...]:
    """After which of `total` epochs the films are looked at, besides with the model that is kept: the first, the last,
    and two between; the same ones in trainings of the same length, so that they lie side by side.
    """
    return tuple(sorted({round(1 + part * (total - 1) / 3) for part in range(4)}))


@dataclass(frozen=True)
class Look:
    """A network's output for N films: logits float64 [N], uncalibrated, the mean of the film's and its mirror image's;
    and by how much they fall where a film is darkened, float64 [N, h, w].
    """

    logits: NDArray[np.float64]
    evidence: NDArray[np.float64]


@torch.inference_mode()
def look(network: Network, films: NDArray[np.uint8]) -> Look:
    """The output of a network in training (in eval mode, on any device) for films [N, S, S]."""
    device = next(network.parameters()).device

    def score(shown: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(network(torch.from_numpy(shown).to(device)).float().cpu().numpy())

    logits = score(standardise(np.concatenate((films, films[:, :, ::-1])))).astype(np.float64)
    return Look(logits.reshape(2, -1).mean(axis=0), np.stack([evidence(score, film) for film in films]))


def look_of(predictor: Predictor, films: NDArray[np.uint8]) -> Look:
    """The same of a package."""
    return Look(predictor.logits(films), np.stack([predictor.evidence(film) for film in films]))


def draw(
    predictor: Predictor, film: NDArray[np.uint8], logit: float, evidence: NDArray[np.float64], *words: str
) -> bytes:
    """The film [S, S] beside its heatmap, by the predictor's calibration and threshold, with `words` and the
    probability below: a PNG.
    """
    probability = float(predictor.calibrate(np.asarray(logit)))
    label = predictor.classes[int(probability >= predictor.threshold)]
    large = cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    lines = (*words, f"called {label}, {probability:.3f} (threshold {predictor.threshold:.3f})")
    below = np.full((len(lines) * LINE + 4, 2 * SIDE, 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        # OpenCV's fonts have no letters beyond ASCII
        text = line.encode("ascii", "replace").decode("ascii")
        cv2.putText(below, text, (4, LINE * number - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    heat = overlay(large, predictor.heat(logit, evidence))
    picture = np.vstack((np.hstack((cv2.cvtColor(large, cv2.COLOR_GRAY2BGR), heat)), below))
    return bytes(cv2.imencode(".png", picture)[1])


def _by_turns(lists: list[list[int]]) -> list[int]:
    longest = max(map(len, lists))
    return [items[turn] for turn in range(longest) for items in lists if turn < len(items)]
