"""A run as a folder: parameters, metrics, figures, predictions and the model, on the local disk.

The folder is the truth; `sync.send` copies it to an MLflow run, and may be called any number of times. So an outage of
the tracking server, a killed process and `pneumonia sync` are one case.

    run.json         what the run is: name, role, parent, tags, description, dataset
    params.json      {name: value}
    metrics.jsonl    a line a step: {"step": 3, "time": 1730000000000, "metrics": {"val/auc": 0.98}}
    summary.json     the metrics of the finished model, as such a line
    artifacts/       figures, predictions, tables, as MLflow shows them
    images/          {key}.png of the finished model and {key}@{epoch}.png of one in training, pictures that MLflow
                     lays side by side across runs
    model/           an MLflow model
    status.json      {"state": "COMPLETE", "reason": "", "time": 1730000000000}, once the run has ended
    sent.json        what of it the tracking store has (see `Sent`)
"""

import json
import math
import os
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from pneumonia.runtime.disk import room
from pneumonia.runtime.secrets import masked_within, without_secrets
from pneumonia.runtime.signals import identity, is_gone

State = Literal["COMPLETE", "PRUNED", "FAIL", "INTERRUPTED"]
Role = Literal["search", "trial", "final", "train", "seeds", "evaluate", "compare", "eda", "worker", "adapt", "monitor"]
# Folders of earlier versions have these names, and those of the fields of `Run` and `Sent`: none may change.
RUN, PARAMS, METRICS, SUMMARY, STATUS = "run.json", "params.json", "metrics.jsonl", "summary.json", "status.json"
SENT = "sent.json"
VAL_PREDICTIONS, TEST_PREDICTIONS = "predictions/val.csv", "predictions/test.csv"  # among the artifacts
HELD_OUT_PREDICTIONS = "predictions/held_out.csv"  # of an adapting: of each local film, by a model without its patient
LOCAL_PREDICTIONS = "predictions/local.csv"  # of an adapting to films whose classes are not known
CARD = "model_card.md"
KILLED = "the process was killed"  # the reason of a record whose process did not end it
BLOCK = 4096  # bytes, of a folder


class Dataset(TypedDict, total=False):
    """The films of a run: what MLflow shows as its dataset, and what finds them again."""

    name: str
    digest: str  # the index's fingerprint
    source: str  # its root
    context: str  # what they are for: training, validation, testing, eda
    classes: list[str]  # negative, positive
    any_dicom: bool
    profile: dict[str, int]  # how many films there are, in all and by split


