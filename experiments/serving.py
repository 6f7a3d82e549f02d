"""What does scoring cost beside bare decoding and the bare network, in batches and over HTTP?

    python -m experiments.serving --model URI --films DIR [--repeat 5] [--counts 1000 20000] [--requests 300]
                                  [--starts 3] [--soak 60] [--json FILE]

Batches: `predict` on the films of a folder, from listing them to the finished CSV, against the bare work on the same
cores by turns, after a turn that does not count. Bare is a process a core, each of which reads, decodes and scores its
share with `served.read_film` and `Predictor.look`, without MLflow, tables or errors; its start is not counted, nor is
the loading of the model in either. Seconds of the CPU are those of all threads and processes: on a loaded machine their
ratio is the steadier one.

Memory: the peak of `pneumonia predict`, as the system counts it, on so many copies of the films of that folder.

Requests: one film each, by turns to `mlflow models serve` of the model, to the same server with a model that does
nothing and has the same schema, through the shipped nginx, and to the bare decoding and network in this process. The
films are a hundred of the folder, and the same at 224 px. Starts: from the command to the first answer, by turns.

Soak: 64 clients for so many seconds. One request in ten is no film, one in twenty is broken off. No answer may be wrong
or 5xx; memory is that of the server after ten seconds and at the end.

Cost: ten minutes on two quiet cores. Needs nginx with njs. Result: LOG.md.
"""

import argparse
import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import psutil
import requests
from mlflow.models import get_model_info

from experiments import bench
from pneumonia import served
from pneumonia.serving.film_list import FilmList
from pneumonia.serving.nginx_process import Nginx
from pneumonia.serving.predict import LocalScorer, Model, load
from pneumonia.serving.prediction_job import Job
from pneumonia.serving.scoring_server import free_ports

# A process of its own, and a small one: the system counts the peak of a new process from that of the one it came from.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

