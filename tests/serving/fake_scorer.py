"""A scorer that reads a film's number out of its bytes, and notes how it is asked."""

import base64
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pneumonia.serving.film_batches import Row


@dataclass
class FakeScorer:
    """Scores the film `b"7"` with .07; says `bad film` of what is no number."""

    threshold: float = 0.5
    films_at_once: int = 4
    bytes_at_once: int = 1000
    calls_at_once: int = 3
    about: dict[str, str] = field(default_factory=lambda: {"model": "one"})
    asked: list[int] = field(default_factory=list)  # the films of each call
    at_once: int = 0  # the most calls that there were at once
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._now, self._lock = 0, threading.Lock()

    def score(self, films: Sequence[bytes]) -> list[Row]:
        with self._lock:
            self.asked.append(len(films))
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        time.sleep(self.seconds * (len(films) % 3))  # calls end in another order than they began
        with self._lock:
            self._now -= 1
        return [self._row(film) for film in films]

    def _row(self, film: bytes) -> Row:
        if not film.isdigit():
            return {"error": "bad film", "probability": float("nan"), "familiar": False}
        row = {"probability": int(film) / 100, "label": "PNEUMONIA", "familiarity": 0.25, "familiar": True, "error": ""}
        return {**row, "threshold": self.threshold, "heatmap": base64.b64encode(b"map of " + film).decode()}


def numbered(folder: Path, count: int, *, bad: Sequence[int] = ()) -> list[Path]:
    """Files that `FakeScorer` scores by their number, but for the bad ones."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"bad" if number in bad else b"%d" % number)
    return paths
