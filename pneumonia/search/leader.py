"""Who leads a study, and whether it is done. Both are decided here alone, each in one step of the study's database, so
that they hold at every moment of a takeover:

- A study has one leader: the process whose token stands in the attribute `leader`. It counts up there every few
  seconds. Whoever sees it dead, or without a new count for `SILENT_SECONDS`, may put itself in its place, if nothing
  has changed since it looked and the study is not done.
- Whoever wakes up and finds another token there leads no longer (`LeadLost`). It writes nothing more to the study.
- A study is done when its leader, still leading, writes `finished`. After that nobody leads it again.
- The run of the newest leader is the parent of all runs of the study (`Lead.begin`).
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
import psutil
import sqlalchemy
from optuna.storages._rdb.models import StudyModel, StudyUserAttributeModel
from sqlalchemy.orm import Session

from pneumonia.runtime.signals import identity, is_gone
from pneumonia.search import attributes, connection
from pneumonia.search.storage import StudyError

BEAT_SECONDS = 5.0
SILENT_SECONDS = 3 * BEAT_SECONDS
POLL_SECONDS = 1.0


class LeadLost(KeyboardInterrupt):
    """Another process leads the study, or has finished it. Ends what this one is at, as a signal does: `except
    Exception` does not catch it.
    """


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a study stands: done by the run `finished`, led by `leader`, or free to be led."""

    finished: str | None = None
    leader: dict[str, Any] | None = None
    seen: dict[str, Any] | None = None  # what stands there of a dead leader, for `claim`


def ask(study: optuna.Study) -> Standing:
    """How `study` stands. A leader elsewhere is watched until it counts on, at most `SILENT_SECONDS`; that needs no
    synchronised clocks.
    """
    seen = now = connection.user_attributes(study)
    looked = time.monotonic()
    end = looked + SILENT_SECONDS
    while True:
        leader = now.get(attributes.LEADER)
        if now.get(attributes.FINISHED) is not None:
            return Standing(finished=str(now[attributes.FINISHED]))
        if leader is None or is_gone(leader):
            return Standing(seen=leader)
        before = seen.get(attributes.LEADER)
        if _is_awake_here(leader) or leader != before:
            if leader["run_id"] is not None:
                return Standing(leader=leader)
            seen, end = now, looked + SILENT_SECONDS  # it has no run yet
        elif looked > end:
            return Standing(seen=leader)
        time.sleep(POLL_SECONDS)
        now, paused = connection.user_attributes(study), time.monotonic() - looked
        looked += paused
        if paused > BEAT_SECONDS:  # the database was away, or this process slept: nobody could count on
            end = looked + SILENT_SECONDS


def claim(study: optuna.Study, seen: Mapping[str, Any] | None) -> "Lead | None":
    """The lead, if the study is not done and `seen` still stands there; else None."""
    me = {**identity(), "token": uuid.uuid4().hex, "run_id": None, "beat": 0}

    def decide(have: dict[str, Any]) -> dict[str, Any]:
        if have.get(attributes.FINISHED) is not None or have.get(attributes.LEADER) != seen:
            return {}
        return {attributes.LEADER: me, attributes.KEY: have.get(attributes.KEY) or uuid.uuid4().hex}

    now = _change(study, decide)
    return Lead(study, me) if now.get(attributes.LEADER) == me else None


