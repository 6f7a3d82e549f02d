"""A training step on several cores: each part of a batch goes through a replica of the network, in a thread of its own.

Replicas share their weights; each has its own gradients and batch-norm statistics, which are combined after each step
("ghost batch norm", Hoffer et al. 2017). So the result depends on the parts into which a batch is cut, and not on the
number of threads. With torch's threads inside each operation the cores wait for each other hundreds of times a step,
and for other work on one of them.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PART = 32  # films; batch norm's statistics of fewer are noise


def parts(batch_size: int, device: torch.device) -> int:
    """Into how many parts a batch is cut."""
    return max(1, round(batch_size / PART)) if device.type == "cpu" else 1


def threads_of_each(size: int) -> int:
    """How many of torch's threads each member of a `team` of `size` has."""
    threads = torch.get_num_threads()
    return threads // min(size, threads)


class Replicas:
    """`count` networks with the weights of `network`, which is the first of them."""

    def __init__(self, network: nn.Module, count: int) -> None:
        self.networks = [network, *(_replica(network) for _ in range(count - 1))]
        self._statistics = [[b for b in n.buffers() if b.is_floating_point()] for n in self.networks]

    def train(self) -> None:
        for network in self.networks:
            network.train()

    def split(self, batch: Tensor) -> list[tuple[nn.Module, Tensor]]:
        """A part of `batch` for each network; a small batch leaves some networks idle."""
        count = min(len(self.networks), max(1, len(batch) // (PART // 2)))
        return list(zip(self.networks, batch.tensor_split(count), strict=False))

    def zero_grad(self) -> None:
        for network in self.networks:
            network.zero_grad(set_to_none=True)

    @torch.no_grad()
    def gather(self, count: int) -> None:
        """After the first `count` networks had a part: the first gets the sum of the gradients, all the mean of the
        statistics.
        """
        if len(self.networks) == 1:
            return
        first, *others = ([p.grad for p in n.parameters() if p.grad is not None] for n in self.networks[:count])
        for gradients in others:
            torch._foreach_add_(first, gradients)
        mean, *rest = self._statistics
        for statistics in rest[: count - 1]:
            torch._foreach_add_(mean, statistics)
        torch._foreach_div_(mean, count)
        self.share_statistics()

    def share_statistics(self) -> None:
        """Gives all networks the batch-norm statistics of the first."""
        first, *rest = self._statistics
        for statistics in rest:
            torch._foreach_copy_(statistics, first)


def _replica(network: nn.Module) -> nn.Module:
    other = copy.deepcopy(network)
    for mine, shared in zip(other.parameters(), network.parameters(), strict=True):
        mine.data = shared.data  # the same memory: every replica reads what the optimizer writes
    return other


@contextmanager
def team(size: int) -> Iterator[Callable[..., list[Any]]]:
    """`map` by at most `size` threads, which share out the threads that torch may use; the order is that of the items.

    Grad mode and autocast are a thread's own: the mapped function sets what it needs.
    """
    threads = torch.get_num_threads()
    size = min(size, threads)
    if size <= 1:
        yield lambda function, *items: list(map(function, *items))
        return
    share = threads_of_each(size)
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(size, "replica", initializer=torch.set_num_threads, initargs=(share,)) as pool:
            yield lambda function, *items: list(pool.map(function, *items))
    finally:
        torch.set_num_threads(threads)
