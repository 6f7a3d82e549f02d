"""Validation films are whole patients of every class and subtype, the same ones for ever."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.data.index import scan
from pneumonia.data.split import VAL_SHARE, assign_val
from tests.data.conftest import kermany, split_films


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "DEV"])
def test_a_folders_validation_split_that_can_choose_is_kept(tmp_path: Path, name: str) -> None:
    root = kermany(tmp_path)
    split_films(root, name, 30, first=100)
    index = scan(root)
    assert set(index.only("val")["path"].str.split("/").str[0]) == {name}
    assert len(index.only("val")) == 60
    assert f"{name} (60 films) is kept as the validation split" in index.report.notes
    said = "the films of val were counted as train" if name == "val" else f"the 60 films of {name} were left out"
    assert said in index.report.notes[0]


@pytest.mark.parametrize(("count", "first", "why"), [(29, 100, "fewer than 30 films of a class"), (30, 0, "patients")])
def test_a_validation_split_that_cannot_choose_is_train_and_said(
    tmp_path: Path, count: int, first: int, why: str
) -> None:
    root = kermany(tmp_path)
    split_films(root, "valid", count, first=first)
    index = scan(root)
    assert sum(f"valid ({2 * count} films) is counted as train, with " in note for note in index.report.notes) == 1
    assert any(why in note for note in index.report.notes)
    assert index.report.used == 48 + 2 * count
    assert set(index.only("val")["path"].str.split("/").str[0]) == {"train", "valid"}


def frame(films: list[tuple[int, int, str]]) -> pd.DataFrame:
    """Train films as (patient number, label, subtype)."""
    rows = [("train", label, f"p{patient}", subtype) for patient, label, subtype in films]
    return pd.DataFrame(rows, columns=["split", "label", "patient", "subtype"])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 1), st.sampled_from(["", "a", "b"])), min_size=1, max_size=60)
)
def test_no_patient_is_on_both_sides_and_no_class_is_missing(films: list[tuple[int, int, str]]) -> None:
    table = assign_val(frame(films))
    sides = table.groupby("patient")["split"].nunique()
    assert (sides == 1).all()
    for _, rows in table.groupby("label"):
        want = {"train", "val"} if rows["patient"].nunique() > 1 else {"train"}
        assert set(rows["split"]) == want
    # the order of the rows decides nothing
    shuffled = assign_val(frame(films).sample(frac=1, random_state=0)).sort_index()
    assert shuffled["split"].tolist() == table["split"].tolist()


def test_val_is_stratified() -> None:
    sizes = {(0, ""): 900, (1, "bacteria"): 500, (1, "virus"): 301, (1, "rare"): 10}
    films = [
        (hash_free, label, subtype)
        for k, ((label, subtype), n) in enumerate(sizes.items())
        for hash_free in range(k * 10_000, k * 10_000 + n)
    ]
    table = assign_val(frame(films))
    for (label, subtype), n in sizes.items():
        chosen = table[(table["label"] == label) & (table["subtype"] == subtype)]["split"].eq("val").sum()
        assert abs(chosen - VAL_SHARE * n) <= 1


def test_adding_films_moves_few_patients() -> None:
    films = [(n, n % 2, "") for n in range(1000)]
    before = assign_val(frame(films)).set_index("patient")["split"]
    after = assign_val(frame(films + [(n, n % 2, "") for n in range(1000, 1100)])).set_index("patient")["split"]
    assert (before != after[before.index]).sum() <= 20  # another salt would move about 255


def test_the_split_is_the_same_for_ever() -> None:
    table = assign_val(frame([(n, n % 2, "") for n in range(40)]))
    chosen = sorted(table[table["split"] == "val"]["patient"])
    assert chosen == ["p11", "p13", "p21", "p22", "p30", "p6"], "val films have changed: old and new runs differ"
