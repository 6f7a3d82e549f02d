"""Scores films on disk with a logged or registered model: a table with a row a film, bad films included."""

import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from tqdm import tqdm

from pneumonia.metrics.calibration import Calibration
from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.secrets import without_secrets
from pneumonia.serving import example_film
from pneumonia.serving.film_batches import COLUMNS, TYPES, Row, score, size_of
from pneumonia.serving.model_integrity import check_model
from pneumonia.tracking import places


class ModelError(ValueError):
    """There is no such model, or this program did not make it; the message is one sentence."""


@dataclass(frozen=True)
class Model:
    """A loaded model. It runs the code that was logged with it, not this checkout's."""

    uri: str
    size: int
    classes: tuple[str, str]
    threshold: float
    calibration: Calibration
    digest: str  # SHA-256 of its code and package
    metadata: Any  # mlflow.models.Model: run_id, model_id, tags
    pyfunc: PyFuncModel


def load(model_uri: str, *, package_to: Path | None = None) -> Model:
    """Loads `models:/name@alias`, `models:/name/3`, `models:/m-...`, `runs:/...`, or a model's folder.

    Remote files go to a temporary folder that is gone when this returns.

    Args:
        package_to: a folder, made here, that gets a copy of the model's package (see `serving.export`).

    Raises:
        ModelError: it is not there, cannot be read, or does not take films.
    """
    remote = re.match(r"\w[\w+.-]+:/", model_uri)  # two letters or more: C:/ is a folder
    if not remote and not (Path(model_uri) / "MLmodel").is_file():
        raise ModelError(
            f"there is no model at {os.path.abspath(model_uri)}: looked for a folder with the file MLmodel; "
            "a registered model is written models:/pneumonia@champion, models:/pneumonia/3 or runs:/RUN/model"
        )
    place, gone = None, None
    with tempfile.TemporaryDirectory(prefix="pneumonia-model-") as scratch:
        try:
            if remote:
                place = places.model_files(model_uri, mlflow.MlflowClient())
                gone = None if place is None else places.missing(place, mlflow.get_tracking_uri())
            folder = Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=scratch) if remote else model_uri)
            check_model(folder)
            pyfunc = mlflow.pyfunc.load_model(str(folder))
        except Exception as error:  # a foreign flavour may raise anything
            said = gone or shortened(without_secrets(first_line(error).replace(scratch, place or model_uri)), 300)
            raise ModelError(f"the model {model_uri} cannot be loaded: {said}") from error
        settings = folder / "artifacts" / "package" / "package.json"
        if not settings.is_file():
            raise ModelError(f"{model_uri} is an MLflow model, but not one of this program's: it holds no package.json")
        package = json.loads(settings.read_text(encoding="utf-8"))
        digest = _digest(folder)
        if package_to is not None:
            shutil.copytree(settings.parent, package_to)
    return Model(
        uri=model_uri,
        size=package["size"],
        classes=(package["classes"][0], package["classes"][1]),
        threshold=package["threshold"],
        calibration=Calibration(**package["calibration"]),
        digest=digest,
        metadata=pyfunc.metadata,
        pyfunc=pyfunc,
    )


def _digest(model: Path) -> str:
    """Of what decides the scores of the model in a folder."""
    digest = hashlib.sha256()
    for path in sorted(filter(Path.is_file, [*model.glob("*.py"), *(model / "artifacts" / "package").iterdir()])):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class LocalScorer:
    """A loaded model as a `film_batches.Scorer`, on all cores."""

    bytes_at_once = 4 << 20

    def __init__(
        self, model: Model, *, explain: bool = False, any_dicom: bool = False, threads: int | None = None
    ) -> None:
        """Args:
            explain: ask for heatmaps too.
            any_dicom: read DICOMs also where they say that they are no chest radiographs.
            threads: films at once; one a core if None.

        Raises:
            ModelError: the model was made by an earlier version without one of them, or has no heatmaps.
        """
        self.model, self.threshold = model, model.threshold
        self.films_at_once = 8 if explain else 64
        self.calls_at_once = threads or _cores()
        self._params = _params(model, explain=explain, any_dicom=any_dicom)
        if "errors" in _known_params(model):
            self._params["errors"] = "return"
        model_id = getattr(model.metadata, "model_id", None)
        self.about = {
            "model": f"{f'models:/{model_id}' if model_id else model.uri} (SHA-256 {model.digest[:16]})",
            "any_dicom": str(any_dicom).lower(),
        }
        if explain and (said := self.score([example_film.jpeg()])[0].get("error")):
            raise ModelError(f"the model {model.uri} cannot explain: {said}")

    def score(self, films: Sequence[bytes]) -> list[Row]:
        try:
            scored: Any = self.model.pyfunc.predict(pd.DataFrame({"image": list(films)}), params=self._params or None)
        except MlflowException as error:
            if len(films) > 1:  # one by one, to see which it is
                return [row for film in films for row in self.score([film])]
            said = getattr(error, "sentence", None) or str(error)
            return [{"error": said.removeprefix("record 0: ")}]
        return [{str(name): value for name, value in row.items()} for row in scored.to_dict("records")]


def predict(
    model: Model,
    paths: Sequence[Path],
    *,
    any_dicom: bool = False,
    threads: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Scores each film by itself, as the server does, so that a bad film does not affect the others.

    Args:
        paths: films; a row each, in this order.
        any_dicom: read DICOMs also where they say that they are no chest radiographs.
        threads: films at once; one a core if None.
        progress: show a bar.

    Returns:
        Columns `path` (with what is not UTF-8 in it as \\xff), `probability` (of the positive class), `label`,
        `threshold`, `familiarity` (0 to 1: the share of the validation films that are at least as unlike the training
        films), `familiar` (whether it is at least .05), `warning` (what is doubtful about the film; empty where nothing
        is), `error`. What a model of before does not say is missing, and its `warning` empty. For a film that could not
        be scored, `error` says why in a sentence, probability, familiarity and familiar are missing and label is empty;
        else `error` is empty.

    Raises:
        ModelError: the model was made by an earlier version without `any_dicom`.
    """
    scorer = LocalScorer(model, any_dicom=any_dicom, threads=threads)
    with closing(score(scorer, ((path, size_of(path)) for path in paths))) as scored:
        rows = list(tqdm(scored, total=len(paths), desc="predict", unit="film", disable=not progress))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(TYPES)


def heatmaps(model: Model, paths: Sequence[Path], *, any_dicom: bool = False) -> list[bytes]:
    """The heatmap over each film, as the server draws it with `explain`: PNGs.

    Raises:
        ModelError: as `predict`.
        MlflowException: a film cannot be scored; `predict` says why in a sentence.
        OSError: a film cannot be read.
    """
    drawn, params = [], _params(model, explain=True, any_dicom=any_dicom)
    for path in paths:  # one by one, since a model takes few at a time with `explain`
        scored: Any = model.pyfunc.predict(pd.DataFrame({"image": [path.read_bytes()]}), params=params)
        drawn.append(base64.b64decode(scored["heatmap"].iloc[0]))
    return drawn


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _params(model: Model, **asked: bool) -> dict[str, Any]:
    """The params that are asked for, as the model takes them."""
    known = _known_params(model)
    params: dict[str, Any] = {name: True for name, value in asked.items() if value}
    if unknown := sorted(params.keys() - known):
        raise ModelError(f"the model {model.uri} is of an earlier version, which has no {unknown[0]}: train it again")
    return params


def _known_params(model: Model) -> set[str]:
    schema = model.metadata.get_params_schema()
    return {spec.name for spec in schema.params} if schema is not None else set()
