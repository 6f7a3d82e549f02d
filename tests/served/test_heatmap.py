"""Darkening finds what a network goes by, on networks whose answer is known."""

import numpy as np
import pytest

from pneumonia import served
from pneumonia.served.heatmap import GRID, enlarged

SIDE = 64


def film(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (SIDE, SIDE), dtype=np.uint8)


@pytest.mark.parametrize(("down", "across"), [(0, 0), (2, 5), (7, 3)])
def test_of_a_network_that_looks_at_one_place_that_place_alone_is_hot(down, across):
    step = SIDE // GRID
    place = (slice(None), 0, slice(step * down, step * (down + 1)), slice(step * across, step * (across + 1)))
    falls = served.evidence(lambda films: films[place].sum(axis=(1, 2)), film())
    assert np.unravel_index(falls.argmax(), falls.shape) == (down, across)
    rows, columns = np.indices(falls.shape)
    far = np.hypot(rows - down, columns - across) >= 3.5
    assert falls.min() > -1e-3
    assert falls[far].max() < 0.02 * falls.max()


def test_a_network_that_looks_everywhere_has_no_hot_place():
    falls = served.evidence(lambda films: films.mean(axis=(1, 2, 3)), film())
    inner = falls[1:-1, 1:-1]  # at the edges a part of the spot lies beside the film
    assert np.ptp(inner) < 0.05 * inner.mean()


def test_a_network_that_does_not_look_has_no_evidence():
    assert (served.evidence(lambda films: np.full(len(films), 3.0), film()) == 0).all()


def test_what_is_darkened_is_the_standardised_film_and_nothing_gets_brighter():
    shown = []

    def score(films):
        shown.append(films)
        return np.zeros(len(films))

    served.evidence(score, film())
    plain = served.standardise(film()[np.newaxis])
    darkened = np.concatenate([part for part in shown if len(part) == GRID])
    np.testing.assert_array_equal(next(part for part in shown if len(part) == 1), plain)
    assert darkened.shape == (GRID**2, 1, SIDE, SIDE)
    assert darkened.dtype == np.float32
    change = darkened - plain
    assert change.max() <= 0
    assert -0.5 <= change.min() < -0.4
    covered = (change < -0.2).any(axis=0).mean()
    assert covered == 1  # no place is left out


@pytest.mark.parametrize("side", [16, 32, 96, 224])
def test_a_spot_covers_the_same_part_of_a_film_of_any_size(side):
    large = np.zeros((side, side), np.uint8)
    large[: side // 2] = 200
    falls = served.evidence(lambda films: films[:, 0, : side // 4].mean(axis=(1, 2)), large)
    small = np.zeros((SIDE, SIDE), np.uint8)
    small[: SIDE // 2] = 200
    expected = served.evidence(lambda films: films[:, 0, : SIDE // 4].mean(axis=(1, 2)), small)
    np.testing.assert_allclose(falls, expected, atol=0.03 * expected.max())


def test_an_enlarged_map_stays_between_0_and_1_and_may_be_hottest_between_two_spots():
    heat = np.zeros((GRID, GRID))
    heat[3, 3:5] = 1
    large = enlarged(heat, (SIDE, 2 * SIDE))
    assert large.shape == (SIDE, 2 * SIDE)
    assert (large.min(), large.max()) == (0, 1)
    assert large[28, 64] > 0.99
