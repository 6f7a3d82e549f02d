"""Scores films on disk with a logged or registered model: a table with a row a film, bad films included."""

import base64
import glob
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from tqdm import tqdm

from pneumonia.data import file_kinds
from pneumonia.data.inventory import tally
from pneumonia.metrics.calibration import Calibration
from pneumonia.runtime.messages import first_line, shortened
from pneumonia.served import MAX_BYTES
from pneumonia.tracking import places
from pneumonia.tracking.sync import masked

# With the types that hold what is missing.
TYPES = {
    **{"path": "str", "probability": "float64", "label": "str", "threshold": "float64", "familiarity": "float64"},
    **{"familiar": "boolean", "warning": "str", "error": "str"},
}
COLUMNS = tuple(TYPES)
FORMATS = (".csv", ".jsonl")


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
            pyfunc = mlflow.pyfunc.load_model(str(folder))
        except Exception as error:  # a foreign flavour may raise anything
            said = gone or shortened(masked(first_line(error).replace(scratch, place or model_uri)), 300)
            raise ModelError(f"the model {model_uri} cannot be loaded: {said}") from error
        settings = folder / "artifacts" / "package" / "package.json"
        if not settings.is_file():
            raise ModelError(f"{model_uri} is an MLflow model, but not one of this program's: it holds no package.json")
        package = json.loads(settings.read_text(encoding="utf-8"))
        if package_to is not None:
            shutil.copytree(settings.parent, package_to)
    return Model(
        uri=model_uri,
        size=package["size"],
        classes=(package["classes"][0], package["classes"][1]),
        threshold=package["threshold"],
        calibration=Calibration(**package["calibration"]),
        metadata=pyfunc.metadata,
        pyfunc=pyfunc,
    )


def is_there(text: str) -> bool:
    """Whether an input names anything: a file, a folder, or a pattern that matches one."""
    if os.path.exists(os.path.expanduser(text)):
        return True
    return glob.has_magic(text) and next(glob.iglob(os.path.expanduser(text), recursive=True), None) is not None


def films(inputs: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """The films that files, folders (with all below) and globs (`**` too) name, each once, in a stable order; and what
    was skipped, by kind.

    A file that is named is taken whatever it is. In folders and globs, hidden files and folders, `__MACOSX`, folders of
    masks, and files that by their suffix or, where that says nothing, by their content are not images are skipped.

    Raises:
        ValueError: an input names nothing, a folder cannot be read, or no film is found.
    """
    found: dict[str, Path] = {}
    others: dict[str, str] = {}
    passed: Counter[str] = Counter()
    for text in inputs:
        path = Path(os.path.expanduser(text))
        if os.path.exists(path) and not os.path.isdir(path):
            found.setdefault(os.path.realpath(path), path)
            continue
        named, aside = ([path], Counter[str]()) if os.path.isdir(path) else _matches(path)
        if not named and not aside:
            raise ValueError(f"{os.path.abspath(path)} is no file, no folder and no pattern that matches any")
        passed += aside
        for match in named:
            below, aside = file_kinds.below(match) if match.is_dir() else ([match], Counter[str]())
            passed += aside
            for film in below:
                why = _no_image(film)
                if why is None:
                    found.setdefault(os.path.realpath(film), film)
                else:
                    others[os.path.realpath(film)] = why
    passed += Counter(others.values())
    if not found:
        tail = f" (skipped: {tally(passed)})" if passed else ""
        raise ValueError(f"no film in {', '.join(inputs) or 'an empty list'}: looked for JPEG, PNG and DICOM{tail}")
    return list(found.values()), passed


def _matches(pattern: Path) -> tuple[list[Path], Counter[str]]:
    """What a glob matches, without what is below a matched folder; and how many files are skipped since a folder's name
    says that it holds no films, and the pattern does not name it."""
    reasons: dict[Path, str | None] = {}

    def reason(folder: Path) -> str | None:
        if folder not in reasons:
            named = folder.name in pattern.parts
            reasons[folder] = None if named else file_kinds.aside(folder.name, os.listdir(folder.parent))
        return reasons[folder]

    matches, passed, done, counted = list[Path](), Counter[str](), set[Path](), set[str]()
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        if not done.isdisjoint(path.parents):
            continue
        folder = path.is_dir()
        if folder:
            done.add(path)
        above = [one for one in (path, *path.parents) if one.name][0 if folder else 1 :]
        why = next(filter(None, map(reason, above)), None)
        if why is None:
            matches.append(path)
        elif (real := os.path.realpath(path)) not in counted:  # a link to a folder above makes a loop
            counted.add(real)
            passed += Counter({why: file_kinds.count(path)[0] if folder else 1})
    return matches, passed


def _no_image(path: Path) -> str | None:
    """Why a file in a folder is no image; None for formats that are refused too, so that the table says so of each, and
    for what cannot be looked at."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return file_kinds.why_unwanted(path) or (None if file_kinds.has_known_suffix(path) else "not a file")
        why = file_kinds.why_not_film(path)
    except OSError:
        return None
    return None if why in file_kinds.REFUSED.values() else why


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
        threads: films at once; one a core if None, 8 at most.
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
    params = _params(model, any_dicom=any_dicom)
    # Threads, since decoding and ONNX Runtime release the GIL.
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        scored = pool.map(lambda path: _row(model, path, params), paths)
        rows = list(tqdm(scored, total=len(paths), desc="predict", unit="film", disable=not progress))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(TYPES)


def heatmaps(model: Model, paths: Sequence[Path], *, any_dicom: bool = False) -> list[bytes]:
    """The class-activation map over each film, as the server draws it with `explain`: PNGs.

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


def check_output(output: Path) -> None:
    """Refuses a file that `write` could not write, before any film is scored.

    Raises:
        ValueError: its suffix is neither .csv nor .jsonl, or it is a folder.
    """
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"the output must end in {' or '.join(FORMATS)}, but is {output.name}")
    if output.is_dir():
        raise ValueError(f"the output {output} is a folder")


