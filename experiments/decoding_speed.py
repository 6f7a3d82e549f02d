"""How much faster than the usual Pillow loop are full-size films decoded?

    python -m experiments.decoding_speed --films DIR [--size 96] [--repeat 5] [--json FILE]

Both read every film of a folder from its file to a grey square of `size` pixels, on one thread, by turns, `repeat`
times; the first turn, which warms the disk's cache, does not count. Pillow: open, convert to grey, resize with
antialiasing. Ours: `served.read_film`, which decodes at a reduced scale and checks the header first.

Prints films a second of each, their ratio turn by turn, and how far the outputs are apart in grey levels.
Cost: a minute for 200 films. Result: see LOG.md.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pneumonia.served import read_film


def by_pillow(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as film:
        return np.asarray(film.convert("L").resize((size, size), Image.Resampling.BOX))


def by_us(path: Path, size: int) -> np.ndarray:
    return read_film(path.read_bytes(), size)


def seconds(decode: Callable[[Path, int], np.ndarray], paths: list[Path], size: int) -> float:
    began = time.perf_counter()
    for path in paths:
        decode(path, size)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, required=True, help="a folder of JPEG films, searched through")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    paths = sorted(p for p in arguments.films.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg"))
    if not paths:
        parser.error(f"no JPEG films in {arguments.films}")
    apart = [
        np.abs(by_pillow(p, arguments.size).astype(int) - by_us(p, arguments.size).astype(int)).mean() for p in paths
    ]
    pairs = [
        (seconds(by_pillow, paths, arguments.size), seconds(by_us, paths, arguments.size))
        for _ in range(arguments.repeat)
    ]
    ratios = np.array([pillow / ours for pillow, ours in pairs])
    report = {
        "films": len(paths),
        "pillow_films_per_second": len(paths) / float(np.mean([pillow for pillow, _ in pairs])),
        "our_films_per_second": len(paths) / float(np.mean([ours for _, ours in pairs])),
        "ratio": {"mean": float(ratios.mean()), "min": float(ratios.min()), "max": float(ratios.max())},
        "grey_levels_apart": {"mean": float(np.mean(apart)), "max": float(np.max(apart))},
    }
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
