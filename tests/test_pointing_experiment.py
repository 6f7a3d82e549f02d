"""The pointing game: opacities lie where it says, a point is inside or not, and maps are of the same network."""

import numpy as np
import torch

from experiments import pointing
from pneumonia.augmentation.augment import standardise
from pneumonia.training.network import build
from tests import known


def test_an_opacity_is_where_the_film_changed() -> None:
    films = known.films(20, size=64)
    shown, inside = pointing.painted(films)
    changed = np.abs(shown.astype(int) - films)
    assert (inside.sum(axis=(1, 2)) > 0).all()
    assert changed[inside].mean() > 5 * changed[~pointing.near(inside)].mean()
    assert (pointing.near(inside) >= inside).all()
    assert 1.1 < pointing.near(inside).mean() / inside.mean() < 3


def test_a_map_scores_by_its_hottest_point() -> None:
    inside = np.zeros((3, 64, 64), bool)
    inside[:, 16:24, 40:48] = True  # the sixth of eight across, the third down
    maps = np.zeros((3, 8, 8))
    maps[0, 2, 5], maps[1, 2, 4], maps[2, 5, 2] = 1, 1, 1
    assert pointing.hits(maps, inside).tolist() == [True, False, False]
    assert pointing.hits(maps, pointing.near(inside)).tolist() == [True, False, False]


def test_a_map_of_brightness_finds_what_is_brighter_and_one_of_nothing_does_not() -> None:
    """A network whose logit is the mean of what it is shown goes by brightness alone."""

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 100 * torch.relu(x - 1).mean((1, 2, 3))

    films = np.full((10, 64, 64), 90, np.uint8)
    films[:, ::2] = 100
    inside = np.zeros(films.shape, bool)
    for number, film in enumerate(films):
        film[5 * number + 4 : 5 * number + 14, 20:30] = 220
        inside[number] = film == 220
    assert pointing.hits(pointing.served(Mean(), films, 1.5), inside).all()  # type: ignore[arg-type]
    assert not pointing.hits(pointing.served(Mean(), films, 0.0), inside).any()  # type: ignore[arg-type]


def test_a_stage_without_its_stride_says_the_same_and_more() -> None:
    network = build(4, 0.0, seed=0).eval()
    x = standardise(torch.from_numpy(known.films(2, size=64)))
    with torch.inference_mode():
        coarse, fine = pointing.cam(network, x), pointing.unstrided(network, x)
    assert fine.shape == (2, 8, 8)
    torch.testing.assert_close(fine[:, ::2, ::2], coarse)
