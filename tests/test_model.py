"""The network: shapes, the class-activation identity, and weights that depend on the seed alone."""

import pytest
import torch

from pneumonia.model import Network, build


@pytest.mark.parametrize("width", [4, 8, 12])
def test_shapes(width: int) -> None:
    network = Network(width, 0.3).eval()
    x = torch.randn(3, 1, 48, 48)
    assert network(x).shape == (3,)
    assert network.maps(x).shape == (3, 8 * width, 3, 3)


def test_the_mean_of_the_class_activation_map_is_the_logit() -> None:
    network, x = build(8, 0.3, seed=0).eval(), torch.randn(4, 1, 64, 64)
    cam = torch.einsum("c,bchw->bhw", network.head.weight[0], network.maps(x))
    assert torch.allclose(cam.mean(dim=(1, 2)) + network.head.bias, network(x), atol=1e-5)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two, other = build(4, 0.1, seed=0), build(4, 0.1, seed=0), build(4, 0.1, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)
