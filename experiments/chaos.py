"""Does a search on two machines lose nothing, whatever breaks?

    python -m experiments.chaos [--rounds 20] [--trials 60] [--keep 60 5] [--log FILE]

Two searches with homes of their own, and host names of their own in every second round, share a PostgreSQL and a real
MLflow server that takes the artifacts. Meanwhile workers are killed every few seconds, as long as trials end between
that, one sleeps past its grace period and wakes, the leader is killed among the trials, in the final training and in
the gate, and sleeps until another leads, the database crashes twice, the tracking server once, and the disk of one
machine is full for a while, where a small one may be mounted. A command that was killed, or that said that its disk is
full, is typed again. Pruning is off and on by turns.

Afterwards there must be: exactly as many trials as asked for, each with one run and all that belongs to it, models as
`keep_models` says, no run that is RUNNING, one parent over all, one final model, one version, the champion; nothing
unsent; and exit code 0 of every command that was not killed.

Needs PostgreSQL's programs and, for host names, root. A round takes some minutes on two quiet cores. Results: LOG.md.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Run
from optuna.trial import TrialState

from experiments import bench
from pneumonia.search import connection
from pneumonia.search import study as studies
from pneumonia.synthetic import dataset
from pneumonia.tracking.record import records
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.command import Command, Lab
from tests.servers import PROGRAMS, PostgresServer, TrackingServer, running_postgres, running_tracker
from tests.small_disk import full, mounted

ROUND_SECONDS = 480.0
KILL_SECONDS = (4.0, 8.0)  # between two workers that are killed
NO_TRIAL_SECONDS = 30.0  # or so long, while no trial ends: a slow machine would do nothing but start workers
LOOK_SECONDS = 0.5  # between two questions to the study
DATABASE_SECONDS, TRACKER_SECONDS = 5.0, 20.0  # how long they are away
ASLEEP_SECONDS = connection.GRACE_SECONDS + 3 * connection.HEARTBEAT_SECONDS
LEADER_ASLEEP_SECONDS = 30.0  # another leads by then
AGAIN_SECONDS = 1.0  # until a killed command is typed again
DISK, FULL_SECONDS = "800m", 8.0  # of one machine's home, and how long it is full
PARENT = "mlflow.parentRunId"
NOT_YET = object()  # of something that cannot happen at this moment


@dataclass
class Machine:
    """A machine's search: its present command, and whether that was killed."""

    lab: Lab
    command: Command
    killed: bool = False
    ends: list[tuple[int, bool]] = field(default_factory=list)  # exit codes, and whether the command was killed

    def leads(self, leader: dict[str, Any]) -> bool:
        with suppress(psutil.Error):
            return any(process.pid == leader["pid"] for process in self.lab.processes())
        return False


