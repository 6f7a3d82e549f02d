"""One process leads a study, and only it says that the study is done; another takes over when it is dead or silent."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from pneumonia.runtime.signals import identity
from pneumonia.search import attributes, connection, leader
from pneumonia.search import study as studies
from tests.conftest import gone
from tests.search.conftest import PRUNER


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_SECONDS", 0.05), ("SILENT_SECONDS", 0.15), ("POLL_SECONDS", 0.01)):
        monkeypatch.setattr(leader, name, seconds)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Calls of `leader` come from another machine from now on."""

    def move(host: str) -> None:
        monkeypatch.setattr(leader, "identity", lambda: {**identity(), "host": host})

    return move


def led(study: optuna.Study, run_id: str) -> leader.Lead:
    """The lead of a study that is free to be led, begun under a run."""
    lead = leader.claim(study, leader.ask(study).seen)
    assert lead is not None
    lead.begin(run_id)
    return lead


def stored(study: optuna.Study, name: str) -> Any:
    return study.user_attrs.get(name)


def test_led_while_the_block_runs_and_given_back_after_an_error(study: optuna.Study) -> None:
    assert leader.ask(study) == leader.Standing()
    lead = led(study, "run")

    def led_and_failed() -> None:
        with lead.held():
            standing = leader.ask(study)
            assert standing.leader is not None
            assert standing.leader["run_id"] == "run"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        led_and_failed()
    assert leader.ask(study) == leader.Standing()
    assert stored(study, attributes.PARENT) == "run"


