"""Painted opacities: in the lungs, never darker, drawn from their generator alone, and counted as ill."""

import pytest
import torch

from pneumonia.augmentation import opacity
from pneumonia.augmentation.opacity import paint, paint_share, paint_where

AIR, TISSUE, BONE = 60, 180, 250


@pytest.fixture
def films() -> torch.Tensor:
    """Chests of two greys, [64, 64, 64]: dark lungs, and soft tissue around them and between them."""
    centres = (torch.arange(64) + 0.5) / 64
    across, down = centres[None, :], centres[:, None]
    air = torch.zeros(64, 64, dtype=torch.bool)
    for x in (0.31, 0.69):
        air |= ((across - x) / 0.15) ** 2 + ((down - 0.48) / 0.35) ** 2 < 1
    film = torch.where(air, AIR, TISSUE)
    return film.to(torch.uint8).repeat(64, 1, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_air_turns_to_tissue_and_nothing_gets_darker_nor_bone_brighter(films: torch.Tensor) -> None:
    films[:, 20:24] = BONE
    painted = paint(films, generator())
    changed = painted - films
    assert painted.shape == films.shape
    assert painted.dtype == torch.float32
    assert changed.min() >= 0
    assert painted[films == AIR].max() <= TISSUE + 1e-3
    assert 0 < changed[films == TISSUE].max() < 0.75 * (TISSUE - AIR)  # an opacity before the heart
    assert changed[films == BONE].max() < 1


def test_some_opacities_hide_what_is_behind_them_and_others_lie_over_it(films: torch.Tensor) -> None:
    films[:, ::4] += 30  # vessels
    painted = paint(films, generator())
    lung = painted[:, 24:36, 14:26]
    vessels, air = lung[:, ::4].mean(dim=(1, 2)), (lung[:, 1::4] + lung[:, 3::4]).mean(dim=(1, 2)) / 2
    contrast = (vessels - air)[lung.mean(dim=(1, 2)) > 130]  # where an opacity covers the lung: its grey is 68 else
    assert len(contrast) > 5
    assert contrast.min() < 10
    assert contrast.max() > 25


def test_air_beside_the_body_stays_nearly_as_it_is_up_to_a_tenth_of_the_film(films: torch.Tensor) -> None:
    films[:, :, :6] = films[:, :, -6:] = 0
    changed = paint(films, generator()) - films
    beside = changed[:, :, :6].sum() + changed[:, :, -6:].sum()
    assert beside < 0.02 * changed.sum()


def test_every_film_shows_one_as_dense_as_was_said(films: torch.Tensor) -> None:
    densest = (paint(films, generator()) - films).amax(dim=(1, 2)) / (TISSUE - AIR)
    low, high = opacity.SEVERITY
    assert densest.min() > 0.5 * low  # an opacity's densest place may lie beside the lung
    assert densest.max() <= high
    assert densest.std() > 0.1


def test_large_and_small_ones_left_and_right_occur(films: torch.Tensor) -> None:
    changed = paint(films, generator()) - films
    covered = (changed > 0.2 * (TISSUE - AIR)).float().mean(dim=(1, 2)) / (films[0] == AIR).float().mean()
    assert covered.min() < 0.15
    assert covered.max() > 0.6
    left = changed[:, :, :32].sum(dim=(1, 2)) / changed.sum(dim=(1, 2))
    assert 0.3 < left.mean() < 0.7
    assert left.max() > 0.9
    assert left.min() < 0.1


@pytest.mark.parametrize("side", [16, 32, 96, 224])
def test_any_size_will_do(side: int) -> None:
    films = torch.randint(0, 256, (8, side, side), generator=generator(), dtype=torch.uint8)
    painted = paint(films, generator())
    assert painted.shape == films.shape
    assert painted.isfinite().all()
    assert (painted > films).flatten(1).any(dim=1).all()


def test_a_film_of_one_grey_stays_so() -> None:
    films = torch.full((4, 32, 32), 7, dtype=torch.uint8)
    assert torch.equal(paint(films, generator()), films.float())


def test_it_repeats_from_its_generator_alone_and_leaves_films_as_they_were(films: torch.Tensor) -> None:
    before, state = films.clone(), torch.get_rng_state()
    one = paint(films, generator())
    assert torch.equal(one, paint(films, generator()))
    assert not torch.equal(one, paint(films, generator(1)))
    assert torch.equal(films, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_share_of_the_normal_films_becomes_ill_and_no_ill_one_changes(films: torch.Tensor) -> None:
    films = films.repeat(20, 1, 1)
    targets = torch.arange(len(films)).remainder(2) * 0.9 + 0.05
    shown, now = paint_share(films, targets, share=0.3, generator=generator())
    normal = targets < 0.5
    painted = (shown != films).any(dim=2).any(dim=1)
    assert not painted[~normal].any()
    assert painted[normal].float().mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(now, torch.where(painted, torch.tensor(0.95), targets))
    grey = films.float()
    paint_share(grey, targets, share=0.3, generator=generator())
    assert torch.equal(grey, films.float())


def test_without_a_chosen_film_all_is_as_it_was(films: torch.Tensor) -> None:
    ill = torch.full((len(films),), 0.95)
    shown, targets = paint_share(films, ill, share=0.99, generator=generator())
    assert shown is films
    assert targets is ill


def test_where_an_opacity_lies_is_told_with_the_film(films: torch.Tensor) -> None:
    painted, dense = paint_where(films, generator())
    assert torch.equal(painted, paint(films, generator()))
    low, high = opacity.SEVERITY
    densest = dense.amax(dim=(1, 2))
    assert low <= densest.min() <= densest.max() <= high
    change = painted - films
    assert change[dense < 0.01].max() < 0.02 * (TISSUE - AIR)
    air = films == AIR
    assert torch.corrcoef(torch.stack([change[air], dense[air]]))[0, 1] > 0.95
