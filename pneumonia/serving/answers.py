"""The answers that served models noted (`served.answer_log`), read again, and the classes that came back for them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pneumonia.data import manifest
from pneumonia.served.answer_log import FIELDS


class AnswersError(ValueError):
    """A log or a table of labels that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Answers:
    """A row an answer, in the order of `time` (UTC), with the columns `FIELDS`; where an answer has no number it is
    NaN, and where it has no text, empty. `familiar` is 1.0, 0.0 or NaN.

    `unread` counts the lines that are no answers, such as those that a killed process left half-written.
    """

    table: pd.DataFrame
    unread: int = 0


def read(log: Path) -> Answers:
    """Reads a log: its folder, or one file of it.

    Raises:
        AnswersError: there is none, or it holds no answers.
    """
    files = sorted(log.glob("answers*.jsonl")) if log.is_dir() else [log] if log.is_file() else []
    if not files:
        raise AnswersError(f"there is no log of answers at {log}: looked for a file, or a folder with answers.jsonl")
    rows, unread = list[dict[str, object]](), 0
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in filter(str.strip, lines):
                try:
                    row = json.loads(line)
                    rows.append({name: row.get(name) for name in FIELDS})
                except (AttributeError, ValueError, RecursionError):
                    unread += 1
    table = pd.DataFrame(rows, columns=list(FIELDS))
    table["time"] = pd.to_datetime(table["time"], utc=True, errors="coerce", format="ISO8601")
    for name in ("probability", "familiarity", "familiar"):
        table[name] = pd.to_numeric(table[name], errors="coerce").astype("float64")
    for name in ("version", "sha256", "label", "error"):
        table[name] = table[name].fillna("").astype(str)
    whole = table["time"].notna() & ((table["error"] != "") | table["probability"].between(0, 1))
    unread += int((~whole).sum())
    if not whole.any():
        raise AnswersError(f"there are no answers in {log}")
    return Answers(table[whole].sort_values("time", kind="stable").reset_index(drop=True), unread)


def labels(path: Path, classes: tuple[str, str]) -> pd.DataFrame:
    """The classes of films that came back: `sha256`, `label` (1 positive) and `patient`, a row a film.

    Args:
        path: a CSV with the columns `label` and `sha256` (of the film's file), or `label` and `path` as in a manifest
            of films, which are read for their hashes; `patient` if it is known, else each film is its own.
        classes: negative and positive, by which the labels are called, in any case; 0 and 1 will do.

    Raises:
        AnswersError: a column is missing, a label is of neither class, or a film has both.
        DataError: as `manifest.read`.
        OSError: a film cannot be read.
    """
    manifest.check_bytes(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=None, engine="python", encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError):
        table = pd.DataFrame()
    table.columns = table.columns.str.strip().str.lower()
    if "sha256" not in table:
        films = manifest.read(path).films
        hashes = [hashlib.sha256(film.located(path.parent)[0].read_bytes()).hexdigest() for film in films]
        cells = [{"label": film.cells["label"], "patient": film.cells.get("patient", "")} for film in films]
        table = pd.DataFrame(cells).assign(sha256=hashes)
    if "label" not in table:
        raise AnswersError(f"{path} has no column label")
    named = {name.casefold(): number for number, name in enumerate(classes)} | {"0": 0, "1": 1}
    numbers = table["label"].str.strip().str.casefold().map(named)
    if numbers.isna().any():
        wrong = table["label"][numbers.isna()].iloc[0]
        raise AnswersError(f"{path} has the label {wrong!r}, which is neither {classes[0]} nor {classes[1]}")
    sha256 = table["sha256"].str.strip().str.lower()
    patient = table["patient"].str.strip() if "patient" in table else pd.Series("", index=table.index)
    found = pd.DataFrame({"sha256": sha256, "label": numbers.astype(int)})
    # A name that no hash can be, so that a film without a patient is no patient's.
    found["patient"] = patient.where(patient != "", "film " + sha256)
    found = found.drop_duplicates(["sha256", "label"])
    if (twice := found["sha256"].duplicated()).any():
        raise AnswersError(
            f"{path} says both {classes[0]} and {classes[1]} of one film: {found['sha256'][twice].iloc[0]}"
        )
    return found.reset_index(drop=True)


def versions(table: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Which rows of `Answers.table` are of a version that is called one of `names`, or do not say of which."""
    return table["version"].isin([*names, ""])
