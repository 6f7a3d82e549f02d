"""Where films stand: the layouts of folders and manifests, read into rows of path, split and class."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pneumonia.inventory import some, tally

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
FILMS = {".jpeg", ".jpg", ".png", ".dcm"}
REFUSED = {".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WebP"}

_MANIFEST_COLUMNS = ("path", "label", "patient", "split", "subtype")
_OPACITIES = re.compile(r"pneumoni|opaci|consolid|infiltrat|covid", re.IGNORECASE)
_NEGATIVE = re.compile(r"(normal|negative|healthy|controls?)\b|(no|non) ")


class DataError(ValueError):
    """The films cannot be used as they are; one sentence says what was looked for and what was found."""


@dataclass
class Found:
    """Films before they are read (path, split, class, and what a manifest adds), and what was passed over."""

    rows: list[dict[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    corrupt: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find(data: Path) -> tuple[Found, Path]:
    """The films of a folder or a manifest, and the folder that their paths start from.

    Raises:
        DataError: nothing there, no films, or a manifest that cannot be read.
    """
    if data.is_file():
        found, root = _manifest(data), data.parent
    elif data.is_dir():
        root = _root(data)
        found = _folder(root)
        if root != data:
            found.notes.append(f"the films are those of {root}")
    else:
        raise DataError(f"looked for a folder of films or a manifest, and there is nothing at {data}")
    if not found.rows:
        tail = f" ({tally(found.ignored)} ignored)" if found.ignored else ""
        missing = f"; of {len(found.corrupt):,} files named, none exists" if found.corrupt else ""
        raise DataError(f"looked for JPEG, PNG or DICOM films in {data} and found none{missing}{tail}")
    refused = {name: n for name, n in found.ignored.items() if name in REFUSED.values()}
    if refused:
        found.notes.append(f"{tally(refused)} not read: films must be JPEG, PNG or DICOM, so convert them")
    return found, root.absolute()


def classes_of(names: Iterable[str], data: Path) -> tuple[tuple[str, str], str | None]:
    """(negative, positive), and a note where only the alphabet could tell which is which."""
    spelt: dict[str, str] = {}
    for name in names:
        key = name.casefold()
        spelt.setdefault(key, name.upper() if key in ("normal", "pneumonia") else name)
    if len(spelt) != 2:
        raise DataError(
            f"looked for films of two classes in {data} and found {len(spelt)}: {some(sorted(spelt.values()))}"
        )
    first, last = sorted(spelt)
    negative = [key for key in (first, last) if _negative(key)]
    if len(negative) == 1:
        (low,) = negative
        return (spelt[low], spelt[last if low == first else first]), None
    note = f"{spelt[last]} is taken as the positive class, {spelt[first]} as the negative, by the alphabet"
    return (spelt[first], spelt[last]), None if (first, last) == ("0", "1") else note


def _negative(name: str) -> bool:
    return _NEGATIVE.match(re.sub(r"[\W_]+", " ", name.casefold()).strip()) is not None


def told_by_opacities(classes: tuple[str, str]) -> bool:
    """Whether the negative class is normal and the positive one ill by opacities of the lungs, as their names have it.

    Not so for two illnesses, nor where only the alphabet could tell which class is which.
    """
    negative, positive = classes
    return _negative(negative) and not _negative(positive) and _OPACITIES.search(positive) is not None


def _root(data: Path) -> Path:
    """The folder that holds train or test: `data`, or the one such folder up to two levels below it."""
    level = [data]
    for _ in range(3):
        hits = [folder for folder in level if {"train", "test"} & {sub.name.lower() for sub in _folders(folder)}]
        hits = [folder for folder in hits if folder.name == "chest_xray"] or hits
        if len(hits) == 1:
            return hits[0]
        if hits:
            names = ", ".join(folder.name for folder in hits)
            raise DataError(f"looked for one folder with train or test in {data} and found several ({names}): name one")
        level = [sub for folder in level for sub in _folders(folder)]
    there = [sub.name for sub in _folders(data)]
    raise DataError(
        f"looked for train or test, each with two class folders, in {data} and up to two levels below, "
        f"and found {('the folders ' + some(there)) if there else 'no folders'}"
    )


def _folder(root: Path) -> Found:
    found = Found()
    folded = 0
    for entry in _entries(root):
        name = entry.name.lower()
        if entry.name == "__MACOSX":
            found.ignored["__MACOSX"] += sum(1 for _ in _files(entry))
        elif name in SPLITS and entry.is_dir():
            for child in _entries(entry):
                if child.is_dir() and child.name == "__MACOSX":
                    found.ignored["__MACOSX"] += sum(1 for _ in _files(child))
                elif child.is_dir() and not child.name.startswith("."):
                    before = len(found.rows)
                    split = "test" if name == "test" else "train"
                    for path in _files(child):
                        row = {"path": path.relative_to(root).as_posix(), "split": split, "class": child.name}
                        _take(path, row, found)
                    folded += (len(found.rows) - before) * (name == "val")
                else:
                    found.ignored[_unwanted(child) or "outside the class folders"] += 1
        else:
            found.ignored[_unwanted(entry) or "outside train, val and test"] += 1
    if folded:
        found.notes.append(f"val ({folded:,} films) is counted as train: validation patients are chosen from both")
    return found


def _manifest(path: Path) -> Found:
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"looked for a folder or a CSV or Parquet manifest, and {path} is neither")
    try:
        if path.suffix.lower() == ".csv":
            # As text, so that a patient 007 stays 007 and a class called "None" stays a class.
            raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            raw = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pandas' and PyArrow's errors for damaged files are ValueErrors
        raise DataError(f"the manifest {path} cannot be read: {str(error).splitlines()[0]}") from error
    raw.columns = pd.Index([str(column).strip().lower() for column in raw.columns])
    missing = [column for column in ("path", "label") if column not in raw.columns]
    if missing:
        raise DataError(
            f"looked for the columns path and label in {path} and found {some(list(raw.columns))}: "
            f"{' and '.join(missing)} missing"
        )
    columns = {name: [_text(value) for value in raw[name]] for name in raw.columns if name in _MANIFEST_COLUMNS}
    found = Found()
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        cells = dict(zip(columns, values, strict=True))
        split = cells.get("split", "train").lower()
        blank = next((name for name in ("path", "label", "split") if cells.get(name, "-") == ""), None)
        if blank:
            raise DataError(f"film {number} of {path} has no {blank}")
        if split not in SPLITS:
            raise DataError(f"film {number} of {path} has the split {split!r}: it must be train, val or test")
        row = {"path": Path(cells["path"]).as_posix(), "split": split, "class": cells["label"]}
        row |= {name: cells[name] for name in ("patient", "subtype") if name in cells}
        _take(path.parent / cells["path"], row, found)
    return found


def _text(value: Any) -> str:
    """A cell as text: nothing for null, and no trace of a whole number having been stored as a float."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _take(path: Path, row: dict[str, str], found: Found) -> None:
    """Adds a film to what was found, or counts the file as ignored, or lists it as missing."""
    reason = _unwanted(path) or (None if path.suffix.lower() in FILMS else "not an image")
    if reason:
        found.ignored[reason] += 1
    elif path.is_file():
        found.rows.append(row)
    else:
        # Also what a pipe or a socket gets: opening one would wait for ever.
        found.corrupt.append((row["path"], "not a file" if path.exists() else "no such file"))


def _unwanted(path: Path) -> str | None:
    """Why a file cannot be a film, from its name alone."""
    if path.name == ".DS_Store":
        return ".DS_Store"
    if path.name.startswith("._"):
        return "._*"
    if "__MACOSX" in path.parts:
        return "__MACOSX"
    if path.name.startswith("."):
        return "hidden"
    if not path.name.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in path.name):
        return "name that is not text"
    return REFUSED.get(path.suffix.lower())


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _folders(folder: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return [entry for entry in _entries(folder) if entry.is_dir() and not entry.name.startswith(hidden)]


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder in a fixed order. Links are followed, each folder once, so that a loop ends."""
    seen: set[tuple[int, int]] = set()
    stack = [folder]
    while stack:
        here = stack.pop()
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        entries = _entries(here)
        stack += [entry for entry in reversed(entries) if entry.is_dir()]
        yield from (entry for entry in entries if not entry.is_dir())
