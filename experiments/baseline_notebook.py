"""How long does the usual notebook take to what the speedrun reaches in seconds?

    python -m experiments.baseline_notebook --data DIR [--seeds 3] [--auc 0.918] [--epochs 3] [--json FILE]

The usual notebook on this dataset, written as its authors would at their best: ImageFolder and Pillow, 224 px RGB,
flip and rotation, WeightedRandomSampler, Adam at 1e-3, batches of 32, a loader worker a core, no needless work; two
networks, ResNet-18 from random weights and a plain CNN of four convolutions. Beside it the shortest training here
(`sprint` of `speedrun`), on the same films, machine and clock. Every network is scored on the test films, outside of
the clock: the notebooks four times an epoch, the sprint once, at its end.

A notebook's time to the AUC asked for is counted in two ways: to the end of the first epoch that has it, which is when
its user looks, and to the first of all four looks an epoch that has it. It runs until it has both, for `--epochs` at
most, and, if another network was there before, no longer than that one took.

Prints for each the seconds to that AUC, and their ratio. Cost: some five minutes an epoch on 2 cores, so up to an
hour and a half. `sprint` was chosen by validation films. Result: 149 times as long at epochs' ends, 52 at any look; see
LOG.md.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler
from torchvision import datasets, models, transforms

from experiments import bench, speedrun
from pneumonia.metrics import scores as metrics

LOOKS = 4  # scores an epoch, the last one at its end
NORMALISE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def plain_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(128 * 14 * 14, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 2)
    )


def resnet18() -> nn.Module:
    network: nn.Module = models.resnet18(num_classes=2)
    return network


def notebook(
    films: Path, build: Callable[[], nn.Module], *, seed: int, goal: float, epochs: int, limit: float
) -> dict[str, Any]:
    """Trains until the test AUC at an epoch's end is `goal`, for `epochs` or `limit` seconds at most.

    Returns:
        Seconds of training to `goal`, at an epoch's end and at any look, None where it was not reached; each
        (seconds, AUC) seen; the seconds of all.
    """
    torch.manual_seed(seed)
    began = time.perf_counter()
    train = datasets.ImageFolder(
        str(films / "train"),
        transforms.Compose(
            [
                transforms.Resize((224, 224)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomRotation(10),
                transforms.ToTensor(),
                NORMALISE,
            ]
        ),
    )
    counts = np.bincount(train.targets)
    sampler = WeightedRandomSampler((1 / counts)[train.targets].tolist(), len(train))
    workers = torch.get_num_threads()
    loader = DataLoader(train, batch_size=32, sampler=sampler, num_workers=workers, persistent_workers=True)
    network, loss = build(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps, looked = len(loader), 0.0
    looks = {round(steps * number / LOOKS) for number in range(1, LOOKS + 1)}
    result: dict[str, Any] = {"epoch_end": None, "any_look": None, "seen": []}
    for _ in range(epochs):
        network.train()
        for step, (x, y) in enumerate(loader, 1):
            optimizer.zero_grad()
            loss(network(x), y).backward()
            optimizer.step()
            if step not in looks:
                continue
            look = time.perf_counter()
            result["seconds"], auc = look - began - looked, test_auc(network, films)
            looked += time.perf_counter() - look
            result["seen"].append((result["seconds"], auc))
            print(f"  {result['seconds']:7.1f} s  test AUC {auc:.4f}", flush=True)
            if auc >= goal and result["any_look"] is None:
                result["any_look"] = result["seconds"]
            if auc >= goal and step == steps:
                return {**result, "epoch_end": result["seconds"]}
            if result["seconds"] > limit:
                return result
    return result


@torch.inference_mode()
def test_auc(network: nn.Module, films: Path) -> float:
    """Outside of the clock."""
    test = datasets.ImageFolder(
        str(films / "test"), transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), NORMALISE])
    )
    network.eval()
    scores: list[Tensor] = [network(x).softmax(1)[:, 1] for x, _ in DataLoader(test, batch_size=64)]
    network.train()
    return metrics.auc(test.targets, torch.cat(scores).double().numpy())


def ratio(runs: list[dict[str, Any]], way: str, ours: float) -> dict[str, Any]:
    """A run that did not get there counts with all of its time: the ratio is then a lower bound."""
    seconds = [run[way] or run["seconds"] for run in runs]
    missed = sum(run[way] is None for run in runs)
    return {"seconds": seconds, "missed": missed, "ratio": float(np.mean(seconds)) / ours}


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="chest_xray, with train and test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--auc", type=float, default=0.918, help="the test AUC to reach [.918]")
    parser.add_argument("--epochs", type=int, default=3, help="give a notebook up after so many [3]")
    parser.add_argument("--networks", nargs="+", choices=("plain", "resnet18"), default=["plain", "resnet18"])
    arguments = parser.parse_args()

    report: dict[str, Any] = {"auc": arguments.auc, "notebooks": {}}
    for path in arguments.data.rglob("*.*"):
        path.read_bytes()  # so that no clock pays for a cold disk
    print("sprint")
    sprint = speedrun.RECIPES["sprint"]
    report["sprint"] = [speedrun.run(arguments.data, replace(sprint, seed=seed)) for seed in range(arguments.seeds)]
    for run in report["sprint"]:
        print(f"  {run['seconds']:7.2f} s  test AUC {run['test_auc']:.4f}")
    ours = float(np.mean([run["seconds"] for run in report["sprint"]]))
    reached = np.mean([run["test_auc"] for run in report["sprint"]])
    print(f"sprint: {ours:.2f} s to a mean AUC of {reached:.4f}{' (FALLS SHORT)' if reached < arguments.auc else ''}")
    limit = float("inf")
    for name in arguments.networks:
        runs = []
        for seed in range(arguments.seeds):
            print(f"{name}, seed {seed}", flush=True)
            build = {"plain": plain_cnn, "resnet18": resnet18}[name]
            asked = {"goal": arguments.auc, "epochs": arguments.epochs, "limit": limit}
            runs.append(notebook(arguments.data, build, seed=seed, **asked))
        ways = {way: ratio(runs, way, ours) for way in ("epoch_end", "any_look")}
        report["notebooks"][name] = {"runs": runs, **ways}
        for way, times in ways.items():
            seconds = ", ".join(f"{value:.1f}" for value in times["seconds"])
            missed = f" ({times['missed']} did not get there: a lower bound)" if times["missed"] else ""
            print(f"{name}, {way.replace('_', ' ')}: {seconds} s, ratio {times['ratio']:.0f}{missed}", flush=True)
        limit = min(limit, max(run["seconds"] for run in runs))
    bench.write(bench.report(report), arguments.json)


if __name__ == "__main__":
    main()
