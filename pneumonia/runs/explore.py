"""Describes the films before any model: patients, files, grey levels, and what a batch would hold.

Test films are described by their files alone: path, bytes, hash, and the size and compression that the header tells.
Grey levels, mean films and samples come from train and val; no pixel of a test film is looked at (it is decoded only
where its header does not say its size).
"""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pydicom
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tqdm import tqdm

from pneumonia import config
from pneumonia.data import cache
from pneumonia.data.index import Index
from pneumonia.metrics.scores import Floats, Ints
from pneumonia.reports import exploration_page, gallery
from pneumonia.results.exploration import Draws, Exploration
from pneumonia.runs.context import RunContext
from pneumonia.served import FilmError, decode
from pneumonia.served import kind as kind_of
from pneumonia.tracking.record import Record, Run
from pneumonia.tracking.store import finished
from pneumonia.training.sampling import batches, sampler

SIDE = config.TrainConfig.size  # pixels; a training then finds its cache ready
SAMPLES = 18  # films of each class that are shown
TOGETHER = 256  # films whose grey levels are summed at a time: 10 MB as float32


class Head(NamedTuple):
    """What a film's header tells: pixels across and down, format and colour, and the mean step of a JPEG's luminance
    quantisation table (NaN for other formats)."""

    width: int
    height: int
    kind: str
    quantisation: float


def explore(
    index: Index, *, home: Path, batch_size: int = config.TrainConfig.batch_size, progress: bool = False
) -> Exploration:
    """Describes the films of an index; decodes those of train and val to `SIDE` pixels, or opens `home`'s cache.

    Raises:
        DataError: fewer than `cache.MIN_GOOD_SHARE` of the train and val films can be read, or none of some class.
        ValueError: a class has no train film.
    """
    start = time.perf_counter()
    decoded = cache.decode(index.keep("train", "val"), size=SIDE, home=home, progress=progress)
    good = index.without(decoded.failures)
    heads, failures = _heads(good, progress)
    index = good.without(failures)
    films = index.table.join(pd.DataFrame(heads, columns=Head._fields))
    films["pixels"] = films["width"] * films["height"]
    films["bytes_per_pixel"] = films["bytes"] / films["pixels"]
    films["aspect"] = films["width"] / films["height"]

    labels = films["label"].to_numpy()
    of_train = labels[(films["split"] == "train").to_numpy()]
    draws = draw(of_train, "none", batch_size), draw(of_train, "weighted", batch_size)
    seen = np.flatnonzero(films["split"] != "test")
    # Films with pixels but no header are files that vanished in between.
    pixels = decoded.films[decoded.index.table["path"].isin(films["path"]).to_numpy()]
    grey, mean, variance, of_film = _pixels(pixels, labels[seen])
    films[["grey_mean", "grey_sd"]] = np.nan
    films.loc[seen, ["grey_mean", "grey_sd"]] = of_film
    shown = [
        int(position)
        for label in (0, 1)
        for rows in (np.flatnonzero(labels[seen] == label),)
        for position in rows[gallery.chosen(films.iloc[seen[rows]], SAMPLES)]
    ]
    return Exploration(
        index=index,
        films=films,
        grey=grey,
        mean=mean,
        variance=variance,
        samples=tuple((int(seen[position]), np.asarray(pixels[position])) for position in shown),
        draws=draws,
        seconds=time.perf_counter() - start,
    )


