"""A log of the answers that a served model gave, with no film and no name in it, where an environment variable asks
for one.

    PNEUMONIA_ANSWERS        the folder; without it nothing is written
    PNEUMONIA_ANSWERS_MB     the size of a file in MiB (16, some 60,000 answers), after which the next is begun
    PNEUMONIA_ANSWERS_FILES  how many files are kept (16); the oldest goes first
    PNEUMONIA_VERSION        which version answers, if the model is not to find that out (`version_of`)

`answers.jsonl` is being written, `answers-TIME.jsonl` are full. A line is an answer, an object with the keys `FIELDS`.
Several processes of one machine may write at once. The model's own example, by which servers are tried, is not noted.
"""

import base64
import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

try:
    import fcntl
except ImportError:  # Windows has none: there the log is one file, and grows
    fcntl = None  # type: ignore[assignment]

# `time` is UTC, `sha256` that of the film's bytes, `error` a kind of refusal; what an answer does not have is null, and
# `error` empty.
FIELDS = ("time", "version", "sha256", "probability", "label", "familiarity", "familiar", "error")


@dataclass
class Answer:
    """What is known of one record by the time that it is answered: `row` is the answer, unless there is an `error`."""

    sha256: str = ""
    row: Mapping[str, Any] | None = None
    error: str = ""  # its kind
    decode_seconds: float = 0.0
    network_seconds: float = 0.0


class AnswerLog:
    """Lines at the end of a file that is changed for a new one when it is full. Never raises after it is made: what it
    cannot write it says on stderr, once.
    """

    def __init__(
        self,
        folder: Path,
        version: str,
        *,
        file_bytes: int = 16 * 2**20,
        files: int = 16,
        example: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            example: the hashes of films whose answers are not noted.

        Raises:
            ValueError: a limit is less than one.
        """
        if file_bytes < 1 or files < 1:
            raise ValueError(f"a log of {files} files of {file_bytes} bytes cannot be kept")
        self.folder, self.version, self.file_bytes, self.files = folder, version, file_bytes, files
        self.example, self._path = example, folder / "answers.jsonl"
        self._file: int | None = None
        self._lock = threading.Lock()
        self._complained = False

    def write(self, answers: Sequence[Answer]) -> None:
        """Adds the answers of one request, in one write."""
        answers = [answer for answer in answers if answer.sha256 not in self.example]
        if not answers:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            text = "".join(json.dumps(dict(zip(FIELDS, self._cells(now, one), strict=True))) + "\n" for one in answers)
            # The line break before them ends what a process may have left half-written when it was killed.
            with self._lock:
                self._append(f"\n{text}".encode())
        except (OSError, ValueError) as error:
            self._complain(f"answers cannot be written to {self.folder}: {error}")

    def _cells(self, now: str, answer: Answer) -> tuple[object, ...]:
        said = ("probability", "label", "familiarity", "familiar")
        row = (answer.row or {}) if not answer.error else {}
        return now, self.version, answer.sha256 or None, *(row.get(name) for name in said), answer.error

    def _append(self, data: bytes) -> None:
        size = self._size()
        if size and size + len(data) > self.file_bytes and fcntl is not None:
            self._turn(len(data))
        assert self._file is not None
        while data:
            data = data[os.write(self._file, data) :]

    def _size(self) -> int:
        """Opens the file that the path names now, unless it is open, and returns its size."""
        if self._file is not None:
            held = os.fstat(self._file)
            try:
                there = os.stat(self._path)
            except FileNotFoundError:
                there = None
            if there is not None and (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                return held.st_size
            os.close(self._file)  # another process has begun a new one, or somebody took it away
            self._file = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        return os.fstat(self._file).st_size

    def _turn(self, more: int) -> None:
        """Gives the full file the name of its time and begins the next, unless another process did meanwhile."""
        lock = os.open(self.folder / ".lock", os.O_WRONLY | os.O_CREAT, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of by the system if this process is killed
            if self._size() + more > self.file_bytes:
                self._path.rename(self.folder / f"answers-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.jsonl")
                full = sorted(self.folder.glob("answers-*.jsonl"))
                for old in full[: max(0, len(full) - self.files + 1)]:
                    old.unlink(missing_ok=True)
                self._size()
        finally:
            os.close(lock)

    def _complain(self, sentence: str) -> None:
        if not self._complained:
            self._complained = True
            print(f"pneumonia: {sentence}; this is said once", file=sys.stderr, flush=True)


def answer_log(package: Path) -> AnswerLog | None:
    """The log that the environment asks for, for the model whose package this is; None where it asks for none.

    A wrong number is said on stderr, and the default taken: for its log no model fails to start.
    """
    folder = os.environ.get("PNEUMONIA_ANSWERS")
    if not folder:
        return None
    limits: dict[str, int] = {}
    for name, key, unit in (("MB", "file_bytes", 2**20), ("FILES", "files", 1)):
        variable = f"PNEUMONIA_ANSWERS_{name}"
        text = os.environ.get(variable, "")
        if text.isdecimal() and int(text) > 0:
            limits[key] = int(text) * unit
        elif text:
            print(f"pneumonia: {variable} is {text!r}, no whole number above 0, and not used", file=sys.stderr)
    path, example = Path(folder).expanduser().absolute(), films_of_example(package)
    return AnswerLog(path, version_of(package), example=example, **limits)


def films_of_example(package: Path) -> frozenset[str]:
    """The hashes of the films in the example that MLflow keeps with the model of a package."""
    try:
        example = json.loads((package.parent.parent / "serving_input_example.json").read_text(encoding="utf-8"))
        rows = example["dataframe_split"]["data"] if "dataframe_split" in example else example["dataframe_records"]
        images = [image for row in rows for image in (row.values() if isinstance(row, dict) else row)]
        return frozenset(hashlib.sha256(base64.b64decode(image)).hexdigest() for image in images)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return frozenset()


def version_of(package: Path) -> str:
    """Which version the model of a package is: `name/number` where MLflow wrote it beside a registered model that it
    fetched, else the logged model's id; empty where neither is known. PNEUMONIA_VERSION goes first.
    """
    if said := os.environ.get("PNEUMONIA_VERSION"):
        return said
    model = package.parent.parent  # MLflow's folder, where the package is artifacts/package
    for name in ("registered_model_meta", "MLmodel"):
        try:
            known = yaml.safe_load((model / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(known, dict) and known.get("model_version"):
            return f"{known['model_name']}/{known['model_version']}"
        if isinstance(known, dict) and known.get("model_id"):
            return str(known["model_id"])
    return ""
