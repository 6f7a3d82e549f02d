"""The table of predictions as a file, row by row: CSV, JSON lines or Parquet, to be gone on with after a kill."""

import csv
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from pneumonia.serving.film_batches import COLUMNS, TYPES, Row

FORMATS = (".csv", ".jsonl", ".parquet")
STATE = "state.json"
KEPT_SECONDS = 1.0  # so much work is done again after a kill
ROW_GROUP = 10_000  # rows of a Parquet file that are held at once


class OutputError(ValueError):
    """The output cannot be written; one sentence says why and what to do."""


def check_output(output: Path) -> None:
    """Refuses a file that `Table` could not write, before any film is scored.

    Raises:
        OutputError: its suffix is none of `FORMATS`, or it is a folder.
    """
    if output.suffix.lower() not in FORMATS:
        raise OutputError(f"the output must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, but is {output.name}")
    if output.is_dir():
        raise OutputError(f"the output {output} is a folder")


def line(row: Row, suffix: str) -> str:
    """A row as CSV, where what is missing is empty, or as JSON, where it is null; floats keep all digits."""
    if suffix == ".csv":
        return _csv_line([row[name] for name in COLUMNS])
    return json.dumps({name: None if row[name] == "" else row[name] for name in COLUMNS}) + "\n"


def header(suffix: str) -> str:
    """The line before all rows; empty where there is none."""
    return _csv_line(COLUMNS) if suffix == ".csv" else ""


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def begun(output: Path) -> bool:
    """Whether there are rows of an unfinished table."""
    return (_folder(output) / STATE).is_file()


def _folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


class Table:
    """A table that is being written, to be used with `with`; the file appears whole, by `finish`.

    Until then rows stand in the folder `<output>.part`: `rows.csv` or `rows.jsonl`, and `state.json`, which says what
    they are of, and how many rows and bytes are safely on the disk. What a kill left behind these is cut off when the
    same table is opened again, and `done` rows are there already.
    """

    def __init__(self, output: Path, about: Mapping[str, str]) -> None:
        """Begins the table, or goes on with it.

        Args:
            output: as `check_output` lets it pass.
            about: what the rows depend on: {what it is called: what it is}.

        Raises:
            OutputError: there are rows of something else, or another process is writing.
        """
        check_output(output)
        self.output, self.about = output, dict(about)
        self.folder = _folder(output)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._suffix = ".csv" if output.suffix.lower() == ".csv" else ".jsonl"
        self._rows, self._state = self.folder / f"rows{self._suffix}", self.folder / STATE
        self._lock = FileLock(self.folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise OutputError(f"another process is writing {output}: wait for it, or name another output") from None
        try:
            self.done, self.failed, size = self._there()
            self._file = self._rows.open("r+b" if size else "wb")
        except BaseException:
            self._lock.release()
            raise
        self._file.truncate(size)
        self._file.seek(size)
        if not size:
            self._file.write(header(self._suffix).encode())
        self._keep()

    def _there(self) -> tuple[int, int, int]:
        """Rows, failed ones among them, and bytes that are there already."""
        if not self._state.is_file():
            return 0, 0, 0
        state = json.loads(self._state.read_text(encoding="utf-8"))
        names = dict.fromkeys([*self.about, *state["about"]])
        other = [name for name in names if state["about"].get(name) != self.about.get(name)]
        if other:
            said = "; ".join(f"{name}: {state['about'].get(name)}, now {self.about.get(name)}" for name in other)
            raise OutputError(
                f"{self.folder} holds {state['rows']} rows of another table ({said}): name what it was begun with to "
                "go on, delete it to begin anew, or name another output"
            )
        if not self._rows.is_file():  # it was put in its place, and the kill came before the folder was deleted
            return 0, 0, 0
        if self._rows.stat().st_size < state["bytes"]:
            raise OutputError(f"{self.folder} has lost rows that were in it: begin anew by deleting it")
        return state["rows"], state["failed"], state["bytes"]

    def __enter__(self) -> Self:
        return self

    def add(self, row: Row) -> None:
        """Raises:
        OSError: the disk is full, or the like.
        """
        self._file.write(line(row, self._suffix).encode())
        self.done += 1
        self.failed += bool(row["error"])
        if time.monotonic() - self._kept > KEPT_SECONDS:
            self._keep()

    def _keep(self) -> None:
        """Rows first, then what says that they are there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"about": self.about, "rows": self.done, "failed": self.failed, "bytes": self._file.tell()}
        partial = self._state.with_suffix(".part")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._state)
        self._kept = time.monotonic()

    def finish(self) -> None:
        """Puts the table in its place, over what is there, and deletes the folder.

        Raises:
            OSError: the disk is full, or the like; the rows are kept.
        """
        self._keep()
        self._file.close()
        whole = self._rows
        if self.output.suffix.lower() == ".parquet":
            whole = self.folder / "whole.parquet"
            _to_parquet(self._rows, whole)
        whole.replace(self.output)
        _sync_folder(self.output.parent)
        self._lock.release()
        shutil.rmtree(self.folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            with self._file:
                self._keep()
        self._lock.release()


def _to_parquet(rows: Path, parquet: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"str": pa.string(), "float64": pa.float64(), "boolean": pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in TYPES.items()])
    texts = {name: "" for name, kind in TYPES.items() if kind == "str"}
    with rows.open(encoding="utf-8") as lines, parquet.open("wb") as file:
        with pq.ParquetWriter(file, schema) as writer:
            while group := list(islice(_read(lines, texts), ROW_GROUP)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _read(lines: Iterable[str], texts: Mapping[str, str]) -> Iterator[Row]:
    for one in lines:
        row = json.loads(one)
        yield {name: texts.get(name) if value is None else value for name, value in row.items()}


def _sync_folder(folder: Path) -> None:
    """So that a renamed file has its new name after a power cut too, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