class Lead:
    """This process's lead of a study."""

    def __init__(self, study: optuna.Study, me: dict[str, Any]) -> None:
        self.study, self._me, self._lost = study, me, False
        self._writing = threading.RLock()  # counting on has a thread of its own

    @contextmanager
    def held(self) -> Iterator[None]:
        """Counts on while the block runs, and gives the lead back at its end."""
        try:
            with connection.repeating(self.beat, BEAT_SECONDS):
                yield
        finally:
            with suppress(StudyError, LeadLost):  # an unreachable database must not hide how the search ended
                self._write({attributes.LEADER: None}, seconds=1)

    def beat(self) -> None:
        """Counts on; whether another leads is then said by `check`."""
        with suppress(LeadLost):
            self.confirm(seconds=0)

    def confirm(self, *, seconds: float = connection.PATIENCE_SECONDS) -> None:
        """Counts on, and waits for the database for so long: a leader that is cut off from it cannot know who leads.

        Raises:
            LeadLost: another leads by now.
            StudyError: the database has not answered.
        """
        with self._writing:
            self._write({attributes.LEADER: {**self._me, "beat": self._me["beat"] + 1}}, seconds=seconds)

    def check(self) -> None:
        """Raises:
        LeadLost: another leads by now, as far as is known.
        """
        if self._lost:
            raise LeadLost(f"another search leads study {self.study.study_name} by now")

    def begin(self, run_id: str) -> list[str]:
        """Makes a run the parent of the study's trials; returns those that were it before, the earliest first.

        Raises:
            LeadLost: another leads by now.
        """
        have = connection.user_attributes(self.study)
        earlier = [*have.get(attributes.PARENTS, []), *filter(None, [have.get(attributes.PARENT)])]
        earlier = [one for one in dict.fromkeys(earlier) if one != run_id]
        with self._writing:
            leader = {**self._me, "run_id": run_id}
            self._write({attributes.LEADER: leader, attributes.PARENT: run_id, attributes.PARENTS: earlier})
        return earlier

    def finish(self, run_id: str) -> None:
        """Writes that the study is done.

        Raises:
            LeadLost: another leads by now.
        """
        self._write({attributes.FINISHED: run_id, attributes.LEADER: None})

    def _write(self, news: dict[str, Any], *, seconds: float = connection.PATIENCE_SECONDS) -> None:
        """Writes attributes of the study, if this process leads it."""

        def decide(have: dict[str, Any]) -> dict[str, Any]:
            if self._leads(have):
                return news
            if all(have.get(key) == value for key, value in news.items()):
                return {}  # the database took it, but its answer was lost
            self._lost = True
            return {}

        with self._writing:
            _change(self.study, decide, seconds=seconds)
            self.check()
            self._me = news.get(attributes.LEADER) or self._me

    def _leads(self, have: Mapping[str, Any]) -> bool:
        leader = have.get(attributes.LEADER) or {}
        return bool(leader.get("token") == self._me["token"])


def key(study: optuna.Study) -> str:
    """What tells the study from all others, whatever their names and databases; it has one since it was first led."""
    return str(connection.user_attributes(study)[attributes.KEY])


def _is_awake_here(leader: Mapping[str, Any]) -> bool:
    """Whether a leader is a process of this machine that runs."""
    if leader["host"] != identity()["host"]:
        return False
    try:
        return psutil.Process(int(leader["pid"])).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _change(
    study: optuna.Study,
    decide: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    seconds: float = connection.PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Writes the attributes that `decide` makes of those that are there, as one step: others that change a study this
    way wait until it is over. Returns what is there afterwards. `decide` may be called again where the database's
    answer was lost.
    """
    number, storage = study._study_id, connection.database(study)

    def step() -> dict[str, Any]:
        with Session(storage.engine) as session, session.begin():
            mine = sqlalchemy.select(StudyModel.study_id).where(StudyModel.study_id == number)
            session.execute(mine.with_for_update())  # sqlite has no such lock: there a transaction locks everything
            stored = sqlalchemy.select(StudyUserAttributeModel).where(StudyUserAttributeModel.study_id == number)
            rows: dict[str, Any] = {str(row.key): row for row in session.scalars(stored)}
            have = {name: json.loads(row.value_json) for name, row in rows.items()}
            news = decide(have)
            connection.put(session, rows, news, partial(StudyUserAttributeModel, study_id=number))
            return {**have, **news}

    return connection.with_retries(step, seconds=seconds)
