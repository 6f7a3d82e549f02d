"""The gate: the better model on the same films is champion, whatever goes away meanwhile."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pneumonia.registry import gate, scoring
from pneumonia.registry.gate import CHALLENGER, CHAMPION
from pneumonia.registry.scoring import Validation
from pneumonia.registry.versions import promote
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.store import Tracker
from tests.registry.conftest import FILMS, NAME, Register, aliases, versions

# --- real models


def test_the_better_model_is_champion_and_a_worse_one_challenger(tracker: Tracker, register: Register) -> None:
    first = register("first", bias=3.0)
    assert (first.version, first.alias) == ("1", CHAMPION)
    assert "no champion to beat" in first.reason
    better = register("better", bias=0.0)
    assert (better.version, better.alias) == ("2", CHAMPION)
    assert "of version 1" in better.reason
    worse = register("worse", bias=-2.0)
    assert (worse.version, worse.alias) == ("3", CHALLENGER)
    assert worse.line() == f"pneumonia version 3 is challenger: {worse.reason}"
    assert "\n" not in worse.line()
    tie = register("tie", bias=0.0)
    assert (tie.version, tie.alias) == ("4", CHALLENGER)
    assert aliases(tracker) == {CHAMPION: "2", CHALLENGER: "4"}


def test_a_champion_without_its_files_is_named_and_replaced_only_by_hand(tracker: Tracker, register: Register) -> None:
    register("good", bias=2.0)
    folder = tracker.client.get_model_version_download_uri(NAME, "1")
    shutil.rmtree(folder)
    verdict = register("better", bias=0.0)
    assert verdict.alias == CHALLENGER
    assert "the champion, version 1, cannot be read" in verdict.reason
    assert folder in verdict.reason
    assert "`pneumonia promote 2`" in verdict.reason
    assert "\n" not in verdict.line()
    assert aliases(tracker) == {CHAMPION: "1", CHALLENGER: "2"}
    assert register("later", bias=1.0).alias == CHALLENGER
    assert promote(tracker, NAME, "2") == "pneumonia version 2 is champion by hand (it was version 1)"
    assert register("worse", bias=3.0).alias == CHALLENGER
    assert aliases(tracker) == {CHAMPION: "2", CHALLENGER: "4"}


def test_a_champion_that_lost_one_file_stays_and_comes_back_with_it(tracker: Tracker, register: Register) -> None:
    register("good", bias=0.0)
    folder = Path(tracker.client.get_model_version_download_uri(NAME, "1"))
    away = (folder / "MLmodel").rename(folder.parent / "MLmodel")
    verdict = register("worse", bias=2.0)
    assert (verdict.alias, aliases(tracker)[CHAMPION]) == (CHALLENGER, "1")
    assert "pneumonia-gate-" not in verdict.reason  # our scratch folder
    away.rename(folder / "MLmodel")
    assert "of version 1" in register("worst", bias=3.0).reason
    assert aliases(tracker)[CHAMPION] == "1"


def test_a_version_without_its_files_does_not_come_back(tracker: Tracker, register: Register) -> None:
    register("good", bias=0.0)
    tracker.client.delete_registered_model_alias(NAME, CHAMPION)
    shutil.rmtree(tracker.client.get_model_version_download_uri(NAME, "1"))
    verdict = register("worse", bias=2.0)
    assert (verdict.alias, aliases(tracker)) == (CHAMPION, {CHAMPION: "2"})
    assert "version 1, which was better, cannot be read" in verdict.reason


def test_a_champion_that_is_no_model_of_this_program_is_named_and_replaced(
    tracker: Tracker, register: Register, tmp_path: Path
) -> None:
    code = tmp_path / "foreign.py"
    code.write_text(
        "import mlflow\n"
        "class Foreign(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, model_input, params=None):\n"
        "        return {'words': ['none']}\n"
        "mlflow.models.set_model(Foreign())\n"
    )
    mlflow.pyfunc.save_model(tmp_path / "foreign", python_model=str(code), pip_requirements=["mlflow"])
    tracker.client.create_registered_model(NAME)
    tracker.client.create_model_version(NAME, source=str(tmp_path / "foreign"))
    tracker.client.set_registered_model_alias(NAME, CHAMPION, "1")
    verdict = register("ours", bias=1.0)
    assert (verdict.version, verdict.alias) == ("2", CHAMPION)
    assert "version 1, cannot be scored" in verdict.reason


# --- the rule, with stand-ins for models


def test_without_a_champion_the_best_scored_version_comes_back(
    tracker: Tracker, stand_ins: Callable[[float], str]
) -> None:
    best, worse = stand_ins(0.2), stand_ins(0.4)
    assert gate.decide(tracker, NAME, best, FILMS).alias == CHAMPION
    tracker.client.delete_registered_model_alias(NAME, CHAMPION)
    verdict = gate.decide(tracker, NAME, worse, FILMS)
    assert verdict.alias == CHALLENGER
    assert f"version {best} is better" in verdict.reason
    assert aliases(tracker) == {CHAMPION: best, CHALLENGER: worse}


def test_a_champion_that_was_deleted_is_no_obstacle(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    best, worse = stand_ins(0.2), stand_ins(0.4)
    gate.decide(tracker, NAME, best, FILMS)
    tracker.client.delete_model_version(NAME, best)
    verdict = gate.decide(tracker, NAME, worse, FILMS)
    assert verdict.alias == CHAMPION
    assert "no champion to beat" in verdict.reason
    assert aliases(tracker) == {CHAMPION: worse}


def test_other_films_are_another_contest(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    first, second = stand_ins(0.2), stand_ins(0.3)
    gate.decide(tracker, NAME, first, FILMS)
    others = Validation(films=[], labels=np.array([]), patients=list("ab"), opacities=True, key="others")
    assert gate.decide(tracker, NAME, second, others).alias == CHALLENGER  # the champion is scored on those too
    assert f"gate.log_loss.{others.key}" in tracker.client.get_model_version(NAME, first).tags


def test_a_champion_that_wins_again_is_no_challenger(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    first, second = stand_ins(0.3), stand_ins(0.4)
    gate.decide(tracker, NAME, first, FILMS)
    gate.decide(tracker, NAME, second, FILMS)
    tracker.client.delete_model_version(NAME, first)
    assert gate.decide(tracker, NAME, second, FILMS).alias == CHAMPION
    assert aliases(tracker) == {CHAMPION: second}


def test_promotion_by_hand_is_outdone_only_by_later_versions(
    tracker: Tracker, stand_ins: Callable[[float], str]
) -> None:
    best, worst = stand_ins(0.1), stand_ins(0.9)
    for version in (best, worst):
        gate.decide(tracker, NAME, version, FILMS)
    said = promote(tracker, NAME, worst)
    assert said == f"pneumonia version {worst} is champion by hand (it was version {best})"
    assert aliases(tracker)[CHAMPION] == worst
    assert gate.decide(tracker, NAME, best, FILMS).alias == CHALLENGER  # an earlier version, however good
    assert gate.decide(tracker, NAME, stand_ins(0.95), FILMS).alias == CHALLENGER
    assert aliases(tracker)[CHAMPION] == worst
    later = stand_ins(0.5)
    assert gate.decide(tracker, NAME, later, FILMS).alias == CHAMPION
    assert promote(tracker, NAME, best).endswith(f"(it was version {later})")
    assert aliases(tracker)[CHAMPION] == best


def test_promotion_forgives_a_version_that_could_not_be_scored(
    tracker: Tracker, stand_ins: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stand_ins(None)
    tracker.client.set_registered_model_alias(NAME, CHAMPION, first)
    second = stand_ins(0.5)
    assert f"version {first}, cannot be scored (KeyError)" in gate.decide(tracker, NAME, second, FILMS).reason
    promote(tracker, NAME, first)
    monkeypatch.setattr(scoring, "losses", lambda uri, films: np.full(2, 0.5 if uri.endswith("1") else 0.6))
    assert gate.decide(tracker, NAME, stand_ins(0.6), FILMS).alias == CHALLENGER
    assert aliases(tracker)[CHAMPION] == first


def test_a_film_that_goes_says_nothing_about_the_champion(
    tracker: Tracker, stand_ins: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stand_ins(0.4), stand_ins(0.5)
    gate.decide(tracker, NAME, first, FILMS)
    before, score = tracker.client.get_model_version(NAME, first).tags, scoring.losses

    def gone(uri: str, films: Validation) -> np.ndarray:
        if uri.endswith(first):
            raise scoring.FilmGone("the validation film a.png is no longer there")
        return score(uri, films)

    monkeypatch.setattr(scoring, "losses", gone)
    with pytest.raises(scoring.FilmGone):
        gate.decide(tracker, NAME, second, FILMS)
    assert tracker.client.get_model_version(NAME, first).tags == before
    assert aliases(tracker) == {CHAMPION: first}


def test_a_store_that_goes_away_says_nothing_about_the_champion(
    tracker: Tracker, stand_ins: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stand_ins(None), stand_ins(0.5)
    tracker.client.set_registered_model_alias(NAME, CHAMPION, first)

    def away(uri: str) -> None:
        raise TrackingError("no answer")

    monkeypatch.setattr(gate, "reach", away)
    with pytest.raises(TrackingError, match="no answer"):
        gate.decide(tracker, NAME, second, FILMS)
    assert tracker.client.get_model_version(NAME, first).tags == {}
    assert aliases(tracker) == {CHAMPION: first}


# --- two searches that finish at once


@pytest.mark.slow
@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias"])
@pytest.mark.parametrize("own", [0.2, 0.4], ids=["the first is better", "the second is better"])
@pytest.mark.parametrize("reigning", [None, 0.3], ids=["no champion", "a champion between"])
def test_a_gate_that_another_one_overtakes_ends_with_the_better_champion(
    tracker: Tracker,
    stand_ins: Callable[[float], str],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    own: float,
    reigning: float | None,
) -> None:
    """The second gate runs from beginning to end just before the first one's next `call`, whichever that is."""
    other = 0.6 - own
    method = getattr(MlflowClient, call)
    for moment in (1, 2):
        if reigning is not None:
            gate.decide(tracker, NAME, stand_ins(reigning), FILMS)
        first, second = stand_ins(own), stand_ins(other)
        left = moment

        def overtaken(*args: Any, _second: str = second, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                with monkeypatch.context() as plain:
                    plain.setattr(MlflowClient, call, method)
                    gate.decide(tracker, NAME, _second, FILMS)
            return method(*args, **kwargs)

        with monkeypatch.context() as hooked:
            hooked.setattr(MlflowClient, call, overtaken)
            gate.decide(tracker, NAME, first, FILMS)
        if left > 0:
            gate.decide(tracker, NAME, second, FILMS)
        assert aliases(tracker)[CHAMPION] == (first if own < other else second), moment
        for version in versions(tracker):
            tracker.client.delete_model_version(NAME, str(version))


def test_of_gates_in_parallel_the_best_version_ends_champion(
    tracker: Tracker, stand_ins: Callable[[float], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contenders = {stand_ins(loss): loss for loss in (0.5, 0.3, 0.4)}
    errors: list[BaseException] = []
    together = threading.Barrier(len(contenders))
    look, arrived = gate.champion_of, threading.local()

    def champion(*args: Any) -> str | None:
        found = look(*args)
        if not hasattr(arrived, "once"):
            arrived.once = True
            together.wait(timeout=30)  # so that none sees a champion, and all set the alias at once
        return found

    def run(version: str) -> None:
        try:
            gate.decide(Tracker(tracker.uri), NAME, version, FILMS)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(version,)) for version in contenders]
    with monkeypatch.context() as patch:
        patch.setattr(gate, "champion_of", champion)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert aliases(tracker)[CHAMPION] == min(contenders, key=contenders.__getitem__)


@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias"])
def test_a_write_that_the_database_refuses_for_another_s_is_made_again(
    tracker: Tracker, stand_ins: Callable[[float], str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    version, method = stand_ins(0.5), getattr(MlflowClient, call)
    refused: list[Any] = []

    def refuse(*args: Any) -> Any:
        if not refused:
            refused.append(args)
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed")
        return method(*args)

    monkeypatch.setattr(MlflowClient, call, refuse)
    assert gate.decide(tracker, NAME, version, FILMS).alias == CHAMPION
    assert refused
    assert aliases(tracker) == {CHAMPION: version}
