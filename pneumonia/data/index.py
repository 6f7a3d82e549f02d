"""Which films there are: a folder or a manifest becomes an `Index`, one row a film, with split, label and patient."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pneumonia.data.classes import choose
from pneumonia.data.duplicates import drop_duplicates, drop_leaks
from pneumonia.data.file_kinds import DataError
from pneumonia.data.inventory import Group, Report
from pneumonia.data.layouts import SPLITS, Split, find
from pneumonia.data.patients import name_patients
from pneumonia.data.split import assign_val, keep_or_merge_val

__all__ = ["DataError", "Group", "Index", "Report", "Split", "assign_val", "require", "scan"]

COLUMNS = ("path", "split", "label", "patient", "subtype", "bytes", "sha256")
TOGETHER = 64  # films per task of a thread: handing them out one by one costs as much as reading them


@dataclass(frozen=True)
class Index:
    """The films in use.

    `table` has a RangeIndex and the columns path (relative to `root`, forward slashes; absolute where a manifest points
    elsewhere), split ('train', 'val', 'test'), label (0, 1), patient, subtype ('' if unknown), bytes and sha256.
    `classes` is (negative, positive). `fingerprint` (64 hex digits) stands for the content: it does not depend on paths
    or the order of files. `any_dicom`: films are read also where a DICOM says that it is no chest radiograph.
    """

    table: pd.DataFrame
    classes: tuple[str, str]
    root: Path
    fingerprint: str
    report: Report
    any_dicom: bool = False

    def only(self, split: Split) -> pd.DataFrame:
        """The rows of one split; their index says where they stand in `table`."""
        return self.table[self.table["split"] == split]

    def keep(self, *splits: Split) -> "Index":
        """The index of these splits alone; fingerprint and report still speak of all films."""
        return replace(self, table=self.table[self.table["split"].isin(splits)].reset_index(drop=True))

    def without(self, corrupt: Sequence[tuple[str, str]]) -> "Index":
        """The index without films that turned out to be corrupt ((path, reason) each); its report lists them."""
        table = self.table[~self.table["path"].isin([path for path, _ in corrupt])].reset_index(drop=True)
        report = replace(
            self.report,
            used=len(table),
            corrupt=self.report.corrupt + tuple(corrupt),
            counts=_counts(table, self.classes),
        )
        return replace(self, table=table, report=report)


def scan(
    data: str | Path,
    *,
    positive: str | None = None,
    like: tuple[str, str] | None = None,
    any_dicom: bool = False,
    one_split: bool = False,
    fetch_to: Path | None = None,
    progress: bool = False,
) -> Index:
    """Finds the films of a folder or a manifest, reads each once for its SHA-256, and chooses the validation films.

    A folder holds `train`, `val` and `test`, or some of them, each with two class folders; other words for these are
    known, in any case (`layouts.split_of`). It may also be one or two levels further down, as in the parent of
    `chest_xray`. A manifest is a CSV or Parquet table with the columns path (relative to it) and label, and optionally
    patient, split and subtype. `~` is the user's home. A path may be an address: then the film is fetched.

    A film in two splits stays in test before val before train; of identical films within train one stays, or none if
    their labels differ. Test films are never left out for being alike.

    Validation films are whole patients, see `assign_val`. A manifest's own val split is kept as it is; a folder's is
    kept if it has `ENOUGH` films of each class and no patient of train. Kaggle's, of 16 films, is counted as train.

    Args:
        positive: the class that is positive; by the names of both where None (`classes.choose`).
        like: (negative, positive) of a model; decides where the films have the same classes.
        any_dicom: whether to read films, later, whose DICOM says that it is not a chest radiograph.
        one_split: whether a folder may also hold two class folders alone, all of one split, train.
        fetch_to: a folder for films that a manifest names by addresses; they are fetched once (`remote.fetch`).

    Raises:
        DataError: nothing there, no films, not two classes, nothing to tell which is positive, or a manifest that
            cannot be read.
    """
    data = Path(os.path.expanduser(data))
    found, root = find(data, one_split=one_split, fetch_to=fetch_to, progress=progress)
    try:
        choice = choose([row["class"] for row in found.rows], data, positive=positive, like=like)
    except DataError as error:
        raise DataError(str(error), found.report()) from None
    classes = choice.classes
    table, unreadable = _hash(found.rows, root, progress)
    if table.empty:
        raise DataError(
            f"none of the {len(unreadable):,} films in {data} can be read; the first: {unreadable[0][1]}",
            found.report(),
        )
    table["label"] = (table.pop("class").str.casefold() == classes[1].casefold()).astype("int64")
    nameless, exported = name_patients(table)
    if exported:
        found.regrouped = True
        found.version_changes.append("each film of a Roboflow export was its own patient")
    if nameless:
        found.notes.append(f"{nameless:,} films have no patient number in their names: each is its own patient")
    if found.val_folders:
        table = keep_or_merge_val(table, found)
    table, leaks = drop_leaks(table)
    table, duplicates = drop_duplicates(table)
    explicit_val = bool((table["split"] == "val").any())
    fingerprint = _fingerprint(table, classes, any_dicom=any_dicom, swapped=choice.swapped, regrouped=found.regrouped)
    if not explicit_val:
        table = assign_val(table)
    if choice.swapped:
        found.version_changes.append(f"{classes[0]} was the positive class")
    if found.version_changes:
        found.notes.insert(
            0,
            f"versions before 0.2 read this data differently: {'; '.join(found.version_changes)}; "
            "their models and studies are of other films",
        )
    table = table[list(COLUMNS)].reset_index(drop=True)
    report = Report(
        found=len(found.rows) + len(found.corrupt),
        used=len(table),
        classes=classes,
        ignored=dict(sorted(found.ignored.items())),
        duplicates=duplicates,
        leaks=leaks,
        corrupt=(*found.corrupt, *unreadable),
        notes=tuple(found.notes),
        counts=_counts(table, classes),
    )
    return Index(table, classes, root, fingerprint, report, any_dicom)


def scan_unlabelled(paths: Sequence[Path], root: Path, classes: tuple[str, str], *, any_dicom: bool = False) -> Index:
    """The index of films whose classes are not known: all are of the split train and of the label -1, and each is a
    patient of its own. Of identical films one stays.

    Args:
        root: the folder that paths are told relative to.
        classes: of the model that is to score them.

    Raises:
        DataError: none can be read.
    """
    rows = [{"path": os.path.relpath(path, root), "split": "train"} for path in paths]
    table, unreadable = _hash(rows, root, progress=False)
    if table.empty:
        raise DataError(f"none of the {len(unreadable):,} films can be read; the first: {unreadable[0][1]}")
    table = table.drop_duplicates("sha256").assign(label=-1)
    table["patient"] = table["sha256"].str[:16]
    table = table[list(COLUMNS)].reset_index(drop=True)
    content = "\n".join(sorted(table["sha256"])) + "\nunlabelled" + "\nany DICOM" * any_dicom
    report = Report(
        found=len(rows),
        used=len(table),
        classes=classes,
        ignored={},
        duplicates=(),
        leaks=(),
        corrupt=tuple(unreadable),
        notes=("their classes are not known",),
        counts=(),
    )
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return Index(table, classes, root.absolute(), fingerprint, report, any_dicom)


def require(index: Index, split: Split) -> None:
    """Checks that a split can be used for what it is for.

    Raises:
        DataError: the split has no films, or those of one class only.
    """
    labels = set(index.only(split)["label"])
    if labels != {0, 1}:
        there = [
            f"{row['films']:,} {row['split']} {row['class']} {row['subtype']}".strip() for row in index.report.counts
        ]
        looked = f"looked for {split} films of {index.classes[0]} and {index.classes[1]} in {index.root}"
        raise DataError(f"{looked}, found {', '.join(there) or 'none'}")


# --- reading and cleaning


def _hash(rows: list[dict[str, str]], root: Path, progress: bool) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The rows in the order of their paths, with bytes and sha256; and the films that could not be read."""

    def read(path: str) -> tuple[int, str] | str:
        digest, length = hashlib.sha256(), 0
        try:
            with open(os.path.join(root, path), "rb", buffering=0) as file:
                while part := file.read(1 << 20):
                    digest.update(part)
                    length += len(part)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return length, digest.hexdigest()

    rows = sorted(rows, key=lambda row: row["path"])
    paths = [row["path"] for row in rows]
    some = [paths[first : first + TOGETHER] for first in range(0, len(paths), TOGETHER)]
    answers: list[tuple[int, str] | str] = []
    with (
        ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as threads,
        tqdm(total=len(paths), desc="reading films", unit="film", disable=not progress) as bar,
    ):
        for part in threads.map(lambda these: [read(path) for path in these], some):
            answers += part
            bar.update(len(part))
    unreadable = [(row["path"], got) for row, got in zip(rows, answers, strict=True) if isinstance(got, str)]
    full = [
        {"patient": "", "subtype": "", **row, "bytes": got[0], "sha256": got[1]}
        for row, got in zip(rows, answers, strict=True)
        if not isinstance(got, str)
    ]
    return pd.DataFrame(full), unreadable


def _fingerprint(
    table: pd.DataFrame, classes: tuple[str, str], *, any_dicom: bool, swapped: bool, regrouped: bool
) -> str:
    rows = [
        f"{split}\t{classes[label]}\t{sha256}"
        for split, label, sha256 in zip(table["split"], table["label"], table["sha256"], strict=True)
    ]
    rows += ["any DICOM"] * any_dicom  # decides which of them can be read
    rows += ["turned"] * swapped  # the same films with the classes the other way round
    rows += ["regrouped"] * regrouped  # other patients, so another validation split
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _counts(table: pd.DataFrame, classes: tuple[str, str]) -> tuple[dict[str, str | int], ...]:
    groups = table.groupby(["split", "label", "subtype"])["patient"].agg(["size", "nunique"]).reset_index()
    rows = [
        {
            "split": split,
            "class": classes[label] if label >= 0 else "unknown",
            "subtype": subtype,
            "films": films,
            "patients": patients,
        }
        for split, label, subtype, films, patients in groups.to_numpy(dtype=object).tolist()
    ]
    return tuple(sorted(rows, key=lambda row: SPLITS.index(row["split"])))
