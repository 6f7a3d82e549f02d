"""Finds films in folders of known layouts and in manifests, as rows of path, split and class."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pneumonia.data import file_kinds, manifest, remote
from pneumonia.data.file_kinds import REFUSED, DataError, aside, entries
from pneumonia.data.inventory import LONG, some, tally
from pneumonia.runtime.messages import shortened
from pneumonia.runtime.secrets import masked

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")

_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_FILLER = re.compile(r"(data)?set|data|split|folder|images|imgs|films|xrays?")


@dataclass
class Found:
    """Films before they are read (path, split, class, and what a manifest adds), and what was skipped.

    `val_folders` are the folders of the validation split. `version_changes` say what versions before 0.2 made
    differently of the same files, `new_kinds` counts films in formats that they did not read, and `regrouped` says that
    they grouped films into patients differently.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    corrupt: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    val_folders: list[str] = field(default_factory=list)
    version_changes: list[str] = field(default_factory=list)
    new_kinds: Counter[str] = field(default_factory=Counter)
    regrouped: bool = False

    def report(self) -> list[str]:
        """Lines on what was skipped, for an error that says that the rest cannot be used."""
        ignored = [f"ignored files: {tally(self.ignored)}"] if self.ignored else []
        return [*ignored, *(f"note: {note}" for note in self.notes)]


def find(
    data: Path, *, one_split: bool = False, fetch_to: Path | None = None, progress: bool = False
) -> tuple[Found, Path]:
    """The films of a folder or a manifest, and the folder that their paths are relative to.

    Args:
        one_split: whether a folder may also hold two class folders alone, all of one split, train.
        fetch_to: a folder for films that a manifest names by addresses (`remote.fetch`).

    Raises:
        DataError: nothing there, no films, or a manifest that cannot be read.
        DiskFullError: as `remote.fetch`.
    """
    if data.is_file():
        found, root = _manifest(data, fetch_to, progress)
    elif data.is_dir() and one_split and _holds_classes(data):
        root, found = data, Found()
        _classes(data, data, "train", found)
    elif data.is_dir():
        root = _root(data)
        found = _folder(root)
        if root != data:
            found.notes.append(f"the films are those of {root}")
    else:
        raise DataError(f"looked for a folder of films or a manifest, and there is nothing at {data.absolute()}")
    refused = {name: n for name, n in found.ignored.items() if name in REFUSED.values()}
    if refused:
        found.notes.append(f"{tally(refused)} not read: films must be JPEG, PNG or DICOM, so convert them")
    if not found.rows:
        tail = f" ({tally(found.ignored)} ignored)" if found.ignored else ""
        missing = ""
        if found.corrupt:
            tried = " and ".join(
                f"{shortened(path if remote.is_address(path) else str(root.absolute() / path), LONG)} ({why})"
                for path, why in found.corrupt[:2]
            )
            missing = f"; of {len(found.corrupt):,} files named, none exists: tried {tried}"
        raise DataError(f"looked for JPEG, PNG or DICOM films in {data} and found none{missing}{tail}", found.report())
    if found.new_kinds:
        found.version_changes.append(f"{tally(found.new_kinds)} were left out")
    return found, root.absolute()


def split_of(name: str) -> Split | None:
    """The split that a folder's name or a manifest's word means, in any case: Training, valid, DEV, TestSet, 02_val."""
    words = [word for word in re.split(r"[\W_]+", name.casefold()) if word]
    if len(words) > 1 and words[0].isdecimal():
        words = words[1:]
    kept = [word for word in words if not _FILLER.fullmatch(word)]
    return _WORDS.get(re.sub(rf"({_FILLER.pattern})$", "", kept[0])) if len(kept) == 1 else None