class Sent(TypedDict, total=False):
    """What the tracking store has of a record, noted as it takes it: the ids that it gave, then the names or counts of
    what came.

    `version` and `verdict` are of the registered model; `described` says that its description has the test figures.
    """

    uri: str
    run_id: str
    experiment_id: str
    parent: str  # the run that it hangs under
    params: list[str]
    metrics: int  # lines
    artifacts: dict[str, list[int]]  # size and time of each file
    images: list[str]
    model_id: str
    dropped: bool  # the store's model was deleted for better ones
    closed: bool
    deleted: bool  # somebody deleted the run: nothing more is sent
    version: str
    verdict: dict[str, str]
    superseded: str  # the version that another machine made of the same search: this one is not registered
    described: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is, known when it starts.

    `run_id` is an MLflow run to adopt instead of a new one; `register` is the registered model that the run's model
    becomes a version of; `model_id` a logged model of another run that the summary's metrics belong to.
    """

    name: str
    role: Role
    experiment: str = "pneumonia"
    parent: str | None = None
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""
    dataset: Dataset = field(default_factory=Dataset)
    register: str | None = None
    model_id: str | None = None
    began: int | None = field(default_factory=lambda: milliseconds())  # since 1970; None in records before 0.2
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    owner: dict[str, Any] = field(default_factory=identity)  # the process that writes the record


@dataclass(frozen=True)
class Record:
    """A run's folder. Writers are atomic: a reader sees the old or the new content, never half of it."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, run: Run) -> "Record":
        """Starts a record in `folder`, which must not hold one.

        Raises:
            FileExistsError: `folder` holds a record.
            DiskFullError: there is no room for it.
        """
        if (folder / RUN).exists():
            raise FileExistsError(f"{folder} holds a record already")
        with room(folder, BLOCK):
            (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, masked_within(asdict(run)))
        return cls(folder)

    @property
    def run(self) -> Run:
        return Run(**{"began": None, **read_json(self.folder / RUN)})

    def update(self, **changes: Any) -> None:
        """Replaces fields of `run`."""
        write_json(self.folder / RUN, {**read_json(self.folder / RUN), **masked_within(changes)})

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def params(self) -> dict[str, Any]:
        return read_json(self.folder / PARAMS) if (self.folder / PARAMS).exists() else {}

    def add_params(self, params: Mapping[str, Any]) -> None:
        write_json(self.folder / PARAMS, {**self.params, **masked_within(dict(params))})

    def add_metrics(self, metrics: Mapping[str, float], *, step: int, time: int | None = None) -> None:
        """Appends the finite ones of `metrics`; an undefined one (NaN) is no point on a curve.

        Args:
            time: when they were so, in milliseconds since 1970; now if None.
        """
        line = _line(metrics, step) if time is None else {**_line(metrics, step), "time": time}
        text = json.dumps(line) + "\n"
        with room(self.folder / METRICS, len(text)), (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(text)

    def summarise(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Writes the metrics that the run is compared by: those of the model that it keeps."""
        write_json(self.folder / SUMMARY, _line(metrics, step))

    @property
    def summary(self) -> dict[str, float]:
        path = self.folder / SUMMARY
        return read_json(path)["metrics"] if path.exists() else {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
        path = self.folder / METRICS
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def add_json(self, name: str, value: Any) -> None:
        path = self.artifacts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)

    def add_image(self, key: str, png: bytes, *, step: int = 0) -> None:
        """Writes a picture that MLflow's image grid shows as `key`, at the epoch `step`; 0 is the finished model."""
        path = self.images / (f"{key}@{step}.png" if step else f"{key}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        with room(path, len(png)):
            path.write_bytes(png)

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def add_traceback(self) -> None:
        """Writes the traceback of the exception that is being handled, without secrets, unless it is the disk's."""
        with suppress(OSError):
            said = without_secrets(traceback.format_exc())
            (self.artifacts / "traceback.txt").write_text(said, encoding="utf-8")

    def finish(self, state: State, reason: str = "") -> None:
        """Ends the run with a state and a reason; a run that has ended stays as it is."""
        status = {"state": state, "reason": without_secrets(reason), "time": milliseconds()}
        if self.status is None:
            write_json(self.folder / STATUS, status, replace=False)

    @property
    def status(self) -> dict[str, Any] | None:
        path = self.folder / STATUS
        return read_json(path) if path.exists() else None


def records(folder: Path) -> list[Record]:
    """Every record under `folder`, oldest first."""
    found = folder.glob(f"**/{RUN}")
    return [Record(path.parent) for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def close_dead(home: Path, role: Role | None = None) -> list[Record]:
    """Ends the records, or those of one role, whose process died before it ended them."""
    dead = [r for r in records(home / "records") if r.status is None and is_gone(r.run.owner)]
    dead = [r for r in dead if role is None or r.run.role == role]
    for record in dead:
        record.finish("INTERRUPTED" if record.run.role == "search" else "FAIL", KILLED)
    return dead


def milliseconds() -> int:
    """Now, in milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


def _line(metrics: Mapping[str, float], step: int) -> dict[str, Any]:
    finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    return {"step": step, "time": milliseconds(), "metrics": finite}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any, *, replace: bool = True) -> None:
    """Writes a file whole or not at all; without `replace` a file that another process wrote meanwhile stays.

    Raises:
        DiskFullError: there is no room for it.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    try:
        with room(path, len(text)):
            partial.write_text(text, encoding="utf-8")
            if not replace:
                with suppress(OSError):
                    os.link(partial, path)
            if replace or not path.exists():  # some file systems have no hard links
                partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
