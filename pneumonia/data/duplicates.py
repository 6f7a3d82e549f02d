"""The same film twice: in training and test, or anywhere."""

from typing import Any

import pandas as pd

from pneumonia.data.inventory import Group
from pneumonia.data.layouts import SPLITS


def drop_leaks(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Group, ...]]:
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


def drop_duplicates(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Group, ...]]:
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