def _root(data: Path) -> Path:
    """The folder that holds train or test: `data`, or the one such folder up to two levels below it."""
    level = [data]
    for _ in range(3):
        hits = [folder for folder in level if _holds_splits(folder)]
        hits = [folder for folder in hits if folder.name == "chest_xray"] or hits
        if len(hits) == 1:
            return hits[0]
        if hits:
            names = ", ".join(folder.name for folder in hits)
            raise DataError(f"looked for one folder with train or test in {data} and found several ({names}): name one")
        level = [sub for folder in level for sub in _folders(folder)]
    folders, single = [sub.name for sub in _folders(data)], _kinds(entries(data)[1])
    there = [f"the folders {some(folders)}"] * bool(folders) + [tally(single)] * bool(single)
    raise DataError(
        f"looked for train or test, each with two class folders, in {data} and up to two levels below, "
        f"and found {' and '.join(there) or 'no folders'}"
        + ("; put the class folders into a folder called train, or write a manifest" if folders else "")
    )


def _holds_splits(folder: Path) -> bool:
    """Whether a folder holds train or test, and is not one level above such folders. A folder with another word for
    them, which may mean something else, must hold two class folders.
    """
    for sub in _folders(folder):
        inside = _folders(sub)
        if (
            split_of(sub.name) in ("train", "test")
            and (sub.name.lower() in ("train", "test") or len(inside) > 1)
            and not any(split_of(below.name) in ("train", "test") for below in inside)
        ):
            return True
    return False


def _holds_classes(folder: Path) -> bool:
    """Whether a folder holds two folders of films, and none of a split."""
    subs = _folders(folder)
    filled = [sub for sub in subs if file_kinds.below(sub)[0]]
    return len(filled) == 2 and not any(split_of(sub.name) for sub in subs) and not any(map(_holds_splits, subs))


def _kinds(paths: list[Path]) -> Counter[str]:
    """Files by their suffixes, in words."""
    return Counter(f"{path.suffix.lower() or 'other'} files" for path in paths if not path.name.startswith("."))


def _folder(root: Path) -> Found:
    found = Found()
    folders, single = entries(root)
    of_split: dict[Split, list[str]] = {}
    _count_stray(single, root, "outside train, val and test", found)
    for folder in folders:
        split = split_of(folder.name)
        if folder.name == "__MACOSX":
            found.ignored += Counter({"__MACOSX": file_kinds.count(folder)[0]})
        elif folder.name.startswith("."):
            found.ignored["hidden"] += 1
        elif split is None:
            inside, films = file_kinds.count(folder)
            found.ignored += Counter({"outside train, val and test": inside})
            if films:
                found.notes.append(
                    f"{folder.name} ({films:,} films) is no folder of training, validation or test films by its name, "
                    "and is not used"
                )
        else:
            of_split.setdefault(split, []).append(folder.name)
            before = len(found.rows)
            _classes(folder, root, split, found)
            taken = len(found.rows) - before
            if folder.name.lower() not in SPLITS and taken:
                found.version_changes.append(f"the {taken:,} films of {folder.name} were left out")
    found.val_folders = of_split.get("val", [])
    for split, names in of_split.items():
        if len(names) > 1:
            found.notes.append(f"{' and '.join(names)} are all {split} films")
    return found


def _classes(folder: Path, root: Path, split: Split, found: Found) -> None:
    """Takes the films of the class folders of a split."""
    folders, single = entries(folder)
    _count_stray(single, folder, "outside the class folders", found)
    names = [one.name for one in folders]
    for one in folders:
        why = aside(one.name, names)
        if why is not None:
            found.ignored += Counter({why: file_kinds.count(one)[0]})
            continue
        paths, passed = file_kinds.below(one)
        found.ignored += passed
        formerly = sum(n for name, n in passed.items() if name != "__MACOSX")
        if formerly:
            found.version_changes.append(
                f"{formerly:,} files {_where(passed)} of {folder.name}/{one.name} were taken for films"
            )
        for path in paths:
            row = {"path": path.relative_to(root).as_posix(), "split": split, "class": one.name.strip()}
            _add_film(path, row, found)


def _count_stray(paths: list[Path], folder: Path, where: str, found: Found) -> None:
    """Counts the files of a folder that should hold only folders, and notes the films among them."""
    found.ignored += Counter(_why_unprintable(path) or file_kinds.why_unwanted(path) or where for path in paths)
    films = sum(file_kinds.is_film(path) for path in paths)
    if films:
        found.notes.append(f"{films:,} films directly in {folder.name}, {where}, are not used")


