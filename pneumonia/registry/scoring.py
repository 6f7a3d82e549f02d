"""What the gate scores models on, and the score: validation films as they are, corrupted, and painted (see
`stress_tests`).
"""

import base64
import errno
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import mlflow
import numpy as np
import pandas as pd

from pneumonia.augmentation import stress_tests
from pneumonia.data.classes import is_opacity_task
from pneumonia.runtime.disk import is_full
from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.secrets import without_secrets
from pneumonia.served import CANONICAL, FilmError, decode, read_film
from pneumonia.serving.model_integrity import check_model
from pneumonia.tracking.record import VAL_PREDICTIONS, Record

BATCH = 64


class Image(NamedTuple):
    """A film, or a corrupted or painted copy of it, as a model gets it."""

    film: int  # number of the film
    label: int  # 0 or 1
    data: str  # base64


class Films(Protocol):
    """What versions are scored on. `key` identifies the films, `patients` names the patient of each, `words` says in a
    verdict what they are.
    """

    @property
    def key(self) -> str: ...

    @property
    def patients(self) -> list[str]: ...

    @property
    def words(self) -> str: ...

    def losses(self, uri: str) -> np.ndarray:
        """Log loss of each film by the model `uri`; float64 [N]. Raises what `losses` raises."""
        ...


class Unreadable(OSError):
    """A version's files are gone, or cannot be loaded; the sentence says which or why."""


class FilmGone(ValueError):
    """A validation film that the gate needs is no longer there as it was; the sentence names it."""


@dataclass(frozen=True)
class Validation:
    """The films that the gate scores on, sorted by content, which decides the corruption of each. `key` identifies
    them, whatever their order or folder.
    """

    films: list[tuple[Path, str]]  # and the SHA-256 of each
    labels: np.ndarray  # [N], 0 and 1
    patients: list[str]
    opacities: bool  # whether they tell the classes apart
    key: str
    any_dicom: bool = False  # also read DICOMs that say they are not chest radiographs

    @property
    def words(self) -> str:
        painted = ", and normal ones painted" if self.opacities else ""
        return f"{len(self.patients)} validation films, as they are and changed{painted}"

    def losses(self, uri: str) -> np.ndarray:
        """As the function `losses`."""
        return losses(uri, self)

    def images(self) -> Iterator[Image]:
        """Three images of each film: as it is, in another shape, and with another corruption (as it is, where no model
        would read the copy); of a normal one perhaps a fourth, with an opacity. They are read again for each model,
        since those of a large set would not fit into memory.

        Raises:
            FilmGone: a film is no longer there, or was changed.
        """
        for number, (path, sha256) in enumerate(self.films):
            film = film_bytes(path)
            if hashlib.sha256(film).hexdigest() != sha256:
                raise FilmGone(f"the validation film {path} was changed while models were scored")
            # At 224 px, so that models of all sizes see the same copies; training makes them at its own size.
            read, label = read_film(film, CANONICAL, any_dicom=self.any_dicom), int(self.labels[number])
            copies = [_png(copy) or film for copy in stress_tests.copies_of(read, number)]
            for image in (film, *copies):
                yield Image(number, label, base64.b64encode(image).decode())
            if self.opacities and label == 0:
                painted = stress_tests.painted_of(read, number)
                shown = _png(painted) if (painted != read).any() else None
                if shown is not None:
                    yield Image(number, 1, base64.b64encode(shown).decode())


def validation(record: Record) -> Validation:
    """The validation films that the record's model was chosen on. Each is read, so that an unreadable one is
    named before anything is registered.

    Raises:
        FilmGone: a film is no longer there, or can no longer be read.
    """
    root = Path(record.run.dataset["source"])
    negative, positive = record.run.dataset["classes"]
    rows = pd.read_csv(record.artifacts / VAL_PREDICTIONS, dtype=str, keep_default_na=False)
    any_dicom = record.run.dataset.get("any_dicom", False)
    found = []
    for name, label, patient in zip(rows["path"], rows["label"], rows["patient"], strict=True):
        film = film_bytes(path := root / name)
        try:
            read_film(film, CANONICAL, any_dicom=any_dicom)
        except FilmError as error:
            raise FilmGone(f"the validation film {path} can no longer be read: {error}") from error
        found.append((hashlib.sha256(film).hexdigest(), int(label == positive), name, patient))
    found.sort()
    lines = [f"{sha256} {label}" for sha256, label, *_ in found]
    opacities = is_opacity_task((negative, positive))
    lines.append(f"changes {stress_tests.VERSION}{', painted' if opacities else ''}")
    return Validation(
        films=[(root / name, sha256) for sha256, _, name, _ in found],
        labels=np.array([label for _, label, *_ in found]),
        patients=[patient for *_, patient in found],
        opacities=opacities,
        any_dicom=any_dicom,
        key=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12],
    )


def film_bytes(path: Path) -> bytes:
    """Raises:
    FilmGone: it is not there, or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        what = "is no longer there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise FilmGone(f"the validation film {path} {what}") from error


def _png(copy: np.ndarray) -> bytes | None:
    """A copy as PNG; None if a model would not take it."""
    png = cv2.imencode(".png", copy)[1].tobytes()
    try:
        decode(png)
    except FilmError:
        return None
    return png


def losses(uri: str, films: Validation) -> np.ndarray:
    """Log loss of each film, the mean of its images', by the model's own code. Float64 [N].

    Raises:
        FilmGone: a film is no longer there, or was changed.
        Unreadable: the model cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="pneumonia-gate-") as scratch:
        try:
            folder = mlflow.artifacts.download_artifacts(uri, dst_path=scratch)
            check_model(Path(folder))
            model = mlflow.pyfunc.load_model(folder)
        except Exception as error:  # a foreign flavour may raise anything
            if is_local_fault(error):
                raise
            raise Unreadable(shortened(without_secrets(first_line(error).replace(scratch, uri)), 200)) from error
        images, asked, answers = films.images(), [], []
        params = {"any_dicom": True} if films.any_dicom else None
        while batch := list(islice(images, BATCH)):
            table = pd.DataFrame({"image": [image.data for image in batch]})
            answers.append(model.predict(table, params=params)["probability"])
            asked += [(image.film, image.label) for image in batch]
    film, label = np.array(asked).T
    positive = np.clip(np.concatenate(answers), 1e-7, 1 - 1e-7)
    loss = -np.log(np.where(label == 1, positive, 1 - positive))
    return np.asarray(np.bincount(film, loss) / np.bincount(film))


def is_local_fault(error: Exception) -> bool:
    """Whether an error comes from this machine or a film, and not from the version that was being scored."""
    return isinstance(error, MemoryError | FilmGone) or is_full(error) or getattr(error, "errno", None) == errno.EIO
