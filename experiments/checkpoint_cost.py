"""What does the checkpoint of an epoch cost, in bytes and in time, against the epoch itself?

    python -m experiments.checkpoint_cost [--size 64] [--width 16] [--json FILE]

Trains the default recipe on random films, one thread, and writes the checkpoint of each epoch as `train` does, but for
the gallery. Times are of the processor, so that other work on the machine counts little, and of the clock, which
includes the disk.

Cost: two minutes. Result: see LOG.md.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from experiments import bench
from pneumonia.config import TrainConfig
from pneumonia.training import checkpoint
from pneumonia.training.checkpoint import State
from pneumonia.training.loop import FitData, fit

FILMS, VAL_FILMS = 4480, 720
EPOCHS = 3


def measure(config: TrainConfig) -> dict[str, float]:
    """Medians over the epochs: bytes, seconds of the processor and of the clock."""
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (FILMS + VAL_FILMS, config.size, config.size), np.uint8)
    labels = (np.arange(len(films)) % 4 > 0).astype(np.int64)
    data = FitData(
        train_films=films[VAL_FILMS:],
        train_labels=labels[VAL_FILMS:],
        val_films=films[:VAL_FILMS],
        val_labels=labels[:VAL_FILMS],
        opacities=True,
    )
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        since = time.process_time()

        def write(state: State) -> None:
            nonlocal since
            processor, clock = time.process_time(), time.perf_counter()
            checkpoint.write(path, state)
            rows.append(
                {
                    "bytes": float(path.stat().st_size),
                    "epoch_processor_seconds": processor - since,
                    "processor_seconds": time.process_time() - processor,
                    "seconds": time.perf_counter() - clock,
                }
            )
            since = time.process_time()

        fit(config, data, on_state=write)
    found = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    return {**found, "share": found["processor_seconds"] / found["epoch_processor_seconds"]}


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--size", type=int, default=TrainConfig.size)
    parser.add_argument("--width", type=int, default=TrainConfig.width)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(size=arguments.size, width=arguments.width, epochs=EPOCHS, device="cpu")
    report = bench.report({"size": config.size, "width": config.width, **measure(config)})
    print(json.dumps(report, indent=1))
    bench.write(report, arguments.json)


if __name__ == "__main__":
    main()
