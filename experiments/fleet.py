"""How many workers does one study bear, and what does it cost beside Optuna alone?

    python -m experiments.fleet [--workers 1 4 16] [--trials 200] [--pairs 1] [--pgbouncer 20] [--records 8]
                                [--json FILE]

An objective of 5 ms, no film, no record and no tracking: what is left is the study's database, a PostgreSQL of its own
without care for its disk. By turns: this program's way to a trial and back (lost trials, claim, heartbeat, attributes,
report, end), and Optuna's `ask`, `report` and `tell` with the same sampler and the same parameters. Each worker is a
process; the clock runs from when all are connected to the last trial's end.

Figures of a trial: statements and commits as SQLAlchemy and PostgreSQL count them, the seconds in which PostgreSQL was
at a statement, and the bytes by which the database grew.

With `--pgbouncer` the workers' connections end at pgbouncer, which hands a transaction at a time to so many of
PostgreSQL's.

With `--records`, one worker does so many whole trials, of drawn films, with record, figures, model and a real MLflow
server; then the same networks are trained alone. The difference is what a trial pays for being seen.

Needs PostgreSQL's programs, and pgbouncer for that. Cost: a minute for each number of workers and pair. Results: LOG.md
and the guide on many machines.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import Any
from unittest import mock

import optuna
import sqlalchemy
import torch

from experiments import bench
from pneumonia.config import TrainConfig
from pneumonia.data import cache, scan
from pneumonia.runs.context import RunContext
from pneumonia.runtime.signals import Stop, identity
from pneumonia.search import attributes, connection, pruning, study_space, worker
from pneumonia.search import study as studies
from pneumonia.search.lost_trials import requeue_lost_trials
from pneumonia.search_space import search_space
from pneumonia.synthetic import dataset
from pneumonia.tracking.store import Tracker
from pneumonia.training.loop import fit, fit_data
from tests.servers import PROGRAMS, USER, PostgresServer, running_postgres, running_tracker

OBJECTIVE_SECONDS = 0.005
METRICS = {f"val/metric-{number}": 0.5 for number in range(12)}  # as many as a trial tells the study
POLL_SECONDS = 0.05
KINDS = ("ours", "optuna")


def ours(study: optuna.Study, goal: int) -> None:
    """As `search.worker.work`, with an objective that computes nothing."""
    storage, home = connection.database(study), Path(tempfile.gettempdir())
    context = RunContext(home=home, tracker=Tracker(f"sqlite:///{home / 'nowhere.db'}"))

    def wait() -> bool:
        requeue_lost_trials(study, context)
        time.sleep(POLL_SECONDS)
        return True

    looked = time.monotonic()
    while True:
        if time.monotonic() > looked + connection.HEARTBEAT_SECONDS:
            requeue_lost_trials(study, context)
            looked = time.monotonic()
        if (trial := studies.claim(study, goal, wait=wait)) is None:
            return
        with (
            suppress(studies.LeaseLost, optuna.exceptions.UpdateFinishedTrialError),
            worker.heartbeat(storage, trial, connection.HEARTBEAT_SECONDS),
        ):
            studies.set_attributes(trial, {attributes.WORKER: identity(), attributes.FOLDER: str(home)})
            value = objective(trial)
            studies.set_attributes(trial, METRICS)
            studies.finish(study, trial.number, value, optuna.trial.TrialState.COMPLETE)


def optuna_alone(study: optuna.Study, goal: int) -> None:
    """Optuna's own way: each worker looks how many trials are done, and asks for one."""
    space = study_space.read(study)
    while len(study.get_trials(deepcopy=False, states=studies.DONE)) < goal:
        trial = study.ask(space)
        value = objective(trial)
        for name, metric in METRICS.items():
            trial.set_user_attr(name, metric)
        study.tell(trial, value)


def objective(trial: optuna.Trial) -> float:
    time.sleep(OBJECTIVE_SECONDS)
    value = sum(number for number in trial.params.values() if isinstance(number, float)) % 1
    trial.report(value, 1)
    return value


WAYS: dict[str, Callable[[optuna.Study, int], None]] = {"ours": ours, "optuna": optuna_alone}


def work(kind: str, url: str, goal: int, seed: int, together: Barrier, counts: "Queue[int]") -> None:
    """A worker's process."""
    storage = connection.connect(url, seconds=connection.PATIENCE_SECONDS)
    statements = [0]

    def count(*rest: Any) -> None:
        statements[0] += 1

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", count)
    study = studies.load(storage, kind, seed=seed, pruner=pruning.pruner("none", 1, long=False))
    together.wait()
    WAYS[kind](study, goal)
    counts.put(statements[0])


