"""A manifest: a CSV or Parquet table of films, read as people write them."""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.data.file_kinds import DataError
from pneumonia.data.inventory import some

SUFFIXES = (".csv", ".tsv", ".parquet")
# Of a table that comes from outside: none may fill the memory, whatever its bytes unpack to.
MAX_BYTES = 256 << 20  # of the file, and of a Parquet's known columns when they are unpacked
MAX_CELLS = 20_000_000  # rows times columns, those at a short row's end included

_COLUMNS = ("path", "label", "patient", "split", "subtype")
_DELIMITERS = ",;\t|"
_UNKNOWN = {"", "n/a", "na", "#n/a", "nan", "<na>", "none", "null", "nil", "-", "--", "?", "unknown", "anonymous"}


@dataclass(frozen=True)
class Film:
    """A row: its place in words, and its cells by column: path, label, and patient, split and subtype where given."""

    where: str
    cells: dict[str, str]

    def located(self, folder: Path) -> tuple[Path, str]:
        """The file, and its path from the folder of the manifest with forward slashes, as Windows' are read too."""
        named = self.cells["path"]
        path = folder / named
        if "\\" in named and not os.path.exists(path):
            named = named.replace("\\", "/")
            path = folder / named
        return path, Path(named).as_posix()


@dataclass(frozen=True)
class Manifest:
    """The films that a manifest names, in its order, and notes on it."""

    films: list[Film]
    unknown: int = 0  # films whose patient is said to be N/A or the like
    notes: list[str] = field(default_factory=list)


def read(path: Path, *, labels: bool = True) -> Manifest:
    """Reads a manifest.

    A CSV may have commas, semicolons, tabs or bars between its cells, be UTF-8, UTF-16 or Latin-1, and have a delimiter
    at each row's end. Columns are known in any case. A patient that is N/A or the like is not known, nor is one who has
    all films; a split that is N/A in every row counts as not given.

    Args:
        labels: whether the column label must be there.

    Raises:
        DataError: it cannot be read, is too large, lacks a column, or a cell; the sentence names row and column.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"looked for a folder or a CSV or Parquet manifest, and {path} is neither")
    check_bytes(path)
    header, rows, wheres = _parquet(path) if suffix == ".parquet" else _csv(path)
    columns = _columns(header, rows, wheres, path)
    if not labels:
        columns["label"] = ["unknown"] * len(rows)
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        there = some([title for title in header if title])
        raise DataError(
            f"looked for the columns path and label in {path} and found {there}: {' and '.join(missing)} missing"
        )
    if not rows:
        raise DataError(f"looked for films in {path} and found none: it has a header, but no rows")
    unknown, notes = 0, list[str]()
    if _all_unknown(columns.get("split", ())):
        del columns["split"]
    if "patient" in columns:
        columns["patient"], unknown, notes = _patients(columns["patient"], columns["label"])
    films = [
        Film(where, dict(zip(columns, cells, strict=True)))
        for where, cells in zip(wheres, zip(*columns.values(), strict=True), strict=True)
    ]
    for film in films:
        blank = next((name for name in ("path", "label", "split") if film.cells.get(name) == ""), None)
        if blank:
            raise DataError(f"{film.where} has no {blank}")
    return Manifest(films, unknown, notes)


def check_bytes(path: Path) -> None:
    """Raises:
    DataError: a table's file is larger than is read.
    """
    with suppress(OSError):  # which is said where it is read
        if os.stat(path).st_size > MAX_BYTES:
            raise _too_large(path, f"its file has more than {MAX_BYTES >> 20} MiB")


def _too_large(path: Path, why: str) -> DataError:
    return DataError(f"the table {path} is too large to be read, {why}: split it")


def _all_unknown(values: Sequence[str]) -> bool:
    return bool(values) and all(value.casefold() in _UNKNOWN for value in values)


def _patients(patients: list[str], labels: list[str]) -> tuple[list[str], int, list[str]]:
    """The patients, '' for those that are not known; how many of these are N/A or the like; and a note on it."""
    known = ["" if patient.casefold() in _UNKNOWN else patient for patient in patients]
    if len(set(known)) == 1 and known[0] and len({label.casefold() for label in labels}) > 1:
        note = f"every film is said to be of the patient {known[0]}, which is taken as not known"
        return [""] * len(known), len(known), [note]
    words = [patient for patient, name in zip(patients, known, strict=True) if patient and not name]
    if not words:
        return known, 0, []
    note = f"{len(words):,} films have no patient in the manifest, but {some(sorted(set(words)))}"
    return known, len(words), [note]


def _columns(header: list[str], rows: list[list[str]], wheres: list[str], path: Path) -> dict[str, list[str]]:
    """The columns that are known, by name. Of two that have one name, in whatever case, the cells must agree."""
    found: dict[str, tuple[str, list[str]]] = {}
    for number, title in enumerate(header):
        name = title.strip().lower()
        if name not in _COLUMNS:
            continue
        cells = [row[number] for row in rows]
        if name not in found:
            found[name] = title, cells
            continue
        first, others = found[name]
        for where, one, other in zip(wheres, others, cells, strict=True):
            if one != other:
                raise DataError(
                    f"{path} has the column {name} twice, as {first} and {title}, and {where} has {one!r} in one and "
                    f"{other!r} in the other: leave one out"
                )
    return {name: cells for name, (_, cells) in found.items()}


def _parquet(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    try:
        table = _read_parquet(path)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # PyArrow's errors for damaged files are ValueErrors
        raise _unreadable(path, str(error).splitlines()[0]) from error
    wheres = [f"film {number} of {path.name}" for number in range(1, len(table) + 1)]
    header = [str(column) for column in table.columns]
    known = [number for number, title in enumerate(header) if title.strip().lower() in _COLUMNS]
    columns = []
    for number in known:
        values = table.iloc[:, number].tolist()
        for where, value in zip(wheres, values, strict=True):
            if not pd.api.types.is_scalar(value) or isinstance(value, bytes):
                raise DataError(f"{where} has {type(value).__name__} in the column {header[number]}, not text")
        columns.append([_text(value) for value in values])
    rows = [list(cells) for cells in zip(*columns, strict=True)] if columns else [[] for _ in wheres]
    return ([header[number] for number in known] if columns else header), rows, wheres


def _read_parquet(path: Path) -> pd.DataFrame:
    """The columns that are known, or the names of all where none is."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        schema, about = file.schema_arrow, file.metadata
    known = [name for name in schema.names if name.strip().lower() in _COLUMNS]
    if not known:
        return pd.DataFrame(columns=schema.names)
    if about.num_rows * len(known) > MAX_CELLS:
        raise _too_large(path, f"it has {about.num_rows:,} rows")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    parts = [group.column(number) for group in groups for number in range(group.num_columns)]
    unpacked = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in known)
    if unpacked > MAX_BYTES:
        raise _too_large(path, f"it unpacks to more than {MAX_BYTES >> 20} MiB")
    # A text that stands in all rows is in the file once, and stays so: in rows of their own its copies fill any memory.
    flat = sorted({part.path_in_schema for part in parts}.intersection(known))
    with pyarrow.parquet.ParquetFile(path, read_dictionary=flat) as file:
        table = file.read(columns=known)
    if sum(_letters(chunk) for column in table.columns for chunk in column.chunks) > MAX_BYTES:
        raise _too_large(path, f"it unpacks to more than {MAX_BYTES >> 20} MiB")
    found: pd.DataFrame = table.to_pandas()
    return found


