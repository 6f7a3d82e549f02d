"""The same few validation films in every run, with what the model makes of them, for the UI to lay side by side."""

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.served import Predictor

FILMS = 8
SIDE = 320  # pixels, of a picture's square
LINE = 26  # pixels, of a line of text below it


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


def draw(predictor: Predictor, film: NDArray[np.uint8], truth: str) -> bytes:
    """The film [S, S] beside its class-activation map, with the truth and the probability below: a PNG."""
    probability = float(predictor.probabilities(film[np.newaxis])[0])
    label = predictor.classes[int(probability >= predictor.threshold)]
    large = cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    heat = cv2.imdecode(np.frombuffer(predictor.heatmap(large), np.uint8), cv2.IMREAD_COLOR)
    below = np.full((2 * LINE, 2 * SIDE, 3), 255, np.uint8)
    lines = f"is {truth}", f"called {label}, probability {probability:.3f}, threshold {predictor.threshold:.3f}"
    for number, line in enumerate(lines):
        # OpenCV's fonts have no letters beyond ASCII
        text = line.encode("ascii", "replace").decode("ascii")
        cv2.putText(below, text, (6, LINE * number + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    picture = np.vstack((np.hstack((cv2.cvtColor(large, cv2.COLOR_GRAY2BGR), np.asarray(heat))), below))
    return bytes(cv2.imencode(".png", picture)[1])


def _by_turns(lists: list[list[int]]) -> list[int]:
    longest = max(map(len, lists))
    return [items[turn] for turn in range(longest) for items in lists if turn < len(items)]
