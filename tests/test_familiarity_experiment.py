"""The experiment on strange films: its detectors tell what is far, and it changes films as it says."""

from collections.abc import Callable

import numpy as np
import pytest

from experiments import familiarity
from pneumonia.training.network import build
from tests import known

LABELS = np.arange(600) % 2
Make = Callable[[np.ndarray], familiarity.Detector]


@pytest.mark.parametrize(
    "make",
    [
        familiarity.gaussian,
        lambda train: familiarity.class_means(train, LABELS),
        familiarity.neighbours,
        familiarity.mixture,
    ],
)
def test_each_detector_calls_the_far_ones_strange(make: Make) -> None:
    rng = np.random.default_rng(0)
    train, near = rng.normal(size=(600, 40)) + 3 * LABELS[:, None], rng.normal(size=(200, 40))
    detector = make(train)
    threshold = np.quantile(detector(near), 0.95)
    assert (detector(near + 10 * (-1) ** np.arange(40)) > threshold).all()  # not the way that the classes lie
    assert (detector(rng.normal(size=(200, 40))) > threshold).mean() < 0.15


def test_the_residual_looks_where_training_films_do_not_vary() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 10)) + 0.01 * rng.normal(size=(600, 10))
    detector = familiarity.residual(train)
    assert detector(train + rng.normal(size=10)).min() > detector(train).max()


def test_a_films_features_are_those_of_its_mirror_image_and_leave_the_network_as_it_was() -> None:
    network = build(4, 0.3, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    films = known.films(6, size=64)
    ours, mirrored = familiarity.seen(network, films), familiarity.seen(network, films[:, :, ::-1].copy())
    for name, value in ours.items():
        assert mirrored[name] == pytest.approx(value, abs=1e-4)
    assert all((value == before[name]).all() for name, value in network.state_dict().items())


def test_re_exposed_films_have_no_frames() -> None:
    """A frame is of one grey along each side."""
    films = known.films(60, size=64)
    framed = [(np.ptp(of[:, 1, 5:-5].astype(int), axis=1) < 3).sum() for of in (familiarity.disturbed(films),)]
    bare = familiarity.disturbed(films, frames=False)
    assert framed[0] > 5
    assert (np.ptp(bare[:, 1, 5:-5].astype(int), axis=1) < 3).sum() == 0
