"""A set of synthetic chest films, in the layout and with the file names of the real ones, for users without data.

`film` draws a single one; this module decides which films a set holds and writes them. Their JPEG quality is random and
independent of the class.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from pneumonia.synthetic.film import VERSION, Subtype, draw

NORMAL_SHARE = {"train": 0.25, "test": 0.375}

FILMS_A_PROCESS = 100  # fewer do not pay for another process


class _Film(NamedTuple):
    path: str  # below the set's folder
    subtype: Subtype
    patient: tuple[int, ...]  # seeds of the build
    number: int


def _patients(rng: Generator, count: int) -> Iterator[tuple[int, bool, range]]:
    """Number, a trait drawn, and films of each patient, `count` films in all; one patient in five has two to four."""
    patient = film = 0
    while film < count:
        patient += int(rng.integers(1, 4))  # the real numbers have gaps too
        films = 1 if rng.random() < 0.8 else int(rng.integers(2, 5))
        yield patient, bool(rng.random() < 2 / 3), range(film, min(film + films, count))
        film += films


def _plan(seed: int, train: int, test: int) -> Iterator[_Film]:
    """The films of a set. Numbers in train and test are separate series, as in the real one."""
    for split, (name, count) in enumerate((("train", train), ("test", test))):
        normal = round(count * NORMAL_SHARE[name])
        for patient, trait, films in _patients(np.random.default_rng((seed, split, 0)), normal):
            stem = f"{'' if trait else 'NORMAL2-'}IM-{patient:04d}"
            for k, film in enumerate(films, start=1):
                path = f"chest_xray/{name}/NORMAL/{stem}-{k:04d}.jpeg"
                yield _Film(path, "normal", (seed, split, 0, patient), film)
        for patient, trait, films in _patients(np.random.default_rng((seed, split, 1)), count - normal):
            subtype: Subtype = "bacteria" if trait else "virus"
            for film in films:
                path = f"chest_xray/{name}/PNEUMONIA/person{patient}_{subtype}_{film + 1}.jpeg"
                yield _Film(path, subtype, (seed, split, 1, patient), film)


def _save(root: Path, film: _Film) -> None:
    rng = np.random.default_rng((*film.patient, film.number))
    pixels = draw(film.subtype, rng, build=np.random.default_rng(film.patient))
    done, data = cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 97))])
    if not done:
        raise OSError(f"OpenCV could not encode {film.path}")
    (root / film.path).write_bytes(data.tobytes())


def write(dest: Path, *, seed: int = 0, train: int = 1040, test: int = 208, progress: bool = False) -> Path:
    """Writes a set of films below `dest`, unless it is there, and returns its folder.

    The folder, dest/synthetic-v<version>-s<seed>-<train>-<test>, holds chest_xray/{train,test}/{NORMAL,PNEUMONIA} with
    the real file names. It appears whole or not at all. The same arguments give the same bytes.

    Raises:
        ValueError: a negative seed, or fewer than 8 films in a split.
        OSError: the folder cannot be written.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
    if min(train, test) < 8:
        raise ValueError(f"train and test must be at least 8 films each, not {train} and {test}")
    home = dest / f"synthetic-v{VERSION}-s{seed}-{train}-{test}"
    if home.is_dir():
        return home
    dest.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=dest))
    root = scratch / "films"  # mkdtemp's own folder is closed to other users
    workers = min(os.cpu_count() or 1, (train + test) // FILMS_A_PROCESS)
    try:
        films = list(_plan(seed, train, test))
        for folder in {(root / film.path).parent for film in films}:
            folder.mkdir(parents=True)
        with tqdm(desc="drawing films", total=len(films), unit="film", disable=not progress) as bar:
            if workers > 1:
                _in_processes(root, (seed, train, test), workers, bar)
            else:
                for film in films:
                    _save(root, film)
                    bar.update()
        try:
            root.rename(home)
        except OSError:
            if not home.is_dir():  # else another process was first, with the same films
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return home


def _in_processes(root: Path, plan: tuple[int, int, int], workers: int, bar: Any) -> None:
    """Draws in new interpreters: threads would wait for each other, and multiprocessing would run the caller's
    script.
    """
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pneumonia.synthetic.dataset import _share; _share(*sys.argv[2:])"
    )
    package = str(Path(__file__).resolve().parents[2])
    with ExitStack() as stack:
        children = []
        for first in range(workers):
            command = [sys.executable, "-c", code, package, str(root), *map(str, (*plan, workers, first))]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            children.append(stack.enter_context(child))
            stack.callback(child.kill)
        while any(child.poll() is None for child in children):
            time.sleep(0.1)
            bar.update(sum(1 for _ in root.rglob("*.jpeg")) - bar.n)
        for child in children:
            said = child.communicate()[1].strip().splitlines() or [f"exit code {child.returncode}"]
            if child.returncode:
                raise OSError(f"drawing films below {root.parent.parent} failed: {said[-1]}")
    bar.update(bar.total - bar.n)


def _share(root: str, seed: str, train: str, test: str, step: str, first: str) -> None:
    """Draws every `step`-th film of a set, counted from `first`; run in a process of its own."""
    cv2.setNumThreads(1)
    for film in islice(_plan(int(seed), int(train), int(test)), int(first), None, int(step)):
        _save(Path(root), film)