def test_a_dead_leader_on_this_machine_is_known_without_waiting(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_wait(seconds: float) -> None:
        raise AssertionError("nothing to wait for")

    dead = {**gone(), "run_id": "run", "beat": 3}  # as an earlier version wrote it, without a token
    study.set_user_attr("leader", dead)
    monkeypatch.setattr(leader.time, "sleep", no_wait)
    assert leader.ask(study) == leader.Standing(seen=dead)
    assert leader.claim(study, dead) is not None


def test_a_silent_leader_elsewhere_is_dead(study: optuna.Study) -> None:
    silent = {**identity(), "host": "another-machine", "run_id": "run", "beat": 3}
    study.set_user_attr("leader", silent)
    began = time.monotonic()
    assert leader.ask(study) == leader.Standing(seen=silent)
    assert time.monotonic() - began >= leader.SILENT_SECONDS


def test_a_counting_leader_elsewhere_lives(study: optuna.Study, url: str, elsewhere: Callable[[str], None]) -> None:
    elsewhere("another-machine")
    lead = led(study, "run")
    elsewhere("this-machine")
    with lead.held():
        standing = leader.ask(studies.load(connection.connect(url), "films", seed=0, pruner=PRUNER))
        assert standing.leader is not None
        assert standing.leader["host"] == "another-machine"


def test_a_leader_is_not_silent_while_the_database_is_away(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {**identity(), "host": "another-machine", "run_id": "run", "beat": 3}
    study.set_user_attr("leader", there)
    read, calls = connection.user_attributes, []

    def slow(study: optuna.Study) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 2:
            time.sleep(2 * leader.SILENT_SECONDS)
        if len(calls) == 4:  # it can count on again
            study.set_user_attr("leader", {**there, "beat": 4})
        return read(study)

    monkeypatch.setattr(connection, "user_attributes", slow)
    assert leader.ask(study).leader == {**there, "beat": 4}


def test_of_several_that_claim_at_once_one_leads(study: optuna.Study, url: str) -> None:
    seen = leader.ask(study).seen
    others = [studies.load(connection.connect(url), "films", seed=0, pruner=PRUNER) for _ in range(2)]
    leads = [leader.claim(one, seen) for one in (study, *others)]
    assert [lead is not None for lead in leads] == [True, False, False]


def test_a_claim_counts_only_if_nothing_has_changed_since_one_looked(
    study: optuna.Study, elsewhere: Callable[[str], None]
) -> None:
    elsewhere("another-machine")
    lead = led(study, "run")
    elsewhere("this-machine")
    standing = leader.ask(study)  # it is silent
    lead.beat()  # and now it is not
    assert leader.claim(study, standing.seen) is None
    lead.finish("run")
    assert leader.claim(study, None) is None  # nobody leads it, but it is done


def test_a_lead_whose_answer_was_lost_is_had(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database takes what is written, and breaks before it says so: the same is written again."""
    calls = itertools.count()
    session = leader.Session

    class Breaking(session):  # type: ignore[misc,valid-type]
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            if next(calls) % 2 == 0:
                raise connection.StorageInternalError("the answer is lost")

    monkeypatch.setattr(leader, "Session", Breaking)
    monkeypatch.setattr(connection.time, "sleep", lambda seconds: None)
    lead = led(study, "run")
    lead.check()
    lead.finish("run")
    assert stored(study, attributes.FINISHED) == "run"


MOMENTS = ("before it asks", "before it claims", "before it sends", "after it sent")
EVENTS = ("dies", "finishes", "sleeps and beats", "sleeps and finishes", "sleeps and sends")


@pytest.mark.parametrize(("moment", "event"), list(itertools.product(MOMENTS, EVENTS)))
def test_every_order_of_a_takeover(
    study: optuna.Study, url: str, elsewhere: Callable[[str], None], moment: str, event: str
) -> None:
    """The leader falls silent. Another takes over step by step, and at one of the steps the first one wakes up, does
    what it was at, or is dead. Whatever the order: one of the two finishes, the trials are under the run of that one,
    and the other learns that it does not lead.
    """
    elsewhere("first-machine")
    first = led(study, "first run")
    elsewhere("second-machine")
    other = studies.load(connection.connect(url), "films", seed=0, pruner=PRUNER)
    ended: list[str] = []

    def happens(now: str) -> None:
        if now != moment or event == "dies":
            return
        try:
            if event.endswith("beats"):
                first.beat()
                first.check()
            if event.endswith("sends"):
                first.begin("first run")
            if "finishes" in event:
                first.finish("first run")
                ended.append("first run")
        except leader.LeadLost:
            ended.append("lost")

    happens(MOMENTS[0])
    standing = leader.ask(other)
    happens(MOMENTS[1])
    second = leader.claim(other, standing.seen) if standing.finished is None else None
    happens(MOMENTS[2])
    if second is not None:
        assert second.begin("second run") == ["first run"]
        happens(MOMENTS[3])
        second.finish("second run")
    elif standing.finished is None and stored(study, attributes.FINISHED) is None:
        first.check()  # it was awake again before the other claimed
        first.finish("first run")

    winner = "first run" if second is None else "second run"
    assert stored(study, attributes.FINISHED) == winner
    assert stored(study, attributes.PARENT) == winner
    if second is not None and ended:
        assert ended == ["lost"]
    assert leader.ask(study) == leader.Standing(finished=winner)
    for late in (first, second):
        if late is not None:
            with pytest.raises(leader.LeadLost):
                late.begin("late run")
    assert leader.claim(study, None) is None


def test_who_does_not_lead_any_more_learns_it_by_asking(study: optuna.Study, elsewhere: Callable[[str], None]) -> None:
    elsewhere("another-machine")
    lead = led(study, "run")
    lead.confirm()
    study.set_user_attr("leader", None)
    led(study, "other run")
    lead.check()  # it has not heard of it
    with pytest.raises(leader.LeadLost):
        lead.confirm()


def test_every_leader_before_is_known_the_earliest_first(study: optuna.Study) -> None:
    """A study that an earlier version began has the last parent alone."""
    study.set_user_attr("parent", "old run")
    found = []
    for run_id in ("a", "b", "c"):
        study.set_user_attr("leader", None)
        lead = leader.claim(study, None)
        assert lead is not None
        found.append(lead.begin(run_id))
    assert found == [["old run"], ["old run", "a"], ["old run", "a", "b"]]


def test_a_study_keeps_its_key(study: optuna.Study) -> None:
    led(study, "a")
    first = leader.key(study)
    study.set_user_attr("leader", None)
    led(study, "b")
    assert leader.key(study) == first
