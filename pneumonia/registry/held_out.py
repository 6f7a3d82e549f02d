"""The local films that versions of a place are scored on, each by a model that did not learn from its patient.

A version was adapted on most of these films. What it is worth there is told by the held-out predictions of its run and
of those that it comes from; films that none of these learned from it predicts itself.
"""

import base64
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.metrics.logistic import logit, sigmoid
from pneumonia.metrics.scores import CLIP
from pneumonia.registry.scoring import FilmGone, film_bytes
from pneumonia.serving import predict
from pneumonia.tracking.record import HELD_OUT_PREDICTIONS, LOCAL_PREDICTIONS, Record
from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.sync import none_if_missing, sent
from pneumonia.tracking.tags import PARENT_RUN

COLUMNS = ("path", "patient", "label", "probability", "before", "part", "sha256")


@dataclass(frozen=True)
class HeldOut:
    """The films of an adapting: `table` has `COLUMNS`, where `probability` is that of the adapted model, `before` that
    of the model that it was made from. `key` identifies the films, whatever their order or folder.
    """

    tracker: Tracker
    run_id: str
    table: pd.DataFrame
    labels: np.ndarray  # [N], 0 and 1
    patients: list[str]
    root: Path
    key: str
    any_dicom: bool = False

    @property
    def words(self) -> str:
        return f"{len(self.patients)} local films, each by models that did not learn from its patient"

    @property
    def floor(self) -> np.ndarray:
        """Losses [N] of the model that was adapted."""
        return _losses(self.labels, self.table["before"].to_numpy())

    def losses(self, uri: str) -> np.ndarray:
        """Losses [N] of a version.

        Raises:
            FilmGone: a film that the version did not learn from is no longer there, or was changed.
            Unreadable: the version cannot be loaded.
        """
        name, number = uri.removeprefix("models:/").rsplit("/", 1)
        run_id = self.tracker.client.get_model_version(name, number).run_id
        known: dict[str, float] = {}
        for table in [self.table] if run_id == self.run_id else learned(self.tracker, run_id):
            known = dict(zip(table["sha256"], table["probability"], strict=True)) | known  # the nearest run's counts
        found = np.array(self.table["sha256"].map(known), dtype=np.float64)
        unseen = np.flatnonzero(np.isnan(found))
        if unseen.size:
            model = predict.load(uri)
            found[unseen] = [self._predicted(model, int(row)) for row in unseen]
        return _losses(self.labels, found)

    def _predicted(self, model: predict.Model, row: int) -> float:
        path = self.root / self.table["path"].iloc[row]
        film = film_bytes(path)
        if hashlib.sha256(film).hexdigest() != self.table["sha256"].iloc[row]:
            raise FilmGone(f"the local film {path} was changed since the model was adapted")
        asked = pd.DataFrame({"image": [base64.b64encode(film).decode()]})
        answer: Any = model.pyfunc.predict(asked, params={"any_dicom": True} if self.any_dicom else None)
        return float(answer["probability"].iloc[0])


def held_out(tracker: Tracker, record: Record) -> HeldOut:
    """The films that the record's model was adapted on."""
    table = _read((record.artifacts / HELD_OUT_PREDICTIONS).read_text(encoding="utf-8"))
    dataset = record.run.dataset
    lines = sorted(f"{sha256} {label}" for sha256, label in zip(table["sha256"], table["label"], strict=True))
    return HeldOut(
        tracker=tracker,
        run_id=sent(record)["run_id"],
        table=table,
        labels=(table["label"] == dataset["classes"][1]).to_numpy(dtype=np.int64),
        patients=table["patient"].tolist(),
        root=Path(dataset["source"]),
        key=hashlib.sha256("\n".join(["local", *lines]).encode()).hexdigest()[:12],
        any_dicom=dataset.get("any_dicom", False),
    )


def learned(tracker: Tracker, run_id: str | None) -> Iterator[pd.DataFrame]:
    """The local films that a run's model has learned from: the held-out predictions of the run and of those that it
    comes from, the nearest first; none of a model that was never adapted.

    An adapting without labels has none of its own. It moves all log-odds by one amount, and so it moves `probability`
    in the tables of the runs behind it.

    Raises:
        TrackingError: the store cannot be reached.
    """
    moved, passed = 0.0, set[str]()
    while run_id and run_id not in passed:  # tags can be edited into a circle
        passed.add(run_id)
        if (text := tracker.text_of(run_id, HELD_OUT_PREDICTIONS)) is not None:
            table = _read(text)
            yield table.assign(probability=sigmoid(logit(table["probability"]) + moved)) if moved else table
        elif (text := tracker.text_of(run_id, LOCAL_PREDICTIONS)) is not None:
            table = _read(text)
            moved += float(np.median(logit(table["probability"]) - logit(table["before"])))
        run_id = _parent(tracker, run_id)


def _parent(tracker: Tracker, run_id: str) -> str | None:
    """The run whose model a run adapted; None where it adapted none, or the store has no such run."""
    with tracker_errors(tracker.uri):
        run = none_if_missing(lambda: tracker.client.get_run(run_id))
    return None if run is None else run.data.tags.get(PARENT_RUN)


def _read(text: str) -> pd.DataFrame:
    words = {"path": str, "patient": str, "label": str, "sha256": str}
    return pd.read_csv(io.StringIO(text), dtype=words, keep_default_na=False)


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    own = np.where(labels == 1, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.clip(own, CLIP, 1)))
