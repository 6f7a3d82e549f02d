"""Do the promises hold on real films?

    uv run python -m experiments.acceptance --films ../shared/data --seeds 0 1 2 [--json FILE]

Checks, each with its figure and its bound:

1. search    `mlflow run` on the films with no other parameter: at most 20 minutes, at least 8 trials, a champion. Once
             for each seed; the champions' AUC on the test films at hand, mean (at least .975) and spread.
2. server    `mlflow models serve` of the champion gives for each film of originals/ what `pneumonia predict` gives.
3. skew      films of full_size/ against the same films of the 224 px set: the median difference in probability is at
             most .03, and a label flips only within .1 of the threshold.

It works in a folder of its own (--folder), so that nothing here is touched. Cost: about 7 minutes a seed on 2 cores.
The AUC of check 1 opens the test films; it is a report, and nothing may be chosen by it.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import requests

from experiments import bench

ROOT = Path(__file__).parent.parent
CHAMPION = "models:/pneumonia@champion"


def command(*words: str, folder: Path) -> str:
    """Runs a command in `folder` with this checkout importable; its standard output."""
    done = subprocess.run(words, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # the server starts uvicorn
        "PYTHONPATH": str(ROOT),
        "PNEUMONIA_HOME": str(folder / ".pneumonia"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def search(films: Path, seed: int, folder: Path) -> dict[str, Any]:
    """One search through `mlflow run`, and the champion's figures on the test films at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    mlflow = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"]
    command(*mlflow, "--experiment-name", "pneumonia", "-P", f"data={films}", "-P", f"seed={seed}", folder=folder)
    seconds = time.monotonic() - started
    evaluate = [sys.executable, "-m", "pneumonia", "evaluate", "--model", CHAMPION, "--data", str(films), "--json"]
    scores = json.loads(command(*evaluate, folder=folder))["scores"]
    trials = pd.read_csv(next((folder / ".pneumonia" / "records").glob("*/search-*/artifacts/trials.csv")))
    return {
        "seed": seed,
        "minutes": round(seconds / 60, 2),
        "trials": int(trials["state"].isin(["COMPLETE", "PRUNED"]).sum()),
        "test_auc": scores["auc"]["value"],
        "test_accuracy": scores["accuracy"]["value"],
        "test_sensitivity": scores["sensitivity"]["value"],
        "test_specificity": scores["specificity"]["value"],
    }


def predictions(films: Path, folder: Path) -> pd.DataFrame:
    """`pneumonia predict` of a folder: path, probability, label, threshold, error."""
    out = folder / f"predictions-{films.name}.csv"
    command(
        sys.executable, "-m", "pneumonia", "predict", "--model", CHAMPION, "-o", str(out), str(films), folder=folder
    )
    return pd.read_csv(out)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The real model server on the champion; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", CHAMPION, "--env-manager", "local"]
    process = subprocess.Popen([*serve, "-p", str(port)], cwd=folder, env=environment(folder), start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                if requests.get(f"{address}/health", timeout=1).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(10)


def served_as_predicted(originals: Path, folder: Path) -> dict[str, Any]:
    """The greatest difference in probability between the server and `pneumonia predict`."""
    table = predictions(originals, folder)
    assert table["error"].isna().all(), table
    differences = []
    with server(folder) as address:
        for row in table.itertuples():
            image = base64.b64encode((folder / str(row.path)).read_bytes()).decode()
            answer = requests.post(f"{address}/invocations", json={"dataframe_records": [{"image": image}]}, timeout=60)
            differences.append(abs(answer.json()["predictions"][0]["probability"] - row.probability))
    return {"films": len(table), "greatest_difference": max(differences), "holds": max(differences) < 1e-9}


def skew(full_size: Path, small: Path, folder: Path) -> dict[str, Any]:
    """Full-size films against the same films at 224 px."""
    large = predictions(full_size, folder)
    large["name"] = large["path"].map(lambda path: Path(path).name)
    wanted = [path for path in small.rglob("*.jpeg") if path.name in set(large["name"])]
    out = folder / "predictions-small.csv"
    command(
        sys.executable, "-m", "pneumonia", "predict", "--model", CHAMPION, "-o", str(out), *map(str, wanted),
        folder=folder,
    )  # fmt: skip
    both = large.merge(pd.read_csv(out).assign(name=lambda t: t["path"].map(lambda path: Path(path).name)), on="name")
    difference = (both["probability_x"] - both["probability_y"]).abs()
    flips = both[both["label_x"] != both["label_y"]]
    distance = (flips["probability_y"] - flips["threshold_y"]).abs()
    return {
        "films": len(both),
        "median_difference": float(difference.median()),
        "greatest_difference": float(difference.max()),
        "flips": len(flips),
        "flips_beyond_a_tenth": int((distance > 0.1).sum()),
        "holds": bool(difference.median() <= 0.03 and not (distance > 0.1).any()),
    }


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--films", type=Path, required=True, help="holds chest_xray, full_size and originals")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / ".pneumonia" / "acceptance")
    arguments = parser.parse_args()
    films, base = arguments.films.absolute(), arguments.folder.absolute()

    result: dict[str, Any] = {"search": []}
    for seed in arguments.seeds:
        result["search"].append(search(films / "chest_xray", seed, base / f"{time.time_ns()}-seed-{seed}"))
        print(json.dumps(result["search"][-1]), flush=True)
    aucs = [entry["test_auc"] for entry in result["search"]]
    result["test_auc"] = bench.mean_std(aucs)
    last = max(base.glob(f"*-seed-{arguments.seeds[-1]}"))
    result["server"] = served_as_predicted(films / "originals", last)
    result["skew"] = skew(films / "full_size", films / "chest_xray" / "train", last)
    print(json.dumps(result, indent=1))
    promises = {
        "at most 20 minutes": all(entry["minutes"] <= 20 for entry in result["search"]),
        "at least 8 trials": all(entry["trials"] >= 8 for entry in result["search"]),
        "mean test AUC at least .975": result["test_auc"]["mean"] >= 0.975,
        "server and predict agree": result["server"]["holds"],
        "full-size and small films agree": result["skew"]["holds"],
    }
    for promise, holds in promises.items():
        print("holds " if holds else "FAILS ", promise)
    bench.write(bench.report(result), arguments.json)
    sys.exit(not all(promises.values()))


if __name__ == "__main__":
    main()
