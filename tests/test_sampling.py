from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from pneumonia import sampling


def labels_of(negative: int, positive: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat([0, 1], [negative, positive]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(labels: np.ndarray, kind: str = "weighted", *, seed: int = 0, epochs: int = 1) -> np.ndarray:
    """Indices of the films that the sampler draws in so many epochs."""
    sampler = sampling.sampler(labels, kind, seeded(seed))
    return np.concatenate([np.fromiter(sampler, dtype=np.int64) for _ in range(epochs)])


RATIOS = [(200, 200), (100, 300), (300, 100), (10, 1000), (1000, 10), (10, 390)]


@pytest.mark.parametrize(("negative", "positive"), RATIOS)
def test_each_class_fills_half_of_the_draws(negative: int, positive: int) -> None:
    """With weights right the positives among n draws are binomial(n, 1/2), of standard deviation sqrt(n) / 2. The
    bound of 4.5 deviations is passed by chance once in 150,000 times; a ratio of 53:47 fails it from n = 6,000 on."""
    labels = labels_of(negative, positive)
    drawn = draw(labels, epochs=-(-20_000 // len(labels)))
    n = len(drawn)
    assert abs(labels[drawn].sum() - n / 2) < 4.5 * np.sqrt(n) / 2


@pytest.mark.parametrize(("negative", "positive"), RATIOS)
def test_films_of_one_class_are_drawn_alike(negative: int, positive: int) -> None:
    """A film's count is binomial with mean n / 2 / (films in its class); 5.5 deviations and 1 leave a chance of about
    one in 10,000 for the thousand films of the largest class together."""
    labels = labels_of(negative, positive)
    drawn = draw(labels, epochs=-(-40_000 // len(labels)))
    counts = np.bincount(drawn, minlength=len(labels))
    for label in (0, 1):
        share = 0.5 / (labels == label).sum()
        spread = np.sqrt(len(drawn) * share * (1 - share))
        assert np.abs(counts[labels == label] - len(drawn) * share).max() < 5.5 * spread + 1


def test_without_weighting_the_draws_would_not_be_half_and_half() -> None:
    labels = labels_of(100, 300)
    assert labels[draw(labels, "none")].mean() == 0.75


def test_the_sampler_is_torch_s_own() -> None:
    sampler = sampling.sampler(labels_of(10, 30), "weighted", seeded())
    assert isinstance(sampler, WeightedRandomSampler)
    assert sampler.replacement
    assert len(sampler) == 40


def test_none_visits_every_film_once_in_another_order_each_epoch() -> None:
    labels = labels_of(10, 30)
    sampler = sampling.sampler(labels, "none", seeded())
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert first != sorted(first)


@pytest.mark.parametrize("kind", ["weighted", "none"])
def test_the_generator_alone_decides_the_draws(kind: str) -> None:
    labels = labels_of(20, 60)
    torch.manual_seed(1)
    first = draw(labels, kind, seed=3, epochs=2)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert np.array_equal(first, draw(labels, kind, seed=3, epochs=2))
    assert not np.array_equal(first, draw(labels, kind, seed=4, epochs=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["weighted", "none"])
@pytest.mark.parametrize(("negative", "positive"), [(0, 5), (5, 0), (0, 0)])
def test_a_class_without_films_is_refused(kind: str, negative: int, positive: int) -> None:
    with pytest.raises(ValueError, match=f"both classes, not {negative} negative and {positive} positive"):
        sampling.sampler(labels_of(negative, positive), kind, seeded())


@pytest.mark.parametrize(("films", "size"), [(2, 2), (3, 2), (8, 8), (9, 8), (10, 8), (17, 4), (16, 4), (5, 64)])
def test_a_lone_last_film_is_left_out_and_nothing_else(films: int, size: int) -> None:
    sampler = sampling.sampler(labels_of(1, films - 1), "none", seeded())
    batches = list(sampling.batches(sampler, size))
    assert sampling.steps(films, size) == len(batches)
    assert all(2 <= len(batch) <= size for batch in batches)
    assert all(len(batch) == size for batch in batches[:-1])
    counts = Counter(int(i) for batch in batches for i in batch)
    assert set(counts.values()) == {1}
    assert len(counts) == films - (films % size == 1)
