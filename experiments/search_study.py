"""What does a search bring, and what do a second worker and the pruner bring to it?

    python -m experiments.search_study gain --data DIR [--seeds 5]
    python -m experiments.search_study workers --data DIR [--trials 8] [--json FILE]
    python -m experiments.search_study pruning --data DIR [--trials 8] [--seeds 5] [--json FILE]

gain      Is its champion better than the recipe, and than the recipe given all of its time? See `gain`.
workers   The same trials (the recipe as it stands, at the search's own size and number of epochs) once by one worker
          and once by two, each a process with one thread. Prints the ratio of the times, from the start of the first
          process to the end of the last.
pruning   Searches at the search's own settings, by two workers, with each pruner and each seed. Prints for each the
          epochs that its trials were trained for and the best objective, and the share of the epochs that pruning
          left. The curves of the unpruned trials are then shown to some of Optuna's pruners, one trial after the
          other, for what each would have saved and lost.

Films are decoded before the clock starts. Everything is kept in a temporary folder. No test film is opened.
Cost: for `workers` a minute and a quarter a trial on 2 cores, for `pruning` seven minutes a seed. Result: 1.83,
and, with 96 px and four epochs, .43 of the epochs for a best objective of .130 instead of .126; see LOG.md.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, PercentilePruner, SuccessiveHalvingPruner

from experiments import bench, gain
from pneumonia.config import Plan, Pruner, SearchConfig, TrainConfig
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.runs.context import RunContext
from pneumonia.runtime.environment import mlflow_defaults
from pneumonia.search import connection, pool
from pneumonia.search import pruning as pruners
from pneumonia.search import study as studies
from pneumonia.search.worker import Task
from pneumonia.search_space import search_space
from pneumonia.tracking.record import Run
from pneumonia.tracking.store import Tracker

PRUNERS: dict[str, BasePruner] = {
    "median": MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    "quarter": PercentilePruner(25.0, n_startup_trials=2),
    "halving by 2": SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "halving by 3": SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "halving by 3, as the search does it": pruners.pruner("halving", 4, long=False),
}


def _plan(index: data.Index) -> Plan:
    """What a search of these films does by default."""
    return SearchConfig(data="films").for_data(cores=2, films=len(index.only("train"))).decided()


def searched(
    index: data.Index, home: Path, *, trials: int, workers: int, pruner: Pruner, seed: int = 0, alike: bool = False
) -> tuple[optuna.Study, float]:
    """A study of `trials`, all of them the recipe as it stands if `alike`, and how long `workers` took to it."""
    plan = _plan(index)
    base = TrainConfig(size=plan.size, epochs=plan.epochs, seed=seed, device="cpu")
    name = f"{workers}-workers-{pruner}-seed-{seed}"
    tracker = Tracker(f"sqlite:///{home / 'mlflow.db'}")
    context = RunContext(home=home, tracker=tracker, experiment="study")
    run = Run(name=name, role="search", description="")
    context = context.under(tracker.send(context.begin(run, index, home / "records" / f"search-{name}")))
    storage, ranges = f"sqlite:///{home / f'{name}.db'}", search_space(long=False)
    study = studies.create_or_resume(connection.connect(storage), name, base, ranges, changed=True)
    for _ in range(trials - 1 if alike else 0):  # the first is there
        study.enqueue_trial({name: getattr(base, name) for name in ranges}, skip_if_exists=False)
    task = Task(
        index=index, base=base, long=False, changed=True, context=context, storage=storage, study=name, goal=trials,
        keep_models=trials, pruner=pruner,
    )  # fmt: skip
    began = time.perf_counter()
    pool.run(task, workers, on_poll=lambda: None, on_death=lambda: 0)
    took = time.perf_counter() - began
    done = studies.trials(study, *studies.DONE)
    if len(done) != trials:
        raise RuntimeError(f"{len(done)} of {trials} trials came to their end")
    return study, took


def workers(index: data.Index, home: Path, trials: int) -> dict[str, Any]:
    took = {str(n): searched(index, home, trials=trials, workers=n, pruner="none", alike=True)[1] for n in (1, 2)}
    return {"seconds": took, "ratio": took["1"] / took["2"]}


def pruning(index: data.Index, home: Path, trials: int, seeds: int) -> dict[str, Any]:
    kinds: tuple[Pruner, ...] = ("none", "halving")
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for seed in range(seeds):
        for kind in kinds:
            study, took = searched(index, home, trials=trials, workers=2, pruner=kind, seed=seed)
            done = studies.trials(study, *studies.DONE)
            curves = [[value for _, value in sorted(trial.intermediate_values.items())] for trial in done]
            best = min(trial.value for trial in done if trial.value is not None)
            epochs = sum(map(len, curves))
            runs[kind].append({"seed": seed, "seconds": took, "epochs": epochs, "best": best, "curves": curves})
            print(f"seed {seed}, pruner {kind}: {epochs} epochs, best {best:.4f}, {took:.0f} s", flush=True)
    unpruned = [run["curves"] for run in runs["none"]]
    replayed = {
        name: [replay(curves, pruner, recipe="as the search" in name) for curves in unpruned]
        for name, pruner in PRUNERS.items()
    }
    return {
        "runs": runs,
        "best": {kind: bench.mean_std([run["best"] for run in runs[kind]]) for kind in kinds},
        "share_of_epochs": share([run["epochs"] for run in runs["halving"]], [run["epochs"] for run in runs["none"]]),
        "share_of_seconds": share([r["seconds"] for r in runs["halving"]], [r["seconds"] for r in runs["none"]]),
        "replayed": {
            name: {
                "share_of_epochs": share([epochs for epochs, _ in each], [run["epochs"] for run in runs["none"]]),
                "best": bench.mean_std([best for _, best in each]),
            }
            for name, each in replayed.items()
        },
    }


def replay(curves: Sequence[Sequence[float]], pruner: BasePruner, *, recipe: bool = False) -> tuple[int, float]:
    """What `pruner` would have made of these trials' objectives by epoch: the epochs trained, and the best objective.

    A trial's objective is that of its best epoch, as in the search; none is pruned after its last, nor, with `recipe`,
    the first trial, as the search does it.
    """
    study = optuna.create_study(pruner=pruner)
    epochs = 0
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve, 1):
            epochs += 1
            trial.report(value, epoch)
            behind = epoch < len(curve) and trial.should_prune()
            if behind and not (recipe and trial.number == 0):
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, min(curve))
    return epochs, study.best_value


def share(some: Sequence[float], of: Sequence[float]) -> dict[str, float | None]:
    return bench.mean_std(np.array(some) / np.array(of))


def main() -> None:
    if sys.argv[1:2] == ["gain"]:
        gain.main(sys.argv[2:])
        return
    parser = bench.parser(__doc__)
    parser.add_argument("part", choices=("gain", "workers", "pruning"))
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train")
    parser.add_argument("--trials", type=int, help="[as many as a search has by default, 8]")
    parser.add_argument("--seeds", type=int, default=5, help="for pruning [5]")
    arguments = parser.parse_args()
    mlflow_defaults()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="search-study-") as folder:
        home = Path(folder)
        index = data.scan(arguments.data)
        plan = _plan(index)
        cache.decode(index.keep("train", "val"), size=plan.size, home=home)
        trials = arguments.trials or plan.trials
        if arguments.part == "workers":
            report = workers(index, home, trials)
        else:
            report = pruning(index, home, trials, arguments.seeds)
    report = bench.report(report)
    shown = {name: value for name, value in report.items() if name != "runs"}
    print(json.dumps(shown, indent=1))
    bench.write(report, arguments.json)


if __name__ == "__main__":
    main()