class Round:
    """One search with all that happens to it."""

    def __init__(self, folder: Path, *, trials: int, keep: int, pruner: str, hosts: bool, seed: int) -> None:
        self.folder, self.trials, self.keep, self.random = folder, trials, keep, random.Random(seed)
        self.settings: dict[str, Any] = {
            "trials": trials,
            "workers": 2,
            "keep_models": keep,
            "pruner": pruner,
            "study": "chaos",
        }
        self.hosts, self.events = hosts, list[str]()
        self.began = time.monotonic()
        self.done, self.next_look, self.kills = 0, 0.0, 0

    def note(self, what: str) -> None:
        self.events.append(f"{time.monotonic() - self.began:.0f} s: {what}")
        print(f"  {self.events[-1]}", file=sys.stderr, flush=True)

    def run(self, films: Path) -> list[str]:
        """Runs the search to its end; returns what is wrong afterwards."""
        with (
            running_postgres() as database,
            running_tracker(self.folder / "server") as tracker,
            mounted(self.folder / "b" / "home", DISK) as self.small_disk,
        ):
            if not self.small_disk:
                self.note("no disk may be mounted here, so none is filled")
            url = database.create("chaos")
            labs = [
                Lab(
                    self.folder / name,
                    films,
                    tracking=tracker.uri,
                    storage=url,
                    host=f"machine-{name}" if self.hosts else None,
                )
                for name in ("a", "b")
            ]
            self.machines = [Machine(lab, lab.search(**self.settings)) for lab in labs]
            try:
                self.to_the_end(database, tracker)
                return wrong(labs, self.machines, tracker.uri, goal=self.trials, keep=self.keep)
            finally:
                for lab in labs:
                    lab.stop()

    def to_the_end(self, database: PostgresServer, tracker: TrackingServer) -> None:
        """Lets things happen until every machine's command has ended by itself."""
        happenings = self.happenings(database, tracker)
        next_kill, later = time.monotonic() + 5, list[tuple[float, Callable[[], None]]]()
        killed_at = (0, time.monotonic())  # how many trials were done then, and when
        while any(machine.command.process.poll() is None or machine.killed for machine in self.machines):
            now = time.monotonic()
            if now > self.next_look:
                self.done, self.next_look = len(self.lab.done()), now + LOOK_SECONDS
            if now - self.began > ROUND_SECONDS:
                self.note("time is over")
                return
            for machine in self.machines:
                self.type_again(machine)
            for when, what in list(later):
                if now >= when:
                    later.remove((when, what))
                    what()
            for condition, what in list(happenings):
                if condition():
                    follows = what()
                    if follows is NOT_YET:
                        continue
                    happenings.remove((condition, what))
                    if follows is not None:
                        later.append((time.monotonic() + follows[0], follows[1]))
            progress = self.done > killed_at[0] or now > killed_at[1] + NO_TRIAL_SECONDS
            if now > next_kill and progress and self.done < self.trials:
                next_kill, killed_at = now + self.random.uniform(*KILL_SECONDS), (self.done, now)
                self.kill_a_worker()
            time.sleep(0.05)

    @property
    def lab(self) -> Lab:
        return self.machines[0].lab

    def happenings(self, database: PostgresServer, tracker: TrackingServer) -> list[tuple[Callable[[], bool], Any]]:
        """What happens once, when its condition holds; each may say what follows after so many seconds."""

        def crash() -> None:
            self.note(f"the database is away for {DATABASE_SECONDS:.0f} s")
            database.stop()
            time.sleep(DATABASE_SECONDS)  # the conditions ask it
            database.start()

        def outage() -> Any:
            self.note(f"the tracking server is away for {TRACKER_SECONDS:.0f} s")
            tracker.kill()
            return TRACKER_SECONDS, tracker.start

        def fill() -> Any:
            if not self.small_disk:
                return None
            self.note(f"the disk of b is full for {FULL_SECONDS:.0f} s")
            stack = ExitStack()
            stack.enter_context(full(self.machines[1].lab.home))
            return FULL_SECONDS, stack.close

        def done(share: float) -> Callable[[], bool]:
            return lambda: self.done >= share * self.trials

        return [
            (done(0.15), self.kill_the_leader),
            (done(0.25), crash),
            (done(0.35), lambda: self.put_to_sleep("a worker", self.a_worker(), ASLEEP_SECONDS)),
            (done(0.45), outage),
            (done(0.55), fill),
            (done(0.65), crash),
            (done(0.75), lambda: self.put_to_sleep("the leader", self.leaders_pid(), LEADER_ASLEEP_SECONDS)),
            (self.in_final_training, self.kill_the_leader),
            (self.in_the_gate, self.kill_the_leader),
        ]

    def type_again(self, machine: Machine) -> None:
        """Takes down how a command ended; one that was killed is typed again."""
        code = machine.command.process.poll()
        if code is None or (len(machine.ends) == len(machine.lab.commands)):
            return
        machine.killed |= code == 1 and "the disk is full" in machine.command.last_line()
        machine.ends.append((code, machine.killed))
        if machine.killed:
            time.sleep(AGAIN_SECONDS)
            machine.killed = False
            machine.command = machine.lab.search(**self.settings)
            self.note(f"{machine.lab.folder.name} is typed again")

    def a_worker(self) -> int | None:
        """The process of a random running trial."""
        pids = [t.user_attrs["worker"]["pid"] for t in self.lab.trials(TrialState.RUNNING) if "worker" in t.user_attrs]
        return self.random.choice(pids) if pids else None

    def kill_a_worker(self) -> None:
        if (pid := self.a_worker()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills += 1

    def leaders_pid(self) -> int | None:
        study = self.lab.study
        leader = connection.user_attributes(study).get("leader") if study is not None else None
        return None if leader is None else int(leader["pid"])

    def kill_the_leader(self) -> None:
        """With all its workers, as a machine that loses its power."""
        pid = self.leaders_pid()
        for machine in self.machines:
            command = machine.command
            if command.process.poll() is None and pid == command.process.pid:
                self.note(f"the leader, {machine.lab.folder.name}, is killed")
                machine.killed = True
                command.kill()

    def put_to_sleep(self, what: str, pid: int | None, seconds: float) -> Any:
        if pid is None:
            return NOT_YET
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            return NOT_YET
        self.note(f"{what} sleeps for {seconds:.0f} s")

        def wake() -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                self.note(f"{what} wakes")

        return seconds, wake

    def finals(self) -> list[Any]:
        if self.done < self.trials:
            return []
        return [
            record
            for machine in self.machines
            for record in records(machine.lab.home / "records" / "chaos")
            if record.run.role == "final"
        ]

    def in_final_training(self) -> bool:
        return any(record.status is None and record.metrics for record in self.finals())

    def in_the_gate(self) -> bool:
        """A final training has ended, and its model is being registered."""
        ended = [record for record in self.finals() if record.status is not None]
        return any(
            record.status["state"] == "COMPLETE" and "model_id" in sent(record) and "verdict" not in sent(record)
            for record in ended
        )


def wrong(labs: list[Lab], machines: list[Machine], uri: str, *, goal: int, keep: int) -> list[str]:
    """What is not as it must be, in words."""
    lab, found = labs[0], list[str]()

    def expect(holds: bool, what: str) -> None:
        if not holds:
            found.append(what)

    done = {str(trial.number): trial for trial in lab.done()}
    expect(len(done) == goal, f"{len(done)} trials are done instead of {goal}")
    expect(not lab.trials(TrialState.RUNNING), "a trial is RUNNING")
    for machine in machines:
        for code, killed in machine.ends:
            expect(killed or code == 0, f"a command of {machine.lab.folder.name} that was not killed ended with {code}")
        waiting = Tracker(uri).waiting(machine.lab.home)
        expect(not waiting, f"{len(waiting)} records of {machine.lab.folder.name} are unsent")
        expect(not machine.lab.processes(), f"a process of {machine.lab.folder.name} is left")
    runs = lab.runs()
    running = [run.data.tags.get("role", "") for run in runs if run.info.status == "RUNNING"]
    expect(not running, f"runs are RUNNING: {', '.join(running)}")
    searches = [run for run in runs if run.data.tags["role"] == "search" and run.info.status == "FINISHED"]
    expect(len(searches) == 1, f"{len(searches)} searches are FINISHED")
    children = [run for run in runs if run.data.tags["role"] in ("trial", "final")]
    parents = {run.data.tags.get(PARENT) for run in children}
    expect(parents == {run.info.run_id for run in searches}, f"the runs are under {len(parents)} parents")
    finals = [run for run in children if run.data.tags["role"] == "final" and run.info.status == "FINISHED"]
    expect(len(finals) == 1, f"{len(finals)} final trainings are FINISHED")
    aliases = [version.aliases for version in lab.versions()]
    expect(aliases == [["champion"]], f"the versions' aliases are {aliases}")
    return found + wrong_trials(lab, done, [run for run in children if run.data.tags["role"] == "trial"], keep)


def wrong_trials(lab: Lab, done: dict[str, Any], runs: list[Run], keep: int) -> list[str]:
    """What the runs of the trials lack."""
    found, mine = [], {number: [r for r in runs if r.data.tags["trial.number"] == number] for number in done}
    counts = Counter(len(of) for of in mine.values())
    if set(counts) != {1}:
        found.append(f"trials have {dict(counts)} runs")
    best = sorted(done, key=lambda number: (studies.value(done[number]), int(number)))[:keep]
    tracker = Tracker(lab.tracking)
    for number, of in mine.items():
        for run in of:
            files = {file.path for file in lab.client.list_artifacts(run.info.run_id)}
            lacks = [
                *({"confusion_matrix.json", "figures", "predictions"} - files),
                *({"val/auc", "val/objective", "val/loss"} - run.data.metrics.keys()),
                *(["its end"] if run.data.tags.get("trial.state") != done[number].state.name else []),
                *(["its model"] if number in best and not tracker.has_model(run.info.run_id) else []),
            ]
            if lacks:
                found.append(f"trial {number} lacks {', '.join(lacks)}")
            if number not in best and tracker.has_model(run.info.run_id):
                found.append(f"trial {number} has kept its model")
    return found


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first round, its seed")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--keep", type=int, nargs="+", default=[60, 5], help="keep_models, by turns")
    parser.add_argument("--log", type=Path, help="a line of JSON a round is added to it")
    args = parser.parse_args()
    if PROGRAMS is None:
        sys.exit("PostgreSQL's programs are not in /usr/lib/postgresql: install the package postgresql")
    rows = []
    with tempfile.TemporaryDirectory(prefix="pneumonia-chaos-", ignore_cleanup_errors=True) as scratch:
        films = dataset.write(Path(scratch) / "films", seed=0, train=64, test=16)
        for number in range(args.first, args.first + args.rounds):
            settings = {
                "keep": args.keep[number % len(args.keep)],
                "pruner": ("none", "halving")[number // 2 % 2],
                "hosts": bool(number // 2 % 2) and os.getuid() == 0,
            }
            folder = Path(scratch) / f"round-{number}"
            folder.mkdir()
            print(f"round {number}: {settings}", file=sys.stderr, flush=True)
            one = Round(folder, trials=args.trials, seed=number, **settings)
            found = one.run(films)
            rows.append(
                {
                    "round": number,
                    **settings,
                    "wrong": found,
                    "seconds": round(time.monotonic() - one.began),
                    "kills": one.kills,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            if args.log is not None:
                with args.log.open("a") as log:
                    log.write(json.dumps({**rows[-1], "events": one.events, "commit": bench.commit()}) + "\n")
            if found:
                shutil.copytree(folder, Path(tempfile.gettempdir()) / f"chaos-{number}", dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
    held = sum(not row["wrong"] for row in rows)
    print(f"held in {held} of {len(rows)} rounds")
    bench.write(bench.report({"rounds": rows}), args.json)
    sys.exit(held < len(rows))


if __name__ == "__main__":
    main()