def _where(passed: Counter[str]) -> str:
    return some([name if name.startswith("in ") else f"({name})" for name in passed if name != "__MACOSX"])


def _manifest(path: Path, fetch_to: Path | None, progress: bool) -> tuple[Found, Path]:
    """The films of a manifest, and its folder or, where all are named by addresses, that of the fetched ones: their
    paths are then the same on all machines.
    """
    table = manifest.read(path)
    fetched = _fetched([film.cells["path"] for film in table.films], path, fetch_to, progress)
    root = path.parent
    if fetch_to is not None and len(fetched) == len({film.cells["path"] for film in table.films}):
        root = fetch_to
    found = Found(notes=list(table.notes), regrouped=table.unknown > 1)
    if found.regrouped:
        found.version_changes.append(f"the {table.unknown:,} films whose patient is not known were all of one")
    for film in table.films:
        word = film.cells.get("split", "train")
        split = split_of(word)
        if split is None:
            raise DataError(f"{film.where} has the split {word!r}: it must be train, val or test")
        if (got := fetched.get(film.cells["path"])) is None:
            at, named = film.located(path.parent)
        elif isinstance(got, Path):
            at, named = got, (got.relative_to(root) if root == fetch_to else got.absolute()).as_posix()
        else:
            found.corrupt.append((masked(film.cells["path"]), f"{got}; {film.where}, column path"))
            continue
        row = {"path": named, "split": split, "class": film.cells["label"]}
        row |= {name: film.cells[name] for name in ("patient", "subtype") if name in film.cells}
        if "__MACOSX" in Path(named).parts:
            found.ignored["__MACOSX"] += 1
        else:
            before = len(found.rows)
            _add_film(at, row, found, where=film.where)
            if "\\" in film.cells["path"] and "\\" not in named:
                found.new_kinds["films with backslashes in their paths"] += len(found.rows) - before
    return found, root


def _fetched(named: list[str], path: Path, fetch_to: Path | None, progress: bool) -> dict[str, Path | str]:
    """The films among those of the manifest `path` that are named by addresses: their files, or why they have none."""
    addresses = [name for name in named if remote.is_address(name)]
    if not addresses:
        return {}
    if fetch_to is None:
        raise DataError(
            f"{path} names films by addresses, such as {masked(addresses[0])}: say where they are fetched to"
        )
    return remote.fetch(addresses, fetch_to, progress=progress)


def _add_film(path: Path, row: dict[str, str], found: Found, *, where: str = "") -> None:
    """Adds a film to what was found, or counts the file as ignored, or lists it as missing, with `where` it was
    named.
    """
    named = f"; {where}, column path" if where else ""
    try:
        there = path.is_file()  # opening a pipe or a socket would block
        reason = _why_unprintable(path) or (file_kinds.why_not_film(path) if there else file_kinds.why_unwanted(path))
    except (OSError, ValueError) as error:  # a name of more than 255 bytes, for one
        found.corrupt.append((row["path"], (getattr(error, "strerror", None) or str(error)) + named))
        return
    if reason:
        found.ignored[reason] += 1
    elif there:
        found.rows.append(row)
        if path.suffix.lower() not in (".jpeg", ".jpg", ".png", ".dcm"):
            suffix = path.suffix.lower()
            found.new_kinds[
                f"{suffix} films" if file_kinds.has_known_suffix(path) else "films told by their content"
            ] += 1
    else:
        found.corrupt.append((row["path"], ("not a file" if path.exists() else "no such file") + named))


def _why_unprintable(path: Path) -> str | None:
    """Why a file's name cannot be written to a table; None if it can."""
    text = path.name.isprintable() and not any("\ud800" <= letter <= "\udfff" for letter in path.name)
    return None if text else "name that is not text"


def _folders(folder: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return [entry for entry in entries(folder)[0] if not entry.name.startswith(hidden)]
