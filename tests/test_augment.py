"""Augmentation: nothing at strength 0, repeatable from its generator, and always a standardised film."""

import numpy as np
import pytest
import torch

from pneumonia import served
from pneumonia.augment import augment, standardise


@pytest.fixture
def films() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 255, (8, 48, 48), dtype=np.uint8))


def draw(films: torch.Tensor, strength: float, seed: int = 0) -> torch.Tensor:
    return augment(films, strength=strength, generator=torch.Generator().manual_seed(seed))


def test_strength_0_is_standardising_and_draws_nothing(films: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert torch.equal(augment(films, strength=0, generator=generator), standardise(films))
    assert torch.equal(generator.get_state(), before)


def test_training_and_serving_standardise_alike(films: torch.Tensor) -> None:
    assert np.allclose(standardise(films).numpy(), served.standardise(films.numpy()), atol=1e-5)


def test_it_repeats_from_its_generator_alone(films: torch.Tensor) -> None:
    torch.manual_seed(1)
    one = draw(films, 1.0)
    torch.manual_seed(2)
    assert torch.equal(one, draw(films, 1.0))
    assert not torch.equal(one, draw(films, 1.0, seed=1))


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_films_come_out_standardised(films: torch.Tensor, strength: float) -> None:
    x = draw(films, strength)
    assert x.shape == (8, 1, 48, 48)
    assert x.dtype == torch.float32
    assert x.mean(dim=(1, 2, 3)).abs().max() < 0.05
    assert (x.std(dim=(1, 2, 3)) - 1).abs().max() < 0.1


def test_a_film_of_one_grey_stays_finite() -> None:
    for grey in (0, 255):
        assert draw(torch.full((4, 32, 32), grey, dtype=torch.uint8), 2.0).isfinite().all()


def test_it_moves_films_a_little_and_not_beyond_recognition() -> None:
    """A bright square near the middle stays in the film, but not where it was."""
    films = torch.zeros(64, 64, 64, dtype=torch.uint8)
    films[:, 28:36, 20:28] = 200
    x = draw(films, 1.0).squeeze(1)
    y, across = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    weight = (x > x.amax(dim=(1, 2), keepdim=True) / 2).float()
    rows = (weight * y).sum((1, 2)) / weight.sum((1, 2))
    columns = (weight * across).sum((1, 2)) / weight.sum((1, 2))
    assert rows.std() > 1
    assert (rows - 31.5).abs().max() < 16
    assert (columns < 31.5).float().mean() > 0.2  # about half are mirrored
    assert (columns > 31.5).float().mean() > 0.2


@pytest.mark.parametrize("size", [32, 96, 224])
def test_films_of_one_grey_are_standardised_to_zeros_on_both_sides(size: int) -> None:
    films = torch.arange(256, dtype=torch.uint8)[::15, None, None].repeat(1, size, size)
    assert not standardise(films).any()
    assert not served.standardise(films.numpy()).any()


def test_each_film_of_a_batch_and_each_call_is_drawn_anew(films: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    same = films[:1].repeat(2, 1, 1)
    first, second = (augment(same, strength=1.0, generator=generator) for _ in range(2))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_films_and_the_global_generator_stay_as_they_were(films: torch.Tensor) -> None:
    before, state = films.clone(), torch.get_rng_state()
    draw(films, 2.0)
    assert torch.equal(films, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_strength_is_how_far_a_film_is_moved(films: torch.Tensor) -> None:
    """Without the mirrored films, which differ whatever the strength: the nearer of film and mirror image counts."""
    smooth = torch.nn.functional.avg_pool2d(films.float(), 15, 1, 7).mul(4).clamp(0, 255).to(torch.uint8)

    def distance(strength: float) -> float:
        x, plain = draw(smooth, strength), standardise(smooth)
        apart = [(x - y).square().mean(dim=(1, 2, 3)) for y in (plain, plain.flip(3))]
        return float(torch.minimum(*apart).mean())

    assert distance(1e-3) < 0.02 < distance(0.3) < distance(1.0)
