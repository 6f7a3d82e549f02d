"""Replicas: the same gradients as a network of its own would have, and one memory of the weights."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from pneumonia.training.data_parallel import Replicas, team
from pneumonia.training.network import Network, build


def gradients(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    functional.softplus(network(x)).sum().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.fixture
def network() -> Network:
    return build(4, 0.0, seed=0).train()


def test_gathered_gradients_are_the_sum_of_the_parts(network: Network) -> None:
    x = torch.randn(40, 1, 32, 32)
    each = [gradients(build(4, 0.0, seed=0).train(), part) for part in x.split(20)]
    replicas = Replicas(network, 2)
    parts = replicas.split(torch.arange(40))
    replicas.zero_grad()
    for replica, picked in parts:
        functional.softplus(replica(x[picked])).sum().backward()
    replicas.gather(len(parts))
    for parameter, first, second in zip(network.parameters(), *each, strict=True):
        torch.testing.assert_close(parameter.grad, first + second)


def test_statistics_are_the_mean_of_the_parts_for_all(network: Network) -> None:
    x = torch.randn(40, 1, 32, 32)
    singles = []
    for part in x.split(20):
        single = build(4, 0.0, seed=0).train()
        single(part)
        singles.append(single.stem[1].running_mean)
    replicas = Replicas(network, 2)
    for replica, picked in replicas.split(torch.arange(40)):
        replica(x[picked]).sum().backward()
    replicas.gather(2)
    for replica in replicas.networks:
        torch.testing.assert_close(replica.stem[1].running_mean, (singles[0] + singles[1]) / 2)


def test_what_the_optimizer_writes_every_replica_reads(network: Network) -> None:
    replicas = Replicas(network, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    gradients(network, torch.randn(8, 1, 32, 32))
    optimizer.step()
    for replica in replicas.networks[1:]:
        for mine, shared in zip(replica.parameters(), network.parameters(), strict=True):
            assert torch.equal(mine, shared)
            assert mine.data_ptr() == shared.data_ptr()


@pytest.mark.parametrize(("films", "parts"), [(64, 2), (33, 2), (32, 2), (31, 1), (3, 1)])
def test_a_small_batch_is_not_cut_into_crumbs(network: Network, films: int, parts: int) -> None:
    shares = Replicas(network, 2).split(torch.arange(films))
    assert len(shares) == parts
    assert torch.equal(torch.cat([picked for _, picked in shares]), torch.arange(films))


def test_an_idle_replica_counts_for_nothing(network: Network) -> None:
    replicas = Replicas(network, 2)
    x = torch.randn(8, 1, 32, 32)
    alone = build(4, 0.0, seed=0).train()
    expected = gradients(alone, x)
    gradients(network, x)
    replicas.gather(1)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    for replica in replicas.networks:
        torch.testing.assert_close(replica.stem[1].running_mean, alone.stem[1].running_mean)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_team_keeps_the_order_and_gives_the_threads_back(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seen = set()

        def work(number: int) -> tuple[int, int]:
            seen.add(threading.get_ident())
            return number, torch.get_num_threads()

        with team(2) as each:
            done = each(work, range(20))
        assert [number for number, _ in done] == list(range(20))
        assert {share for _, share in done} == {max(1, threads // 2)}
        assert (seen == {threading.get_ident()}) == (threads == 1)
        assert torch.get_num_threads() == threads
        with pytest.raises(KeyError), team(2) as each:
            each({}.__getitem__, [1])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
