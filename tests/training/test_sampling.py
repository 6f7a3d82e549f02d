"""Half of the draws are of each class, whatever the folder holds."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from pneumonia.config import Sampler
from pneumonia.training.sampling import batches, sampler, steps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("negative", "positive"), [(2000, 2000), (1341, 3875), (40, 4000), (3990, 10)])
def test_draws_are_half_and_half(negative: int, positive: int) -> None:
    """Within four standard deviations of a fair coin: a wrong alarm in 16,000 runs, and the seed is fixed."""
    labels = np.repeat([0, 1], [negative, positive])
    drawn = labels[list(sampler(labels, "weighted", generator()))]
    assert len(drawn) == len(labels)
    assert abs(drawn.mean() - 0.5) < 4 * 0.5 / math.sqrt(len(labels))


def test_within_a_class_every_film_is_as_likely() -> None:
    labels = np.repeat([0, 1], [10, 1000])
    counts = np.zeros(len(labels))
    draws = sampler(labels, "weighted", generator())
    for _ in range(20):
        counts += np.bincount(list(draws), minlength=len(labels))
    expected = counts[:10].mean()
    assert np.abs(counts[:10] - expected).max() < 5 * math.sqrt(expected)


def test_it_is_torchs_sampler_and_repeats_from_its_seed() -> None:
    labels = np.repeat([0, 1], [30, 90])
    one = sampler(labels, "weighted", generator())
    assert isinstance(one, WeightedRandomSampler)
    first = list(one)
    assert first == list(sampler(labels, "weighted", generator()))
    assert first != list(one)  # the next epoch draws anew
    assert first != list(sampler(labels, "weighted", generator(1)))


def test_none_goes_through_the_films_once() -> None:
    labels = np.repeat([0, 1], [30, 90])
    drawn = list(sampler(labels, "none", generator()))
    assert sorted(drawn) == list(range(120))
    assert drawn != sorted(drawn)


@pytest.mark.parametrize(("films", "expected"), [(64, [16] * 4), (65, [16] * 4), (66, [16] * 4 + [2])])
def test_a_film_left_over_alone_is_in_no_batch(films: int, expected: list[int]) -> None:
    labels = np.arange(films) % 2
    sizes = [len(batch) for batch in batches(sampler(labels, "none", generator()), 16)]
    assert sizes == expected
    assert len(sizes) == steps(films, 16)


@pytest.mark.parametrize("kind", ["weighted", "none"])
def test_the_global_generator_has_no_part_in_it(kind: Sampler) -> None:
    labels = np.repeat([0, 1], [30, 90])
    torch.manual_seed(1)
    first = list(sampler(labels, kind, generator()))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert first == list(sampler(labels, kind, generator()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["weighted", "none"])
@pytest.mark.parametrize(("negative", "positive"), [(0, 5), (5, 0), (0, 0)])
def test_a_class_without_films_is_refused(kind: Sampler, negative: int, positive: int) -> None:
    with pytest.raises(ValueError, match=f"both classes, not {negative} negative and {positive} positive"):
        sampler(np.repeat([0, 1], [negative, positive]), kind, generator())


@pytest.mark.parametrize(("films", "size"), [(2, 2), (3, 2), (9, 8), (10, 8), (17, 4), (5, 64)])
def test_every_film_but_the_lone_one_is_in_one_batch(films: int, size: int) -> None:
    labels = np.arange(films) % 2
    drawn = torch.cat(list(batches(sampler(labels, "none", generator()), size))).tolist()
    assert len(set(drawn)) == len(drawn) == films - (films % size == 1)
