"""The changes that validation films go through: each does what its name says, and the same every time."""

import numpy as np
import pytest

from pneumonia.augmentation.stress_tests import CHANGES, SHAPES, VERSION, change, painted, painted_of

ALL = {**SHAPES, **CHANGES}


@pytest.fixture
def film() -> np.ndarray:
    """A bright disc on a ramp, without black or white."""
    y, x = np.mgrid[:96, :96]
    disc = 60 * (np.hypot(y - 40, x - 50) < 25)
    return np.asarray(60 + 0.8 * x + disc, dtype=np.uint8)


@pytest.mark.parametrize("name", ALL)
def test_each_change_keeps_the_shape_and_most_of_what_is_to_be_seen(name: str, film: np.ndarray) -> None:
    before = film.copy()
    changed = ALL[name](film)
    assert (changed.shape, changed.dtype) == (film.shape, np.uint8)
    assert np.array_equal(film, before)
    assert np.array_equal(changed, ALL[name](film))
    assert not np.array_equal(changed, film)
    inner = slice(24, 72)
    assert np.corrcoef(changed[inner, inner].ravel(), film[inner, inner].ravel())[0, 1] > 0.6


def test_what_the_names_say(film: np.ndarray) -> None:
    mean = {name: CHANGES[name](film).mean() for name in ("darker", "lighter")}
    assert mean["darker"] < film.mean() < mean["lighter"]
    corner = {name: CHANGES[name](film)[0, 0] for name in ("collimated", "wide", "turned", "masked")}
    assert corner["collimated"] == corner["wide"] == corner["turned"] == 0
    assert corner["masked"] == CHANGES["masked"](film)[0, -1] != 0
    area = {name: (CHANGES[name](film) > 130).mean() / (film > 130).mean() for name in ("cropped", "wide")}
    assert area["cropped"] > 1.1
    assert area["wide"] < 0.9
    shape = {}
    for name in ("broad", "narrow"):
        rows, columns = np.nonzero(SHAPES[name](film) > 60 + 0.8 * np.arange(96) + 30)
        shape[name] = np.ptp(columns) / np.ptp(rows)
    assert shape == pytest.approx({"broad": 1.3, "narrow": 1 / 1.3}, rel=0.2)
    assert np.abs(np.diff(CHANGES["coarse"](film).astype(int), axis=1)).max() < np.abs(np.diff(film.astype(int))).max()


def test_each_film_is_judged_in_another_shape_and_changed_by_turns(film: np.ndarray) -> None:
    films = np.stack([np.roll(film, number, axis=1) for number in range(20)])
    copies = change(films)
    assert copies.shape == (40, 96, 96)
    for number, one in enumerate(films):
        assert np.array_equal(copies[number], list(SHAPES.values())[number % len(SHAPES)](one))
        assert np.array_equal(copies[20 + number], list(CHANGES.values())[number % len(CHANGES)](one))
    assert change(films[:0]).shape == (0, 96, 96)


def test_normal_films_are_painted_each_in_its_own_way_and_the_same_every_time(film: np.ndarray) -> None:
    films, labels = np.stack([film] * 6), np.array([1, 0, 0, 1, 0, 1])
    copies = painted(films, labels)
    assert (copies.shape, copies.dtype) == ((3, 96, 96), np.uint8)
    assert np.array_equal(copies, painted(films, labels))
    for copy, number in zip(copies, (1, 2, 4), strict=True):
        assert np.array_equal(copy, painted_of(film, number))
        assert (copy >= film).all()
        assert (copy > film).any()
    assert len(np.unique(copies, axis=0)) == 3
    assert painted(films, np.ones(6, dtype=int)).shape == (0, 96, 96)


def test_an_opacity_is_the_same_one_at_any_size() -> None:
    large = np.full((192, 192), 40, dtype=np.uint8)
    large[:72] = 200  # what an opacity goes towards
    small = large[::2, ::2].copy()
    for number in range(5):
        assert (painted_of(large, number) > large + 20).any()
        halved = painted_of(large, number).astype(int).reshape(96, 2, 96, 2).mean(axis=(1, 3))
        assert np.abs(halved - painted_of(small, number)).max() < 12


def test_what_judges_changes_with_the_version_alone(film: np.ndarray) -> None:
    """If this fails, raise VERSION and write the new figures here."""
    shown = [painted_of(film, number).mean() for number in range(3)]
    shown += [copy.mean() for copy in change(np.stack([film] * 9)).reshape(2, 9, -1)]
    assert (VERSION, *shown) == pytest.approx((4, 123.1, 110.8, 118.3, 110.4, 111.5), abs=0.3)
