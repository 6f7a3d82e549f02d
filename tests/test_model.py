from collections.abc import Iterator

import pytest
import torch

from pneumonia.model import Network, build, parameters


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def films(n: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 4, 8])
@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_film_gives_one_logit_and_maps_of_a_sixteenth_of_its_side(width: int, size: int, batch: int) -> None:
    network = build(width, 0.3, seed=0).eval()
    x = films(batch, size)
    assert network(x).shape == (batch,)
    assert network.maps(x).shape == (batch, 8 * width, size // 16, size // 16)


def test_the_head_over_the_mean_of_the_maps_is_the_logit() -> None:
    network, x = build(4, 0.5, seed=1), films(6, 48)
    network(x)  # moves batch norm's statistics off their start
    network.eval()
    with torch.inference_mode():
        logits, maps = network(x), network.maps(x)
        by_head = network.head(maps.mean(dim=(2, 3))).squeeze(1)
        activation = torch.einsum("bchw,c->bhw", maps, network.head.weight[0])
    assert torch.equal(by_head, logits)
    torch.testing.assert_close(activation.mean(dim=(1, 2)) + network.head.bias, logits, rtol=1e-5, atol=1e-6)


def test_in_eval_mode_a_film_s_logit_does_not_hang_on_its_batch() -> None:
    network, x = build(4, 0.5, seed=0).eval(), films(6)
    with torch.inference_mode():
        alone = torch.cat([network(film[None]) for film in x])
        torch.testing.assert_close(network(x), alone, rtol=1e-5, atol=1e-6)
        assert torch.equal(network(x), network(x)), "dropout is off"


def test_dropout_acts_in_training_only_and_only_if_asked_for() -> None:
    x = films(8)
    for dropout, same in ((0.0, True), (0.5, False)):
        network = build(4, dropout, seed=0).train()
        assert torch.equal(network(x), network(x)) is same


def test_every_weight_is_learnt() -> None:
    network = build(4, 0.0, seed=0).train()
    network(films(8)).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


def test_the_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return build(4, 0.3, seed=seed).state_dict()

    torch.manual_seed(1)
    first = weights(5)
    torch.manual_seed(2)
    again, other = weights(5), weights(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build(4, 0.3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_counts_what_is_learnt() -> None:
    network = Network(4, 0.3)
    assert parameters(network) == sum(p.numel() for p in network.parameters())
    network.head.requires_grad_(False)
    assert parameters(network) == sum(p.numel() for p in network.parameters()) - 33  # 8 * 4 weights and a bias
    assert parameters(Network(8, 0.3)) > 3.5 * parameters(Network(4, 0.3)), "cost grows with the width's square"
