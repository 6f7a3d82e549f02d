"""Chooses the validation films: whole patients, held out of training."""

import hashlib
from collections import defaultdict
from typing import Any

import pandas as pd

from pneumonia.data.layouts import Found

VAL_SHARE = 0.15
ENOUGH = 30  # films per class that a folder's own validation split must have
# Constant, so that every run, whatever its seed, is measured on the same patients; another salt is another split.
VAL_SALT = "pneumonia-val-1"


def assign_val(table: pd.DataFrame, *, share: float = VAL_SHARE, salt: str = VAL_SALT) -> pd.DataFrame:
    """Turns about a `share` of the train films into val, by whole patients; the other rows stay as they are.

    A patient belongs to the stratum (label, subtype) of most of its films. Within each stratum patients are sorted by
    a salted hash of their id and taken in that order, each one that brings the number of films nearer to the share;
    the error of a stratum is carried over to the next of its class. A class with two patients or more then gets at
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


def keep_or_merge_val(table: pd.DataFrame, found: Found) -> pd.DataFrame:
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
        found.version_changes.append("the films of val were counted as train")
    return table
