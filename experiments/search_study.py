"""What do a second worker and the pruner bring to the search?

    python -m experiments.search_study workers --data DIR [--trials 4] [--json FILE]

workers   The same trials (the recipe as it stands, at the search's own size and number of epochs) once by one worker
          and once by two, each a process with one thread. Prints the ratio of the times, from the start of the first
          process to the end of the last.

Films are decoded before the clock starts. Everything is kept in a temporary folder. No test film is opened.
Cost: for `workers` a minute and a half a trial on 2 cores. Result: 1.86, see LOG.md.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.speedrun import machine
from pneumonia import cache, data
from pneumonia.boundary import mlflow_defaults
from pneumonia.config import SearchConfig, TrainConfig, search_space
from pneumonia.record import Record, Run
from pneumonia.search import pool
from pneumonia.search import study as studies
from pneumonia.search.worker import Task
from pneumonia.tracking import Tracker
from pneumonia.trial import data_tags


def seconds(index: data.Index, home: Path, *, trials: int, workers: int) -> float:
    """How long `workers` take to `trials` equal trials."""
    plan = SearchConfig(data="films").for_data(cores=2).decided()
    base = TrainConfig(size=plan.size, epochs=plan.epochs, device="cpu")
    tracker = Tracker(f"sqlite:///{home / 'mlflow.db'}")
    run = Run(name=f"{workers} workers", role="search", experiment="study", tags=data_tags(index), description="")
    parent = tracker.send(Record.create(home / "records" / f"search-{workers}", run))
    storage = f"sqlite:///{home / f'study-{workers}.db'}"
    study = studies.create_or_resume(studies.connect(storage), "study", base)
    for _ in range(trials - 1):  # the first is there
        study.enqueue_trial({name: getattr(base, name) for name in search_space()}, skip_if_exists=False)
    task = Task(
        index=index, base=base, home=home, storage=storage, study="study", goal=trials, keep_models=trials,
        experiment="study", tracking_uri=tracker.uri, parent=parent, tags=data_tags(index),
    )  # fmt: skip
    began = time.perf_counter()
    pool.run(task, workers, on_poll=lambda: None, on_death=lambda: None)
    took = time.perf_counter() - began
    done = studies.trials(study, studies.TrialState.COMPLETE)
    if len(done) != trials:
        raise RuntimeError(f"{len(done)} of {trials} trials came to their end")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("workers",))
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mlflow_defaults()
    with tempfile.TemporaryDirectory(prefix="search-study-") as folder:
        home = Path(folder)
        index = data.scan(arguments.data)
        plan = SearchConfig(data="films").for_data(cores=2).decided()
        cache.decode(index.keep("train", "val"), size=plan.size, home=home)
        times: dict[str, Any] = {
            str(workers): seconds(index, home, trials=arguments.trials, workers=workers) for workers in (1, 2)
        }
    report = {"trials": arguments.trials, "seconds": times, "ratio": times["1"] / times["2"], "machine": machine()}
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