def measure(
    server: PostgresServer, pool_port: int | None, kind: str, workers: int, goal: int, number: int
) -> dict[str, Any]:
    """One search of `goal` trials in a database of its own, through pgbouncer where that has a port."""
    url = server.create(f"{kind}_{workers}_{number}")
    asked = url if pool_port is None else url.replace(f":{server.port}/", f":{pool_port}/")
    studies.create_or_resume(connection.connect(url), kind, TrainConfig(), search_space(long=False), changed=True)
    context = multiprocessing.get_context("forkserver")  # with what is imported here shared, for memory
    context.set_forkserver_preload(["pneumonia.search.worker", "tests.servers"])
    together, counts = context.Barrier(workers + 1), context.Queue()
    processes = [
        context.Process(target=work, args=(kind, asked, goal, number, together, counts)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    before = statistics(engine)
    together.wait()
    began, connections = time.perf_counter(), 0
    while any(process.is_alive() for process in processes):
        connections = max(connections, statistics(engine)["connections"])
        time.sleep(0.5)
    seconds = time.perf_counter() - began
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a worker of {kind} died")
    after, sent = statistics(engine), sum(counts.get() for _ in processes)
    done = len(
        studies.trials(
            studies.load(connection.connect(url), kind, seed=0, pruner=pruning.pruner("none", 1, long=False)),
            *studies.DONE,
        )
    )
    return {
        "trials_per_second": done / seconds,
        "trials": done,
        "statements": sent / done,
        "commits": (after["commits"] - before["commits"]) / done,
        "database_seconds": (after["seconds"] - before["seconds"]) / done,
        "bytes": (after["bytes"] - before["bytes"]) / done,
        "connections": connections,
    }


def statistics(engine: sqlalchemy.Engine) -> dict[str, Any]:
    """What PostgreSQL has counted of a database."""
    words = """
        SELECT xact_commit AS commits, active_time / 1000 AS seconds, pg_database_size(datname) AS bytes,
               (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections
        FROM pg_stat_database WHERE datname = current_database()
    """
    with engine.connect() as connection:
        return dict(connection.execute(sqlalchemy.text(words)).mappings().one())


def with_records(server: PostgresServer, trials: int) -> dict[str, Any]:
    """Seconds of whole trials, from being claimed to having been sent, and of the same trainings alone."""
    torch.set_num_threads(1)
    base, url = TrainConfig(size=64, epochs=2, device="cpu"), server.create("records")
    whole, run_trial = dict[int, float](), worker.run_trial

    def timed(trial: optuna.Trial, *rest: Any) -> None:
        began = time.perf_counter()
        run_trial(trial, *rest)
        whole[trial.number] = time.perf_counter() - began

    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(worker, "run_trial", timed):
        folder = Path(scratch)
        index = scan(dataset.write(folder / "films", seed=0, train=400, test=16))
        with running_tracker(folder / "server") as tracking:
            tracker = Tracker(tracking.uri)
            parent = tracker.client.create_run(tracker.experiment_id("pneumonia")).info.run_id
            study = studies.create_or_resume(
                connection.connect(url), "records", base, search_space(long=False), changed=True
            )
            task = worker.Task(
                index=index,
                base=base,
                long=False,
                changed=True,
                context=RunContext(home=folder / "home", tracker=tracker, parent=parent),
                storage=url,
                study=study.study_name,
                goal=trials + 1,  # the first warms up
                keep_models=trials + 1,
                pruner="none",
            )
            worker.work(task, Stop())
        data = fit_data(cache.decode(index.keep("train", "val"), size=base.size, home=folder / "home"), changed=True)
        done, alone = studies.trials(study, *studies.DONE)[1:], []
        for trial in done:
            began = time.perf_counter()
            fit(replace(base, **trial.params), data)
            alone.append(time.perf_counter() - began)
    seen = [whole[trial.number] for trial in done]
    return {
        "whole trials s": bench.mean_std(seen),
        "trained alone s": bench.mean_std(alone),
        "difference s": bench.mean_std([a - b for a, b in zip(seen, alone, strict=True)]),
    }


@contextmanager
def pgbouncer(server: PostgresServer, size: int) -> Iterator[int]:
    """Its port; `size` is how many of PostgreSQL's connections each database has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = server.folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user={USER}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\nadmin_users = {USER}\npool_mode = transaction\n"
        f"default_pool_size = {size}\nmax_client_conn = 2000\n"
    )
    as_user = ["runuser", "-u", USER, "--"] if os.getuid() == 0 else []
    command = [*as_user, "/usr/sbin/pgbouncer", str(settings)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--records", type=int, default=0, metavar="TRIALS", help="so many whole trials besides")
    parser.add_argument(
        "--pgbouncer", type=int, metavar="CONNECTIONS", help="ask through it, with so many to the server"
    )
    args = parser.parse_args()
    if PROGRAMS is None:
        sys.exit("PostgreSQL's programs are not in /usr/lib/postgresql: install the package postgresql")
    rows = []
    with ExitStack() as stack:
        server = stack.enter_context(running_postgres(settings="max_connections = 300\n"))
        port = stack.enter_context(pgbouncer(server, args.pgbouncer)) if args.pgbouncer else None
        for workers in args.workers:
            for pair in range(args.pairs):
                for kind in KINDS if pair % 2 == 0 else KINDS[::-1]:
                    found = measure(server, port, kind, workers, args.trials, pair)
                    rows.append({"kind": kind, "workers": workers, "pair": pair, **found})
                    print(
                        "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items())
                    )
        seen = with_records(server, args.records) if args.records else {}
        for name, spread in seen.items():
            print(f"{name}: {bench.spread(spread)}")
    for workers in args.workers:
        mine, other = (
            [row["trials_per_second"] for row in rows if (row["kind"], row["workers"]) == (kind, workers)]
            for kind in KINDS
        )
        ratio = bench.mean_std([a / b for a, b in zip(mine, other, strict=True)])
        print(f"{workers} workers: {bench.spread(ratio)} of Optuna alone")
    bench.write(bench.report({"rows": rows, "records": seen}), args.json)


if __name__ == "__main__":
    main()
