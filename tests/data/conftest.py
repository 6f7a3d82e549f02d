"""Folders of films: of any bytes for the index, and of small JPEGs for the cache."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pneumonia.data.index import Index
from pneumonia.served import read_film


def film(path: Path, content: str | None = None) -> Path:
    """Any bytes do: scanning reads films but does not decode them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if content is not None else path.as_posix())
    return path


def kermany(root: Path, train: int = 20, test: int = 4) -> Path:
    for n in range(train):
        film(root / f"train/NORMAL/IM-{n:04d}-0001.jpeg", f"train normal {n}")
        film(root / f"train/PNEUMONIA/person{n}_{'virus' if n % 3 else 'bacteria'}_{n}.jpeg", f"train pneumonia {n}")
    for n in range(test):
        film(root / f"test/NORMAL/IM-{n:04d}-0001.jpeg", f"test normal {n}")
        film(root / f"test/PNEUMONIA/person{n}_virus_{n}.jpeg", f"test pneumonia {n}")
    return root


def paths(index: Index) -> set[str]:
    return set(index.table["path"])


def split_films(root: Path, name: str, count: int, *, first: int = 0) -> None:
    for n in range(first, first + count):
        film(root / f"{name}/NORMAL/IM-{n:04d}-0001.jpeg", f"{name} normal {n}")
        film(root / f"{name}/PNEUMONIA/person{n}_bacteria_{n}_jpeg.rf.{n:032x}.jpg", f"{name} pneumonia {n}")


SIZE = 32


def picture(seed: int) -> np.ndarray:
    """Something with texture, so that damage to its JPEG shows."""
    return cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, (120, 150), np.uint8), (5, 5), 0)


def jpeg(seed: int) -> bytes:
    return cv2.imencode(".jpeg", picture(seed))[1].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 films, half of each class."""
    for n in range(24):
        path = tmp_path / f"films/train/{('NORMAL', 'PNEUMONIA')[n % 2]}/{n:02d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(n))
    return tmp_path / "films"


def expected(index: Index) -> np.ndarray:
    return np.stack([read_film((index.root / path).read_bytes(), SIZE) for path in index.table["path"]])
