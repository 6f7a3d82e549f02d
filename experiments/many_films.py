"""Does memory grow with the number of films that pass through the index and the cache?

    python -m experiments.many_films [--films 10000 100000] [--json FILE]

Writes so many small JPEGs, all different, in the real layout, and scans and decodes them in a process of its own.
Prints for each number the seconds and the highest memory of that process and of the largest decoding process.
Cost: two minutes. Result: 277 MB for 10,000 films, 360 MB for 100,000: a kilobyte a film, the index; see LOG.md.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from experiments import bench

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from pneumonia.data import cache; from pneumonia.data import index as data
began = time.perf_counter()
index = data.scan(sys.argv[1])
scanned = time.perf_counter()
at_scan = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decoded = cache.decode(index, size=96, home=Path(sys.argv[2]), workers=2)
print(json.dumps({
    "films": len(decoded.films), "scan_seconds": scanned - began, "decode_seconds": decoded.seconds,
    "megabytes_after_scan": at_scan // 1024,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    "megabytes_of_a_decoder": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
}))
"""


def write(folder: Path, count: int) -> None:
    """`count` JPEGs of 96 x 96 pixels that no two of are alike, a quarter of them NORMAL."""
    rng = np.random.default_rng(0)
    base = cv2.GaussianBlur(rng.integers(0, 256, (512, 512), dtype=np.uint8), (0, 0), 3)
    for name in ("NORMAL", "PNEUMONIA"):
        (folder / "train" / name).mkdir(parents=True)
    for number in range(count):
        y, x = divmod(number % (416 * 416), 416)
        film = base[y : y + 96, x : x + 96]
        name = f"NORMAL/IM-{number:06d}-0001.jpeg" if number % 4 == 0 else f"PNEUMONIA/person{number}_virus_1.jpeg"
        cv2.imwrite(str(folder / "train" / name), film)


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--films", type=int, nargs="+", default=[10_000, 100_000], help="at most 173,056 each")
    arguments = parser.parse_args()
    reports = []
    for count in arguments.films:
        with tempfile.TemporaryDirectory(prefix="many-films-") as scratch:
            folder, home = Path(scratch) / "films", Path(scratch) / "home"
            write(folder, count)
            command = [sys.executable, "-c", MEASURE, str(folder), str(home)]
            reports.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        print(json.dumps(reports[-1]), flush=True)
    bench.write(bench.report({"rows": reports}), arguments.json)


if __name__ == "__main__":
    main()
