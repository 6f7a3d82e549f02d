"""The network: shapes, the class-activation identity, and weights that depend on the seed alone."""

import pytest
import torch

from pneumonia.training.network import Cnn, build


@pytest.mark.parametrize("width", [4, 8, 12])
def test_shapes(width: int) -> None:
    network = Cnn(width, 0.3).eval()
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


def test_the_head_over_the_mean_of_the_maps_is_the_logit() -> None:
    network, x = build(4, 0.5, seed=1), torch.randn(6, 1, 48, 48)
    network(x)  # moves batch norm's statistics off their start
    network.eval()
    with torch.inference_mode():
        assert torch.equal(network.head(network.maps(x).mean(dim=(2, 3))).squeeze(1), network(x))


def test_in_eval_mode_a_film_does_not_hang_on_its_batch() -> None:
    network, x = build(4, 0.5, seed=0).eval(), torch.randn(6, 1, 32, 32)
    with torch.inference_mode():
        alone = torch.cat([network(film[None]) for film in x])
        assert torch.allclose(network(x), alone, atol=1e-5)


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.5, False)])
def test_dropout_acts_in_training_as_asked(dropout: float, same: bool) -> None:
    network, x = build(4, dropout, seed=0).train(), torch.randn(8, 1, 32, 32)
    assert torch.equal(network(x), network(x)) is same
    network.eval()
    assert torch.equal(network(x), network(x))


def test_every_weight_gets_a_gradient() -> None:
    network = build(4, 0.0, seed=0).train()
    network(torch.randn(8, 1, 32, 32)).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