def head(path: Path) -> Head:
    """Reads a film's header; the pixels are decoded only where Pillow cannot read what comes before them.

    Raises:
        FilmError: the file is no film that is read.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        if kind_of(file.read(1024)) == "DICOM":
            return _dicom_head(path)
        file.seek(0)
        try:
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                width, height = image.size
                kind = f"{image.format} {'grey' if image.mode[:1] in 'L1I' else 'colour'}"
                tables = getattr(image, "quantization", None)
                # Of a PNG, Pillow would look for EXIF behind the pixels, and decode them.
                if tables and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
                    width, height = height, width  # lying on its side, as the decoder turns it up
                return Head(width, height, kind, float(np.mean(tables[min(tables)])) if tables else np.nan)
        except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
            film = decode(path.read_bytes())  # or raises the error that a training would
    return Head(film.shape[1], film.shape[0], "other", np.nan)


def draw(labels: Ints, kind: config.Sampler, batch_size: int, *, seed: int = 0) -> Draws:
    """One epoch of batches for train labels [N] of 0 and 1, from the sampler that a training uses.

    Raises:
        ValueError: a class has no film.
    """
    generator = torch.Generator().manual_seed(seed)
    epoch = [batch.numpy() for batch in batches(sampler(labels, kind, generator), batch_size)]
    return Draws(
        sampler=kind,
        batch_size=batch_size,
        shares=np.array([labels[batch].mean() for batch in epoch], dtype=np.float64),
        times=np.bincount(np.concatenate(epoch), minlength=len(labels)),
    )


def explore_and_record(index: Index, context: RunContext) -> tuple[Record, Exploration]:
    """Describes the films, and logs a run with the page, its figures, eda.json and films.csv.

    Raises:
        DataError, ValueError: as `explore`.
        TrackingError: the tracking store cannot be reached; no film was opened.
    """
    context.tracker.experiment_id(context.experiment)
    record = context.begin(
        Run(
            name=f"eda of {index.root.name}",
            role="eda",
            description=f"What the films of {index.root.name} are like. No pixel of a test film was looked at.",
        ),
        index,
    )
    record.add_params({"data": str(index.root)})
    with finished(record, context.tracker):
        explored = explore(index, home=context.home, progress=context.progress)
        exploration_page.write(explored, record.artifacts, progress=context.progress)
        record.add_json("eda.json", {**explored.as_dict(), "report": explored.index.report.as_dict()})
        record.summarise(explored.named(), step=0)
    return record, explored


def _heads(index: Index, progress: bool) -> tuple[list[Head], list[tuple[str, str]]]:
    """The headers of the films that have one, in their order; and (path, reason) of the others."""
    heads, failures = [], []
    for path in tqdm(index.table["path"], desc="reading headers", unit="film", disable=not progress):
        try:
            heads.append(head(index.root / path))
        except FilmError as error:
            failures.append((path, str(error)))
        except OSError as error:
            failures.append((path, f"cannot be read: {error.strerror}"))
    return heads, failures


def _dicom_head(path: Path) -> Head:
    tags = ["Rows", "Columns", "SamplesPerPixel"]
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
        samples = int(header.get("SamplesPerPixel", 1))
        return Head(int(header.Columns), int(header.Rows), f"DICOM {'grey' if samples == 1 else 'colour'}", np.nan)
    # pydicom raises a dozen kinds for damaged files, AttributeError and RecursionError among them.
    except Exception:
        film = decode(path.read_bytes(), any_dicom=True)  # or says what is wrong
    return Head(film.shape[1], film.shape[0], "DICOM", np.nan)


def _pixels(films: NDArray[np.uint8], labels: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """Of films [N, S, S]: the classes' grey levels, means and variances as in `Exploration`, and each film's mean and
    standard deviation [N, 2]."""
    side = films.shape[1:]
    grey, mean, variance = np.empty((2, 256)), np.empty((2, *side)), np.empty((2, *side))
    of_film = np.empty((len(films), 2))
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        levels = np.zeros(256, dtype=np.int64)
        total, squares = np.zeros(side), np.zeros(side)
        for some in _chunks(rows):
            part = films[some]
            levels += np.bincount(part.ravel(), minlength=256)
            x = part.astype(np.float32)
            of_film[some] = np.column_stack((x.mean(axis=(1, 2)), x.std(axis=(1, 2))))
            total += x.sum(axis=0, dtype=np.float64)
            squares += np.square(x).sum(axis=0, dtype=np.float64)
        grey[label] = levels / levels.sum()
        mean[label] = total / rows.size
        variance[label] = np.maximum(squares / rows.size - mean[label] ** 2, 0)
    return grey, mean, variance, of_film


def _chunks(rows: Ints) -> Iterator[Ints]:
    for first in range(0, rows.size, TOGETHER):
        yield rows[first : first + TOGETHER]
