"""What does scoring cost beside bare decoding and the bare network?

    python -m experiments.serving --model URI --films DIR [--repeat 5] [--counts 1000 20000] [--json FILE]

Batches: `predict` on the films of a folder, from listing them to the finished CSV, against the bare work on the same
cores by turns, after a turn that does not count. Bare is a process a core, each of which reads, decodes and scores its
share with `served.read_film` and `Predictor.look`, without MLflow, tables or errors; its start is not counted, nor is
the loading of the model in either. Seconds of the CPU are those of all threads and processes: on a loaded machine their
ratio is the steadier one.

Memory: the peak of `pneumonia predict`, as the system counts it, on so many copies of the films of that folder.

Cost: a minute on two quiet cores. Result: LOG.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import cv2
import mlflow

from experiments import bench
from pneumonia import served
from pneumonia.serving.film_list import FilmList
from pneumonia.serving.predict import LocalScorer, Model, load
from pneumonia.serving.prediction_job import Job

# A process of its own, and a small one: the system counts the peak of a new process from that of the one it came from.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

_worker: dict[str, served.Predictor] = {}  # of a process of `bare`


def begin_bare(package: str) -> None:
    cv2.setNumThreads(1)
    _worker["predictor"] = served.Predictor(Path(package))


def score_bare(paths: list[str]) -> float:
    """Seconds of the CPU."""
    began, predictor = time.process_time(), _worker["predictor"]
    for path in paths:
        predictor.look(served.read_film(Path(path).read_bytes(), predictor.size))
    return time.process_time() - began


def bare(pool: Pool, paths: list[str], cores: int) -> dict[str, float]:
    began = time.perf_counter()
    cpu = pool.map(score_bare, [paths[first::cores] for first in range(cores)], chunksize=1)
    return {"seconds": time.perf_counter() - began, "cpu": sum(cpu)}


def batches(model: Model, films: Path, output: Path) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    Job(films=FilmList([str(films)]), scorer=LocalScorer(model)).to_file(output)
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def speed(model: Model, package: Path, films: Path, repeat: int) -> dict[str, Any]:
    paths = [str(path) for path, _ in FilmList([str(films)])]
    cores = len(os.sched_getaffinity(0))
    turns = []
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(cores, begin_bare, [str(package)]) as pool:
        for _ in range(repeat + 1):
            ours, theirs = batches(model, films, Path(folder) / "out.csv"), bare(pool, paths, cores)
            turns.append({"ours": ours, "bare": theirs})
    return {
        "films": len(paths),
        "cores": cores,
        **{
            f"{who} films/s": bench.mean_std([len(paths) / turn[who]["seconds"] for turn in turns[1:]])
            for who in ("ours", "bare")
        },
        **{
            f"ratio by {what}": bench.mean_std([turn["bare"][what] / turn["ours"][what] for turn in turns[1:]])
            for what in ("seconds", "cpu")
        },
    }


def peak_megabytes(model: str, films: Path, count: int) -> float:
    """Of `predict` on `count` copies of the films."""
    with tempfile.TemporaryDirectory() as folder:
        originals = [path for path, _ in FilmList([str(films)])]
        copies = Path(folder, "films")
        for number, original in enumerate(islice(cycle(originals), count)):
            copy = copies / f"{number // 1000:04d}" / f"{number:07d}{original.suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(original.read_bytes())
        words = ["predict", "--model", model, "-o", os.path.join(folder, "out.csv"), str(copies)]
        command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "pneumonia", *words]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) / 1024


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--model", required=True, help="URI or folder of a model")
    parser.add_argument("--films", type=Path, required=True, help="a folder of films")
    parser.add_argument("--repeat", type=int, default=5, help="turns, for the speed; 0 for none")
    parser.add_argument("--counts", type=int, nargs="*", default=[1000, 20_000], help="films, for the peak of memory")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "package")
        model = load(arguments.model, package_to=package)
        turns = arguments.repeat
        figures: dict[str, Any] = {"batches": speed(model, package, arguments.films, turns)} if turns else {}
    peaks = {count: peak_megabytes(arguments.model, arguments.films, count) for count in arguments.counts}
    figures["peak MB"] = peaks
    figures["peak ratio"] = peaks[max(peaks)] / peaks[min(peaks)] if peaks else None
    print(json.dumps(figures, indent=1))
    bench.write(bench.report({**figures, "mlflow": mlflow.__version__}), arguments.json)


if __name__ == "__main__":
    main()