# The model that does nothing, in the form of models from code.
EMPTY = """
import mlflow.models
import mlflow.pyfunc


class Empty(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        answer = {"probability": 0.5, "label": "NORMAL", "threshold": 0.4, "familiarity": 0.5, "familiar": True}
        return [{**answer, "warning": "", "error": ""}] * len(model_input)


mlflow.models.set_model(Empty())
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


@dataclass(frozen=True)
class Served:
    """`mlflow models serve`, answering."""

    port: int
    process: psutil.Process
    seconds: float  # from its command to its first answer

    def ask(self, session: requests.Session, body: bytes) -> requests.Response:
        return ask(session, self.port, body)

    def megabytes(self) -> float:
        family = [self.process, *self.process.children(recursive=True)]
        return sum(one.memory_full_info().uss for one in family) / 2**20


def ask(session: requests.Session, port: int, body: bytes) -> requests.Response:
    headers = {"Content-Type": "application/json"}
    return session.post(f"http://127.0.0.1:{port}/invocations", data=body, headers=headers, timeout=60)


def body(film: bytes) -> bytes:
    return json.dumps({"dataframe_records": [{"image": base64.b64encode(film).decode("ascii")}]}).encode()


@contextmanager
def serve(model: Path, film: bytes) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "-h", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "PATH": path, "UVICORN_LOG_LEVEL": "warning"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with requests.Session() as session:
            while process.poll() is None:
                with suppress(requests.ConnectionError):
                    ask(session, port, body(film)).raise_for_status()
                    break
                time.sleep(0.02)
        if process.poll() is not None:
            raise RuntimeError(f"`{' '.join(command)}` ended with {process.returncode}")
        yield Served(port, psutil.Process(process.pid), time.perf_counter() - began)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def empty_model(model: str, folder: Path) -> Path:
    """A model of the same schema that answers without a look at the film."""
    code = folder / "empty.py"
    code.write_text(EMPTY)
    signature = get_model_info(model).signature
    mlflow.pyfunc.save_model(folder / "empty", python_model=str(code), signature=signature, pip_requirements=[])
    return folder / "empty"


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    answer = call(*arguments)
    seconds = time.perf_counter() - began
    if isinstance(answer, requests.Response):
        answer.raise_for_status()
    return seconds * 1000


def over_http(
    servers: tuple[Served, Served], nginx_port: int, predictor: served.Predictor, films: list[bytes], count: int
) -> dict[str, Any]:
    """Medians in ms of the ways by turns, and their ratios."""
    ours, empty = servers

    def look(film: bytes) -> None:
        predictor.look(served.read_film(film, predictor.size))

    times: dict[str, list[float]] = {"server": [], "empty server": [], "nginx": [], "bare": []}
    with requests.Session() as session:
        for film in islice(cycle(films), count + 20):
            data = body(film)
            times["server"].append(timed(ours.ask, session, data))
            times["empty server"].append(timed(empty.ask, session, data))
            times["nginx"].append(timed(ask, session, nginx_port, data))
            times["bare"].append(timed(look, film))
    medians = {name: float(np.median(those[20:])) for name, those in times.items()}  # the first 20 warm up
    return {
        "p50 ms": medians,
        "of empty server and bare": medians["server"] / (medians["empty server"] + medians["bare"]),
        "nginx of server": medians["nginx"] / medians["server"],
    }


def soak(server: Served, expected: dict[bytes, float], seconds: float, clients: int = 64) -> dict[str, Any]:
    """What 64 clients get in so many seconds; `expected` has the probability of each film."""
    films, end = list(expected), time.monotonic() + seconds
    counts: Counter[str] = Counter()

    def client(seed: int) -> Counter[str]:
        chance, mine = random.Random(seed), Counter[str]()
        with requests.Session() as session:
            while time.monotonic() < end:
                kind, film = chance.random(), chance.choice(films)
                if kind < 0.05:
                    with socket.create_connection(("127.0.0.1", server.port)) as broken:
                        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                        broken.sendall(head + b"Content-Length: 99999\r\n\r\n" + body(film)[:5000])
                    mine["broken off"] += 1
                elif kind < 0.15:
                    answer = server.ask(session, body(film[:-1000] if kind < 0.1 else b"not a film"))
                    mine[f"no film: {answer.status_code}"] += 1
                else:
                    answer = server.ask(session, body(film))
                    right = answer.ok and abs(answer.json()["predictions"][0]["probability"] - expected[film]) < 1e-4
                    mine[f"film: {answer.status_code}{'' if right else ', wrong'}"] += 1
        return mine

    with ThreadPoolExecutor(clients) as crew:
        running = [crew.submit(client, seed) for seed in range(clients)]
        time.sleep(min(10.0, seconds / 2))
        warm = server.megabytes()
        for one in running:
            counts += one.result()
    time.sleep(2)
    after = server.megabytes()
    return {"answers": dict(counts), "MB after 10 s": warm, "MB at the end": after, "ratio": after / warm}


def shrunk(film: bytes) -> bytes:
    """The film as a JPEG of 224 px."""
    pixels = cv2.imdecode(np.frombuffer(film, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    return cv2.imencode(".jpg", cv2.resize(pixels, (224, 224)))[1].tobytes()


def http(model: str, package: Path, films: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    predictor = served.Predictor(package)
    paths = [path for path, _ in FilmList([str(films)])]
    some = np.linspace(0, len(paths) - 1, min(100, len(paths))).astype(int)  # of all classes
    full = [paths[number].read_bytes() for number in some]
    small = [shrunk(film) for film in full]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # for nginx's workers, where root starts it
        ours = Path(mlflow.artifacts.download_artifacts(model, dst_path=os.path.join(folder, "model")))
        empty = empty_model(str(ours), Path(folder))
        starts: dict[str, list[float]] = {"model": [], "empty": []}
        for _ in range(arguments.starts):
            for name, which in (("model", ours), ("empty", empty)):
                with serve(which, small[0]) as server:
                    starts[name].append(server.seconds)
        if arguments.starts:
            ratios = [a / b for a, b in zip(starts["model"], starts["empty"], strict=True)]
            found["cold start"] = {**starts, "ratio": bench.mean_std(ratios)}
        with serve(ours, small[0]) as server, serve(empty, small[0]) as nothing:
            if arguments.requests:
                port, spare = free_ports("127.0.0.1", 0)[:2]
                nginx = Nginx(Path(folder, "nginx"), host="127.0.0.1", port=port, backends=(server.port, spare))
                nginx.point_to(server.port)
                nginx.start()
                try:
                    for name, those in (("224 px", small), ("as they are", full)):
                        count = arguments.requests
                        found[name] = over_http((server, nothing), port, predictor, those, count)
                finally:
                    nginx.stop()
            if arguments.soak:
                expected = {
                    film: predictor.probabilities(served.read_film(film, predictor.size)[np.newaxis])[0]
                    for film in small[:20]
                }
                found["soak"] = soak(server, expected, arguments.soak)
    return found


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--model", required=True, help="URI or folder of a model")
    parser.add_argument("--films", type=Path, required=True, help="a folder of films")
    parser.add_argument("--repeat", type=int, default=5, help="turns, for the speed; 0 for none")
    parser.add_argument("--counts", type=int, nargs="*", default=[1000, 20_000], help="films, for the peak of memory")
    parser.add_argument("--requests", type=int, default=300, help="of each kind; 0 for none")
    parser.add_argument("--starts", type=int, default=3, help="of each server; 0 for none")
    parser.add_argument("--soak", type=float, default=60.0, metavar="SECONDS", help="0 for none")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "package")
        model = load(arguments.model, package_to=package)
        turns = arguments.repeat
        figures: dict[str, Any] = {"batches": speed(model, package, arguments.films, turns)} if turns else {}
        if arguments.requests or arguments.starts or arguments.soak:
            figures["http"] = http(arguments.model, package, arguments.films, arguments)
    peaks = {count: peak_megabytes(arguments.model, arguments.films, count) for count in arguments.counts}
    figures["peak MB"] = peaks
    figures["peak ratio"] = peaks[max(peaks)] / peaks[min(peaks)] if peaks else None
    print(json.dumps(figures, indent=1))
    bench.write(bench.report({**figures, "mlflow": mlflow.__version__}), arguments.json)


if __name__ == "__main__":
    main()
