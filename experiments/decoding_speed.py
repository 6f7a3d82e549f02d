"""How much faster than the usual Pillow loop are full-size films decoded?

    python -m experiments.decoding_speed --films DIR [--size 96] [--filters box bicubic lanczos] [--repeat 5]
                                         [--json FILE]

All read every film of a folder from its file to a grey square of `size` pixels, on one thread, by turns, `repeat`
times, after a turn that warms the disk's cache and does not count. Pillow: open, convert to grey, resize with a
filter. Its `box` takes the mean of the pixels that become one, as OpenCV's INTER_AREA does, and is its quickest;
`bicubic` is what it does when not told. Ours: `served.read_film`, which decodes at a reduced scale and checks the
header first.

Prints films a second of each, Pillow's time over ours turn by turn, and how far the outputs are apart in grey levels.
Cost: a minute for 200 films. Result: 1.3 to 2.8 times on films of 1262 x 872 px, 3.1 to 6.3 on 4500 x 3000; LOG.md.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from experiments import bench
from pneumonia.served import read_film


def by_pillow(path: Path, size: int, resampling: Image.Resampling) -> np.ndarray:
    with Image.open(path) as film:
        return np.asarray(film.convert("L").resize((size, size), resampling))


def by_us(path: Path, size: int) -> np.ndarray:
    return read_film(path.read_bytes(), size)


def seconds(decode: Callable[[Path, int], np.ndarray], paths: list[Path], size: int) -> float:
    began = time.perf_counter()
    for path in paths:
        decode(path, size)
    return time.perf_counter() - began


def apart(path: Path, size: int, theirs: Callable[[Path, int], np.ndarray]) -> float:
    return float(np.abs(theirs(path, size).astype(int) - by_us(path, size).astype(int)).mean())


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--films", type=Path, required=True, help="a folder of JPEG films, searched through")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--filters",
        nargs="+",
        choices=[resampling.name.lower() for resampling in Image.Resampling],
        default=["box", "bicubic", "lanczos"],
        help="of Pillow's resize",
    )
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    paths = sorted(p for p in arguments.films.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg"))
    if not paths:
        parser.error(f"no JPEG films in {arguments.films}")
    loops: dict[str, Callable[[Path, int], np.ndarray]] = {
        name: partial(by_pillow, resampling=Image.Resampling[name.upper()]) for name in arguments.filters
    }
    apart_by = {name: [apart(path, arguments.size, loop) for path in paths] for name, loop in loops.items()}
    turns = [
        {name: seconds(loop, paths, arguments.size) for name, loop in {"ours": by_us, **loops}.items()}
        for _ in range(arguments.repeat)
    ]

    def films_per_second(name: str) -> float:
        return len(paths) / float(np.mean([turn[name] for turn in turns]))

    figures: dict[str, Any] = {
        "films": len(paths),
        "our_films_per_second": films_per_second("ours"),
        "pillow": {
            name: {
                "films_per_second": films_per_second(name),
                "ratio": bench.mean_std([turn[name] / turn["ours"] for turn in turns]),
                "grey_levels_apart": {"mean": float(np.mean(apart_by[name])), "max": max(apart_by[name])},
            }
            for name in loops
        },
    }
    report = bench.report(figures)
    print(json.dumps(report, indent=1))
    bench.write(report, arguments.json)


if __name__ == "__main__":
    main()