def _letters(chunk: Any) -> int:
    """The bytes that a part of a column takes when each row has its own text."""
    import pyarrow.compute

    types = pyarrow.types
    if not types.is_dictionary(chunk.type) or types.is_primitive(chunk.type.value_type):
        return int(chunk.nbytes)
    lengths = pyarrow.compute.binary_length(chunk.dictionary)
    return int(pyarrow.compute.sum(lengths.take(chunk.indices)).as_py() or 0)


def _text(value: Any) -> str:
    """A cell as text: nothing for null, and no trace of a whole number having been stored as a float."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _csv(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows of as many cells, and the place of each row in words."""
    try:
        text = _decode(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    if not text.strip():
        raise _unreadable(path, "it is empty")
    if any(unicodedata.category(letter) in ("Cn", "Cs") or letter == "\x00" for letter in set(text)):
        raise _unreadable(path, "it is no text")
    separated = re.match(r'"?sep=(.)"?\r?\n', text)  # what Excel writes and reads
    skipped = 0 if separated is None else 1
    text = text if separated is None else text[separated.end() :]
    delimiter = _delimiter(text) if separated is None else separated[1]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] | None = None
    rows, wheres = list[list[str]](), list[str]()
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if header is None:
                header = cells
                continue
            if (len(rows) + 1) * len(header) > MAX_CELLS:
                raise _too_large(path, f"it has more than {MAX_CELLS:,} cells in {len(header):,} columns")
            where = f"film {len(rows) + 1} of {path.name} (line {reader.line_num + skipped})"
            if any(cells[len(header) :]):
                named = [title for title in header if title]
                raise DataError(
                    f"{where} has {len(cells)} cells, but there are {len(header)} columns, "
                    f"{some(named)}: a cell that holds the delimiter {delimiter!r} must be in double quotes"
                )
            rows.append([*cells, *[""] * len(header)][: len(header)])
            wheres.append(where)
    except csv.Error as error:
        raise _unreadable(path, f"line {reader.line_num + skipped}: {error}") from error
    return header or [], rows, wheres


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    if len(data) > 1 and 0 in data[:2]:
        return data.decode("utf-16-le" if data[1] == 0 else "utf-16-be", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _delimiter(text: str) -> str:
    """The delimiter that gives the columns path and label, or else the most columns."""

    def score(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        try:
            cells = next(cells for cells in reader if any(cells))
        except (csv.Error, StopIteration):
            return 0, 0
        known = {cell.strip().lower() for cell in cells} & {*_COLUMNS}
        return len(known), len(cells)

    return max(_DELIMITERS, key=score)


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(f"the manifest {path} cannot be read: {why}")
