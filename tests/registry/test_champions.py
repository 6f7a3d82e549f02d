"""The champions of a model: who, when, why, and back to the one before."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from pneumonia.cli import cli
from pneumonia.registry import gate
from pneumonia.registry.champions import Champion, one_before
from pneumonia.registry.gate import CHAMPION
from pneumonia.registry.versions import RegistryError, before, history, promote
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.tags import BY_HAND
from tests.registry.conftest import FILMS, NAME, aliases


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli, ["promote", "--name", NAME, *words])


def test_each_champion_is_listed_with_who_when_and_why(
    tracker: Tracker, stand_ins: Callable[[float], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    began = time.time()
    for loss in (0.5, 0.3, 0.4):  # the third stays challenger
        gate.decide(tracker, NAME, stand_ins(loss), FILMS)
    promote(tracker, NAME, "3", why="the second was trained on another hospital's films")
    promote(tracker, NAME, before(tracker, NAME), back=True)
    known = history(tracker, NAME)
    assert [(one.version, one.how, one.before) for one in known] == [
        ("1", "gate", None), ("2", "gate", "1"), ("3", "hand", "2"), ("2", "back", "3"),
    ]  # fmt: skip
    assert {one.who for one in known} == {"ann"}
    assert "no champion to beat" in known[0].why
    assert "0.3000" in known[1].why
    assert "0.5000 of version 1" in known[1].why
    assert known[2].why == "the second was trained on another hospital's films"
    times = [one.since for one in known]
    assert times == sorted(times)
    assert began - 1 <= times[0] <= times[-1] <= time.time() + 1


def test_going_back_twice_leads_further_back(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    for loss in (0.5, 0.4, 0.3):
        gate.decide(tracker, NAME, stand_ins(loss), FILMS)
    for version in ("2", "1"):
        done = invoke("--back", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["version"] == version == aliases(tracker)[CHAMPION]
    done = invoke("--back")
    assert done.exit_code == 1
    assert "no champion of pneumonia before version 1 is known" in done.output
    assert aliases(tracker)[CHAMPION] == "1"
    # What was left is not taken up again by the gate until something newer comes.
    gate.decide(tracker, NAME, "2", FILMS)
    assert aliases(tracker)[CHAMPION] == "1"


@pytest.mark.parametrize(
    ("went", "back"),
    [
        ("1", None),
        ("1 2", "1"),
        ("1 2 3 <2", "1"),
        ("1 2 3 <2 <1", None),
        ("1 2 3 <2 4", "2"),
        ("1 2 1", "2"),
        ("1 2 2", "1"),
        ("1 2 3 <1", None),
    ],
)
def test_the_one_before(went: str, back: str | None) -> None:
    moves = [Champion(version=move.strip("<"), how="back" if "<" in move else "hand") for move in went.split()]
    assert one_before(moves) == back


def test_of_champions_of_before_is_shown_what_is_known(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    client = tracker.client
    for loss in (0.5, 0.4, 0.3, 0.2):
        stand_ins(loss)
    assert history(tracker, NAME) == []
    client.set_registered_model_alias(NAME, CHAMPION, "1")
    assert history(tracker, NAME) == [Champion(version="1")]
    client.set_model_version_tag(NAME, "2", BY_HAND, "2 1764000000.000")  # by `promote` of before
    client.set_registered_model_alias(NAME, CHAMPION, "2")
    promote(tracker, NAME, "3")
    client.set_registered_model_alias(NAME, CHAMPION, "4")  # in MLflow's UI
    client.set_registered_model_alias(NAME, CHAMPION, "1")
    assert [(one.version, one.how) for one in history(tracker, NAME)] == [
        ("2", "hand"), ("3", "hand"), ("1", "unknown"),
    ]  # fmt: skip
    client.set_registered_model_alias(NAME, CHAMPION, "4")
    promote(tracker, NAME, "3")  # whose place 4 had taken, which nobody noted
    assert [one.version for one in history(tracker, NAME)] == ["2", "3", "4", "3"]
    done = invoke("--history")
    assert done.stdout.splitlines()[0].startswith("2025-11-24T16:00:00Z  version 2")
    assert "time not known" in done.stdout.splitlines()[2]
    shown = json.loads(invoke("--history", "--json").stdout)
    assert [one["version"] for one in shown["champions"]] == ["2", "3", "4", "3"]
    assert shown["champions"][0]["since"] == "2025-11-24T16:00:00Z"
    assert shown["champions"][2]["since"] is None


def test_a_champion_that_was_deleted_is_passed_over(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    for loss in (0.5, 0.4, 0.3):
        gate.decide(tracker, NAME, stand_ins(loss), FILMS)
    tracker.client.delete_model_version(NAME, "2")
    assert before(tracker, NAME) == "1"


def test_a_verdict_that_is_come_to_again_is_noted_once(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    version = stand_ins(0.5)
    for _ in range(2):
        gate.decide(tracker, NAME, version, FILMS)
    assert [one.how for one in history(tracker, NAME)] == ["gate"]
    promote(tracker, NAME, version, why="it is to stay")  # the same, but from now on only later ones outdo it
    assert [(one.version, one.how) for one in history(tracker, NAME)] == [("1", "gate"), ("1", "hand")]


def test_a_model_that_is_not_there_has_no_history(tracker: Tracker) -> None:
    with pytest.raises(RegistryError, match="no registered model other"):
        history(tracker, "other")
    assert invoke("--history").exit_code == 1


@pytest.mark.parametrize("words", [(), ("1", "--back"), ("--back", "--history"), ("1", "--history")])
def test_one_thing_at_a_time(store: str, words: tuple[str, ...]) -> None:
    done = invoke(*words)
    assert done.exit_code == 2
    assert "give one of VERSION, --back and --history" in done.output
