"""Where does the time of a training step go, and how near is it to what the cores can do?

    python -m experiments.step_profile [--size 64] [--width 16] [--disturb 0] [--threads 1 2] [--json FILE]

Trains on random films, without painted opacities, and times the parts of a step from inside: waiting for the next batch
(the sampler's draws), augmentation, forward and backward pass, putting the replicas together, optimizer and averaged
weights. Then measures what a core can do at all: a large matrix product in the number format of the training. The
network's floating-point operations (torch's FlopCounterMode, forward and backward) over the time of a whole step give
the share of that.

Cost: half a minute. Result: see LOG.md.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments import bench
from pneumonia.augmentation.augment import augment
from pneumonia.config import TrainConfig
from pneumonia.training import loop as train
from pneumonia.training import sampling
from pneumonia.training.data_parallel import Replicas
from pneumonia.training.device import half_precision
from pneumonia.training.loop import FitData, fit
from pneumonia.training.network import build
from pneumonia.training.optimizer import AdamW

FILMS = 4480  # 70 steps of 64
EPOCHS = 3  # the first one warms up


class Clock:
    """Seconds spent in functions, summed over the threads that called them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return call

    def timed_items(self, name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def iterate(*args: Any) -> Iterator[Any]:
            items = function(*args)
            while (item := self.timed(name, lambda: next(items, None))()) is not None:
                yield item

        return iterate


def profile(config: TrainConfig, threads: int) -> dict[str, float]:
    """Films a second, and the share of the threads' time that each part of a step takes."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (FILMS, config.size, config.size), np.uint8)
    labels = (np.arange(FILMS) % 4 > 0).astype(np.int64)
    clock = Clock()
    places: list[tuple[Any, str, Callable[..., Any]]] = [
        (sampling, "batches", clock.timed_items("input", sampling.batches)),
        (train, "augment", clock.timed("augment", augment)),
        (Replicas, "gather", clock.timed("gather", Replicas.gather)),
        (AdamW, "step", clock.timed("optimizer", AdamW.step)),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, replacement in places:
        setattr(owner, name, replacement)
    epochs: list[float] = []

    def on_epoch(epoch: train.Epoch) -> None:
        if epoch.number == 1:
            clock.seconds.clear()
        else:
            epochs.append(FILMS / epoch.metrics["train/images_per_second"])

    try:
        data = FitData(train_films=films, train_labels=labels, val_films=films[:64], val_labels=labels[:64])
        fit(config, data, on_epoch=on_epoch)
    finally:
        torch.set_num_threads(threads_before)
        for owner, name, original in before:
            setattr(owner, name, original)
    wall = sum(epochs)
    together = {"augment"}  # what all threads do at once; the rest one does while the others wait
    shares = {name: s / wall / (threads if name in together else 1) for name, s in clock.seconds.items()}
    return {
        "films_per_second": FILMS * len(epochs) / wall,
        **{f"{name}_share": share for name, share in shares.items()},
        "network_and_rest_share": 1 - sum(shares.values()),
    }


def flops_a_film(config: TrainConfig) -> int:
    """Of the forward and the backward pass."""
    network = build(config.width, 0.0, seed=0)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 1, config.size, config.size)).sum().backward()
    return int(counter.get_total_flops()) // 2


def limit(half: torch.dtype | None) -> float:
    """Floating-point operations a second of one thread in a product of 2,048 x 2,048 matrices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.randn(2048, 2048).to(half or torch.float32)
    best = min(_seconds(lambda: a @ a) for _ in range(5))
    torch.set_num_threads(threads)
    return 2 * 2048**3 / best


def _seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--disturb", type=float, default=0.0, help="as in training; 0, the default, is the speedrun's")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    config = TrainConfig(
        size=arguments.size,
        width=arguments.width,
        epochs=EPOCHS,
        patience=EPOCHS,
        disturb=arguments.disturb,
        device="cpu",
    )
    half = half_precision(torch.device("cpu"))
    a_film, a_core = flops_a_film(config), limit(half)
    found: dict[str, Any] = {
        "size": config.size,
        "width": config.width,
        "disturb": config.disturb,
        "megaflops_a_film": a_film / 1e6,
        "limit_gigaflops_a_core": a_core / 1e9,
        "threads": {},
    }
    for threads in arguments.threads:
        figures = profile(config, threads)
        figures["share_of_limit"] = figures["films_per_second"] * a_film / (a_core * threads)
        found["threads"][str(threads)] = figures
    report = bench.report(found)
    print(json.dumps(report, indent=1))
    bench.write(report, arguments.json)


if __name__ == "__main__":
    main()
