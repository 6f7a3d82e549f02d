"""Which films there are: a folder or a manifest becomes an `Index`, one row a film, with split, label and patient."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pneumonia.data.classes import choose
from pneumonia.data.file_kinds import DataError
from pneumonia.data.inventory import Group, Report
from pneumonia.data.layouts import SPLITS, Found, Split, find

__all__ = ["DataError", "Group", "Index", "Report", "Split", "assign_val", "require", "scan"]

COLUMNS = ("path", "split", "label", "patient", "subtype", "bytes", "sha256")
VAL_SHARE = 0.15
ENOUGH = 30  # films a class that a folder's own validation split must have to choose anything
TOGETHER = 64  # films that a thread reads at a time: one by one, handing them out costs as much as reading them
# Constant, so that every run, whatever its seed, is measured on the same patients; another salt is another split.
VAL_SALT = "pneumonia-val-1"

_PERSON = re.compile(r"(person\d+)_(bacteria|virus)(?:_|$)", re.IGNORECASE)
_IM = re.compile(r"(?:NORMAL2-)?(IM-\d+)(?:-|$)", re.IGNORECASE)
_ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9a-z]{6,}\.\w+", re.IGNORECASE)  # its export makes several films of one


@dataclass(frozen=True)
class Index:
    """The films in use.

    `table` has a RangeIndex and the columns path (relative to `root`, forward slashes; absolute where a manifest
    points elsewhere), split ('train', 'val', 'test'), label (0, 1), patient, subtype ('' if unknown), bytes and
    sha256. `classes` is (negative, positive). `fingerprint` (64 hex digits) stands for the content: it knows neither
    paths nor the order of files. `any_dicom`: films are read also where a DICOM says that it is no chest radiograph.
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
    progress: bool = False,
) -> Index:
    """Finds the films of a folder or a manifest, reads each once for its SHA-256, and chooses the validation films.

    A folder holds `train`, `val` and `test`, or some of them, each with two class folders; other words for these are
    known, in any case (`layout.split_of`). It may also be one or two levels further down, as in the parent of
    `chest_xray`. A manifest is a CSV or Parquet table with the columns path (relative to it) and label, and optionally
    patient, split and subtype. `~` is the user's home.

    A film in two splits stays in test before val before train; of identical films within train one stays, or none if
    their labels differ. Test films are never left out for being alike.

    Validation films are whole patients, see `assign_val`; a manifest's own val split is kept as it is, a folder's if it
    can choose: with `ENOUGH` films of each class, and no patient of train among them. Kaggle's of 16 films is counted
    as train.

    Args:
        positive: the class that is positive; by the names of both where None (`classes.choose`).
        like: (negative, positive) of a model; decides where the films have the same classes.
        any_dicom: lets films be read, later, whose DICOM says that it is no chest radiograph.

    Raises:
        DataError: nothing there, no films, not two classes, nothing to tell which is positive, or a manifest that
            cannot be read.
    """
    data = Path(os.path.expanduser(data))
    found, root = find(data)
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
    nameless, exported = _name_patients(table)
    if exported:
        found.regrouped = True
        found.turns.append("each film of a Roboflow export was its own patient")
    if nameless:
        found.notes.append(f"{nameless:,} films have no patient number in their names: each is its own patient")
    if found.val_folders:
        table = _settle_val(table, found)
    table, leaks = _drop_leaks(table)
    table, duplicates = _drop_duplicates(table)
    explicit_val = bool((table["split"] == "val").any())
    fingerprint = _fingerprint(table, classes, any_dicom=any_dicom, turned=choice.turned, regrouped=found.regrouped)
    if not explicit_val:
        table = assign_val(table)
    if choice.turned:
        found.turns.append(f"{classes[0]} was the positive class")
    if found.turns:
        found.notes.insert(
            0,
            f"versions before 0.2 read this otherwise: {'; '.join(found.turns)}; "
            "what they trained, and the studies that they began, is of other films",
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


def assign_val(table: pd.DataFrame, *, share: float = VAL_SHARE, salt: str = VAL_SALT) -> pd.DataFrame:
    """Turns about a `share` of the train films into val, by whole patients; the other rows stay as they are.

    A patient belongs to the stratum (label, subtype) of most of its films. Within each stratum patients are sorted by
    a salted hash of their id and taken in that order, each one that brings the number of films nearer to the share;
    what a stratum misses by is passed on to the next of its class. A class with two patients or more then gets at
    least one on each side.

    Sorting and taking, rather than taking each patient whose hash is below the share, because independent draws give
    a small stratum anything from none to half. The price: where the cut falls depends on the other patients. When
    films are added, the order of the old patients does not change, so the cut only moves past a few of them: about
    `VAL_SHARE` of as many as were added change sides, all near the cut. Runs are comparable while the fingerprint is
    the same.
    """
    train = table[table["split"] == "train"]
    if train.empty:
        return table
    films = train.groupby("patient").size().to_dict()
    order = {patient: hashlib.sha256(f"{salt}:{patient}".encode()).hexdigest() for patient in films}
    members = {label: set(rows["patient"]) for label, rows in train.groupby("label")}
    strata: dict[Any, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    common = train.groupby(["patient", "label", "subtype"]).size().reset_index(name="n")
    common = common.sort_values(["n", "label", "subtype"], ascending=[False, True, True]).drop_duplicates("patient")
    for patient, label, subtype in zip(common["patient"], common["label"], common["subtype"], strict=True):
        strata[label][subtype].append(patient)

    irreplaceable = {patient for mine in members.values() if len(mine) == 1 for patient in mine}
    val: set[str] = set()
    for subtypes in strata.values():
        owed = 0.0
        for _, patients in sorted(subtypes.items()):
            owed += share * sum(films[patient] for patient in patients)
            for patient in sorted(patients, key=order.__getitem__):
                if abs(owed - films[patient]) < abs(owed) and owed > 0 and patient not in irreplaceable:
                    val.add(patient)
                    owed -= films[patient]
    for label, mine in sorted(members.items()):
        others = [theirs for other, theirs in members.items() if other != label]
        for to_val in (True, False):
            if len(mine) < 2 or any((patient in val) == to_val for patient in mine):
                continue
            # Moving a patient of both classes must not take the other class its last one on the side it leaves.
            free = [
                patient
                for patient in mine - irreplaceable
                if all(patient not in s or any(p != patient and (p in val) != to_val for p in s) for s in others)
            ]
            moved = min(free, key=lambda patient: (films[patient], order[patient]))
            val ^= {moved}
    chosen = (table["split"] == "train") & table["patient"].isin(val)
    return table.assign(split=table["split"].mask(chosen, "val"))


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


def _name_patients(table: pd.DataFrame) -> tuple[int, int]:
    """Fills in the patients and subtypes that no manifest gave, in place. How many films had no number in the name; and
    how many are known by the name that they had before a Roboflow export alone.

    Kermany's numbers start again in test: the same number in train and test is two patients, so the split stands
    before it. A film without a number is its own patient, known by its content, so that renaming moves nothing.
    """
    patients, subtypes, nameless, exported = [], [], 0, 0
    for path, split, label, patient, subtype, sha256 in zip(
        *(table[name] for name in ("path", "split", "label", "patient", "subtype", "sha256")), strict=True
    ):
        stem = path.rsplit("/", 1)[-1]
        series = "test" if split == "test" else "train"
        person, im = _PERSON.match(stem), _IM.match(stem)
        number = person[1].lower() if person else im[1].upper() if im else None
        if not patient and number is None:
            before = _ROBOFLOW.fullmatch(stem)
            number = f"{label}/{before[1]}" if before else None
            exported += before is not None
            nameless += before is None
        patients.append(patient or f"{series}/{number or sha256[:16]}")
        subtypes.append(subtype or (person[2].lower() if person else ""))
    table["patient"], table["subtype"] = patients, subtypes
    return nameless, exported


def _settle_val(table: pd.DataFrame, found: Found) -> pd.DataFrame:
    """Keeps the validation films of a folder, or counts them as train, and notes which and why."""
    val, train = table[table["split"] == "val"], table[table["split"] == "train"]
    if val.empty:
        return table
    names = " and ".join(found.val_folders)
    test = set(table["sha256"][table["split"] == "test"])
    different = val[~val["sha256"].isin(test)].drop_duplicates("sha256")
    fewest = min(int((different["label"] == label).sum()) for label in (0, 1))
    shared = set(val["patient"]) & set(train["patient"])
    if fewest < ENOUGH or shared:
        why = (
            f"fewer than {ENOUGH} films of a class"
            if fewest < ENOUGH
            else f"{len(shared):,} patients that train has too"
        )
        found.notes.append(
            f"{names} ({len(val):,} films) is counted as train, with {why}: validation patients are chosen from both"
        )
        return table.assign(split=table["split"].replace("val", "train"))
    found.notes.append(f"{names} ({len(val):,} films) is kept as the validation split")
    if any(name.lower() == "val" for name in found.val_folders):
        found.turns.append("the films of val were counted as train")
    return table


def _drop_leaks(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Group, ...]]:
    """A film or a patient in two splits stays in test before val before train."""
    rank = table["split"].map(SPLITS.index)
    groups: list[Group] = []
    left_out = pd.Series(False, index=table.index)
    real = table["bytes"] > 0  # empty files are all alike, and are listed as corrupt when they are decoded
    for column, why in (("sha256", "the same film"), ("patient", "the same patient")):
        usable = table[real & ~left_out] if column == "sha256" else table[~left_out]
        top = rank[usable.index].groupby(usable[column]).transform("max")
        lower = usable[rank[usable.index] < top]
        left_out[lower.index] = True
        for value, rows in lower.groupby(column, sort=False):
            same = usable[usable[column] == value]
            kept = same[~same.index.isin(rows.index)]
            splits = " and ".join(sorted({*rows["split"], *kept["split"]}, key=SPLITS.index))
            name = f" {value}" if column == "patient" else ""
            groups.append(Group(f"{why}{name} in {splits}", tuple(kept["path"]), tuple(rows["path"])))
    return table[~left_out], tuple(groups)


def _drop_duplicates(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Group, ...]]:
    """Identical films: one stays in train and in val, none if their labels differ; test stays whole, for its figures
    are compared with other people's."""
    groups: list[Group] = []
    gone: list[Any] = []
    alike = table[(table["bytes"] > 0) & table.duplicated("sha256", keep=False)]
    for _, same in alike.groupby("sha256", sort=False):
        split, one_label = same["split"].iloc[0], same["label"].nunique() == 1
        why = "identical films" if one_label else "identical films under both labels"
        kept = same.drop_duplicates("path") if split == "test" else same.iloc[: int(one_label)]
        lost = same.drop(kept.index)
        gone += list(lost.index)
        groups.append(Group(f"{why} in {split}", tuple(kept["path"]), tuple(lost["path"])))
    return table.drop(gone), tuple(groups)


def _fingerprint(
    table: pd.DataFrame, classes: tuple[str, str], *, any_dicom: bool, turned: bool, regrouped: bool
) -> str:
    rows = [
        f"{split}\t{classes[label]}\t{sha256}"
        for split, label, sha256 in zip(table["split"], table["label"], table["sha256"], strict=True)
    ]
    rows += ["any DICOM"] * any_dicom  # it decides which of them can be read
    rows += ["turned"] * turned  # the same films, asked about the other way round
    rows += ["regrouped"] * regrouped  # patients, by which films validate
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _counts(table: pd.DataFrame, classes: tuple[str, str]) -> tuple[dict[str, str | int], ...]:
    groups = table.groupby(["split", "label", "subtype"])["patient"].agg(["size", "nunique"]).reset_index()
    rows = [
        {"split": split, "class": classes[label], "subtype": subtype, "films": films, "patients": patients}
        for split, label, subtype, films, patients in groups.to_numpy(dtype=object).tolist()
    ]
    return tuple(sorted(rows, key=lambda row: SPLITS.index(row["split"])))
