"""The positive class, by what the names of the two mean or by what the user says."""

from pathlib import Path

import pytest

from pneumonia.data.classes import choose, is_opacity_task
from pneumonia.data.index import DataError, scan
from tests.data.conftest import film


@pytest.mark.parametrize(
    "classes",
    [
        ("NORMAL", "PNEUMONIA"),
        ("0", "1"),
        ("-1", "1"),
        ("0.0", "1.0"),
        ("no", "yes"),
        ("false", "true"),
        ("N", "P"),
        ("Neg", "Pos"),
        ("Healthy", "Covid"),
        ("healthy lungs", "sick"),
        ("zzz_control", "sick"),
        ("No Finding", "Tuberculosis"),
        ("NORMAL", "abnormal"),
        ("NORMAL", "not normal"),
        ("healthy", "unhealthy"),
        ("no_pneumonia", "PNEUMONIA"),
        ("2_NORMAL", "1_PNEUMONIA"),
        ("1_NORMAL", "0_PNEUMONIA"),
        ("Lung_Normal", "COVID"),
        ("without pneumonia", "PNEUMONIA"),
        ("w/o pneumonia", "with pneumonia"),
        ("NonPneumonia", "PNEUMONIA"),
        ("nonpneumonia", "PNEUMONIA"),
        ("notcovid", "COVID19"),
        ("not_pneumonia", "PNEUMONIA"),
        ("NORMAL", "Viral Pneumonia"),
        ("normal1", "pneumonia1"),
        ("Non-COVID-19", "COVID-19"),
        ("class0", "class1"),
        ("covid-negative", "covid-positive"),
        ("pneumonia=0", "pneumonia=1"),
        ("normal=1", "normal=0"),
        ("pneumonia_no", "pneumonia_yes"),
        ("pneumonia absent", "pneumonia present"),
        ("uninfected", "infected"),
        ("No Lung Opacity / Not Normal", "Lung Opacity"),
        ("NoTB", "TB"),
        ("disease-free", "disease"),
        ("none", "nodule"),
    ],
)
def test_which_class_is_positive_by_meaning(classes: tuple[str, str]) -> None:
    for names in (classes, classes[::-1]):
        assert choose(names, Path("films")).classes == classes


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog"),
        ("bacteria", "virus"),
        ("1", "2"),
        ("normal", "healthy"),
        ("NORMAL", "NORMAL2"),
        ("notch", "chest"),
        ("no virus", "No Finding"),
    ],
)
def test_names_that_do_not_tell_are_asked_about(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        for n in range(3):
            film(tmp_path / f"train/{name}/{n}.png")
    with pytest.raises(DataError, match=r"do not tell which is the positive one: say so with --positive"):
        scan(tmp_path)
    for positive in names:
        index = scan(tmp_path, positive=f" {positive.upper()}")
        assert index.classes[1].casefold() == positive.casefold()
        assert f"positive: {index.classes[1]}, negative: {index.classes[0]}" in index.report.lines()[1]
        named = index.table["path"].str.split("/").str[1].str.casefold()
        assert set(named[index.table["label"] == 1]) == {positive.casefold()}
    with pytest.raises(DataError, match=r"is to be lion, but the films are .* takes one of these two"):
        scan(tmp_path, positive="lion")


def test_a_models_classes_say_which_is_positive(tmp_path: Path) -> None:
    for name in ("bacteria", "Virus"):
        for n in range(3):
            film(tmp_path / f"train/{name}/{n}.png")
    assert scan(tmp_path, like=("virus", "Bacteria")).classes == ("virus", "Bacteria"), "as the model spells them"
    assert scan(tmp_path, like=("virus", "bacteria"), positive="virus").classes == ("bacteria", "virus")
    with pytest.raises(DataError, match="the model tells NORMAL from PNEUMONIA, but the films are bacteria and Virus"):
        scan(tmp_path, like=("NORMAL", "PNEUMONIA"))


def test_films_asked_about_the_other_way_round_are_other_films(tmp_path: Path) -> None:
    """Or an unfinished study would go on with the labels exchanged; what earlier versions chose stays what it was."""
    for name in ("pneumonia", "without pneumonia"):
        for n in range(3):
            film(tmp_path / f"train/{name}/{n}.png", f"{name} {n}")
    now = scan(tmp_path)
    formerly = scan(tmp_path, positive="without pneumonia")
    assert now.classes == ("without pneumonia", "PNEUMONIA")
    assert now.fingerprint != formerly.fingerprint
    assert (
        "versions before 0.2 read this data differently: without pneumonia was the positive class"
        in now.report.notes[0]
    )
    assert not any("0.2" in note for note in formerly.report.notes)


@pytest.mark.parametrize(
    "classes",
    [
        ("NORMAL", "PNEUMONIA"),
        ("healthy", "pneumonia_bacterial"),
        ("No Finding", "Lung Opacity"),
        ("negative", "COVID"),
    ],
)
def test_classes_that_opacities_tell_apart(classes: tuple[str, str]) -> None:
    assert is_opacity_task(classes)


@pytest.mark.parametrize(
    "classes",
    [
        ("NORMAL", "Cardiomegaly"),
        ("normal", "Pneumothorax"),
        ("normal", "pneumonectomy"),
        ("0", "1"),
        ("bacterial_pneumonia", "viral_pneumonia"),
        ("COVID", "Lung_Opacity"),
        ("pneumonia", "without pneumonia"),
        ("covid", "covid_no"),
        ("healthy", "no pneumonia"),
    ],
)
def test_classes_that_they_do_not(classes: tuple[str, str]) -> None:
    """Two illnesses, another illness, or no telling which class is which: an ill film must not become a normal one."""
    assert not is_opacity_task(classes)
