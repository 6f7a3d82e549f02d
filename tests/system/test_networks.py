"""Two searches on machines with addresses of their own, whose cables are pulled: nobody hears that a peer is away."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from pneumonia.search import connection
from tests.command import Command, Lab, until
from tests.networks import Switch, switch
from tests.servers import PROGRAMS, running_postgres, running_tracker

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def cables() -> Iterator[Switch]:
    if PROGRAMS is None:
        pytest.skip("PostgreSQL's programs are not in /usr/lib/postgresql")
    with switch(2) as made:
        if made is None:
            pytest.skip("network namespaces need root and iproute2's ip")
        yield made


@pytest.fixture
def labs(cables: Switch, films: Path, tmp_path: Path) -> Iterator[list[Lab]]:
    """Two machines; PostgreSQL and the tracking server are on a third one, this."""
    with (
        running_postgres(host=cables.address) as database,
        running_tracker(tmp_path / "server", host=cables.address) as tracker,
    ):
        url = database.create("networks")
        found = [
            Lab(tmp_path / name, films, tracking=tracker.uri, storage=url, host=name, network=name)
            for name in cables.names
        ]
        yield found
        for lab in found:
            lab.stop()


def both_at_work(labs: list[Lab], cables: Switch, *, trials: int, cut: Lab) -> list[Command]:
    """The searches of both machines, the first one's leading, each at a trial, when one of them is cut off."""
    first, second = labs
    commands = [first.search(trials=trials, workers=1)]
    stopped = first.delay()
    commands.append(second.search(trials=trials, workers=1))

    def at_a_trial() -> FrozenTrial | None:
        running = first.trials(TrialState.RUNNING)
        return next((t for t in running if t.user_attrs.get("worker", {}).get("host") == second.host), None)

    until(at_a_trial, "a trial of the second machine")
    cables.cut(str(cut.network))
    os.kill(stopped.user_attrs["worker"]["pid"], signal.SIGCONT)
    return commands


def check(lab: Lab, commands: list[Command], trials: int) -> None:
    """Nothing was lost, and nothing was done twice."""
    ends = [command.end(300) for command in commands]
    assert ends == [0, 0], "\n".join(command.text()[-2000:] for command in commands)
    assert len(lab.done()) == trials
    assert lab.trials(TrialState.RUNNING) == []
    runs = lab.runs()
    assert Counter(run.info.status for run in runs)["RUNNING"] == 0
    counts = Counter(run.data.tags["trial.number"] for run in lab.runs("trial"))
    assert {counts[str(trial.number)] for trial in lab.done()} == {1}
    searches = [run for run in lab.runs("search") if run.info.status == "FINISHED"]
    assert len(searches) == 1
    children = lab.runs("trial") + lab.runs("final")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {searches[0].info.run_id}
    finals = [run for run in lab.runs("final") if run.info.status == "FINISHED"]
    assert len(finals) == 1, "\n\n".join([*(str(run.info) for run in finals), *(c.text()[-3000:] for c in commands)])
    assert [version.aliases for version in lab.versions()] == [["champion"]]


def test_a_worker_that_is_cut_off_for_longer_than_the_grace_period(labs: list[Lab], cables: Switch) -> None:
    """Its trial is done elsewhere, and it goes on with others."""
    first, second = labs
    commands = both_at_work(labs, cables, trials=12, cut=second)
    time.sleep(connection.GRACE_SECONDS + 2 * connection.HEARTBEAT_SECONDS)
    cables.mend(str(second.network))
    check(first, commands, trials=12)
    lost = {t.user_attrs["worker"]["host"]: t.user_attrs["reason"] for t in first.trials(TrialState.FAIL)}
    assert lost in ({}, {second.host: "the worker stopped responding"})  # or the trial had just ended


def test_a_leader_that_is_cut_off_until_another_leads(labs: list[Lab], cables: Switch) -> None:
    first, second = labs
    commands = both_at_work(labs, cables, trials=5, cut=first)

    def leads() -> bool:
        assert first.study is not None
        leader = connection.user_attributes(first.study).get("leader")
        return leader is not None and leader["host"] == second.host

    until(leads, "the second machine leads", seconds=300)
    cables.mend(str(first.network))
    check(first, commands, trials=5)