def write(table: pd.DataFrame, output: Path | None = None) -> None:
    """Writes `predict`'s table as CSV or JSON lines, by the suffix, whole or not at all; as CSV to stdout if None.

    Raises:
        ValueError: as `check_output`.
    """
    if output is None:
        sys.stdout.write(render(table))
        return
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    partial.write_text(render(table, output.suffix.lower()), encoding="utf-8", newline="\n")
    partial.replace(output)


def render(table: pd.DataFrame, suffix: str = ".csv") -> str:
    """The table as CSV, where what is missing is empty, or JSON lines, where it is null; floats keep all digits."""
    if suffix == ".csv":
        return str(table.to_csv(index=False, lineterminator="\n"))
    records = table.astype(object).where(table.notna() & (table != ""), None).to_dict(orient="records")
    return "".join(json.dumps(record) + "\n" for record in records)


def _params(model: Model, **asked: bool) -> dict[str, bool]:
    """The params that are asked for, as the model takes them."""
    schema = model.metadata.get_params_schema()
    known = {spec.name for spec in schema.params} if schema is not None else set()
    params = {name: True for name, value in asked.items() if value}
    if unknown := sorted(params.keys() - known):
        raise ModelError(f"the model {model.uri} is of an earlier version, which has no {unknown[0]}: train it again")
    return params


def _row(model: Model, path: Path, params: dict[str, bool]) -> dict[str, Any]:
    # A name that is not UTF-8 has lone surrogates, which cannot be written to a table or file.
    row: dict[str, Any] = {
        **{"path": os.fsencode(path).decode("utf-8", "backslashreplace"), "probability": math.nan, "label": ""},
        **{"threshold": model.threshold, "familiarity": math.nan, "familiar": None, "warning": "", "error": ""},
    }
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise OSError("not a file" if path.exists() else "no such file")
        if path.stat().st_size > MAX_BYTES:
            raise OSError(f"the file is larger than {MAX_BYTES >> 20} MiB")
        scored: Any = model.pyfunc.predict(pd.DataFrame({"image": [path.read_bytes()]}), params=params or None)
    except (MlflowException, OSError) as error:
        said = getattr(error, "sentence", None) or getattr(error, "strerror", None) or str(error)
        return {**row, "error": said.removeprefix("record 0: ")}
    return {**row, **{name: value for name, value in scored.iloc[0].items() if name in row}}
