"""CLAHE of a share of the films: OpenCV's, each film with its own limit and tiles, drawn from the generator alone."""

import cv2
import numpy as np
import pytest
import torch

from pneumonia.augmentation.clahe import CLIP, SMALLEST_TILE, TILES, apply


@pytest.fixture
def films() -> torch.Tensor:
    """Mottled ramps of low contrast, uint8 [64, 48, 48]."""
    ramp = torch.linspace(90, 150, 48).expand(64, 48, 48)
    noise = torch.randn(64, 48, 48, generator=torch.Generator().manual_seed(0)) * 4
    return (ramp + noise).round().to(torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(films: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return (films != given).any(dim=1).any(dim=1)


def test_the_share_is_changed_and_the_others_stay_as_they_are(films: torch.Tensor) -> None:
    many = films.repeat(8, 1, 1)
    given = apply(many, share=0.3, generator=generator())
    which = changed(many, given)
    assert given.shape == many.shape
    assert which.float().mean() == pytest.approx(0.3, abs=0.06)
    assert torch.equal(given[~which], many[~which].float())


def test_none_is_changed_by_a_share_of_none_and_the_films_come_back_themselves(films: torch.Tensor) -> None:
    assert apply(films, share=0.0, generator=generator()) is films


def test_contrast_is_raised_by_more_or_less(films: torch.Tensor) -> None:
    contrast = apply(films, share=1.0, generator=generator()).std(dim=(1, 2)) / films.float().std(dim=(1, 2))
    assert contrast.min() < 1.2
    assert contrast.max() > 1.6


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, tuple[int, int]]]:
    """Limit and tiles of each CLAHE that is made of OpenCV's."""
    made: list[tuple[float, tuple[int, int]]] = []
    make = cv2.createCLAHE

    def watched(clipLimit: float, tileGridSize: tuple[int, int]) -> cv2.CLAHE:  # noqa: N803
        made.append((clipLimit, tileGridSize))
        return make(clipLimit, tileGridSize)

    monkeypatch.setattr(cv2, "createCLAHE", watched)
    return made


def test_a_film_goes_through_opencvs_clahe_within_the_bounds(
    films: torch.Tensor, calls: list[tuple[float, tuple[int, int]]]
) -> None:
    shown = films.float() - 0.4
    given = apply(shown, share=1.0, generator=generator())
    assert torch.equal(shown, films.float() - 0.4)
    made = calls.copy()
    limits, grids = np.array([clip for clip, _ in made]), [grid for _, grid in made]
    assert len(made) == len(films)
    assert CLIP[0] <= limits.min() < 1.5
    assert 4 < limits.max() <= CLIP[1]
    tiles = set(range(TILES[0], films.shape[-1] // SMALLEST_TILE + 1))
    assert {down for down, _ in grids} == {across for _, across in grids} == tiles
    for number in (0, 1, 63):
        assert np.array_equal(given[number].numpy(), cv2.createCLAHE(*made[number]).apply(films[number].numpy()))


def test_the_generator_alone_decides(films: torch.Tensor) -> None:
    first, again, other = (apply(films, share=0.5, generator=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_film_of_one_grey_stays_of_one_grey(grey: int) -> None:
    given = apply(torch.full((4, 32, 32), grey, dtype=torch.uint8), share=1.0, generator=generator())
    assert torch.equal(given.amax(dim=(1, 2)), given.amin(dim=(1, 2)))


@pytest.mark.parametrize(("side", "finest"), [(16, 3), (64, 8), (96, 12), (224, 12)])
def test_tiles_are_no_smaller_than_opencvs_limit_can_bear(
    side: int, finest: int, calls: list[tuple[float, tuple[int, int]]]
) -> None:
    apply(torch.zeros(128, side, side, dtype=torch.uint8), share=1.0, generator=generator())
    assert max(across for _, (_, across) in calls) == finest
