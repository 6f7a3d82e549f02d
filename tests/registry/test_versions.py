"""Versions say what they are, and a registration that broke off is taken up again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from pneumonia.registry import scoring
from pneumonia.registry.gate import CHALLENGER, CHAMPION
from pneumonia.registry.scoring import Validation
from pneumonia.registry.versions import RegistryError, catch_up, enter, promote
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.conftest import NO_SERVER, TrackingServer
from tests.registry.conftest import NAME, Register, aliases, versions


def test_a_version_says_what_it_is(tracker: Tracker, copy_trained: Callable[..., Record]) -> None:
    record = copy_trained("wordy", register=NAME, role="final", description="words " * 2000)
    (record.artifacts / "model_card.md").unlink()  # as a model of before there were cards
    record.finish("COMPLETE")
    tracker.send(record)
    enter(tracker, record)
    version = tracker.client.get_model_version(NAME, "1")
    assert version.source == f"models:/{sent(record)['model_id']}"
    model = tracker.client.get_logged_model(sent(record)["model_id"])
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": "1"}]
    assert version.run_id == sent(record)["run_id"]
    assert 4000 < len(version.description) <= 5000
    assert version.tags["data.fingerprint"] == record.run.tags["data.fingerprint"]
    (score,) = [value for name, value in version.tags.items() if name.startswith("gate.log_loss.")]
    table = scoring.validation(record)
    again = scoring.losses(f"models:/{NAME}/1", table)
    assert float(score) == pytest.approx(again.mean())


def test_the_description_is_a_summary_of_the_model_card(tracker: Tracker, register: Register) -> None:
    register("one", bias=0.0)
    version = tracker.client.get_model_version(NAME, "1")
    auc = tracker.client.get_run(version.run_id).data.metrics["val/auc"]
    assert f"| AUC               |  {auc:.3f}" in version.description
    for said in ("not a medical device", "Not opened yet", "Known failures", version.run_id):
        assert said in version.description
    whole = Path(tracker.client.download_artifacts(version.run_id, "model_card.md")).read_text()
    sections = version.description.split("## ")[1:]
    assert len(sections) == whole.count("\n## ")  # this one has room for all of them
    assert all(section.strip() in whole for section in sections[:-1])


def test_a_registration_whose_film_went_midway_is_taken_up_again(
    tracker: Tracker, copy_trained: Callable[..., Record], home: Path
) -> None:
    record = copy_trained("one", register=NAME, role="final")
    record.finish("COMPLETE")
    tracker.send(record)

    def gone(uri: str, films: Validation) -> np.ndarray:
        raise scoring.FilmGone("the validation film a.png is no longer there")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "losses", gone)
        with pytest.raises(scoring.FilmGone):
            enter(tracker, record)
    assert aliases(tracker) == {}
    ((verdict,), missed) = catch_up(tracker, home)
    assert (verdict.version, verdict.alias, missed) == ("1", CHAMPION, [])
    assert versions(tracker) == [1]


def test_films_that_are_gone_are_no_fault_of_the_store(tracker: Tracker, copy_trained: Callable[..., Record]) -> None:
    record = copy_trained("one", register=NAME)
    record.update(dataset={**record.run.dataset, "source": "/nonexistent"})
    record.finish("COMPLETE")
    tracker.send(record)
    with pytest.raises(scoring.FilmGone, match=r"/nonexistent.* is no longer there"):
        enter(tracker, record)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["request lost", "answer lost"])
@pytest.mark.parametrize(
    "call", ["create_registered_model", "create_model_version", "set_model_version_tag", "set_registered_model_alias"]
)
def test_registration_that_broke_off_goes_on_with_the_same_version(
    tracker: Tracker,
    copy_trained: Callable[..., Record],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    before: bool,
) -> None:
    record = copy_trained("one", register=NAME)
    record.finish("COMPLETE")
    tracker.send(record)
    method = getattr(MlflowClient, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if not before:
            method(*args, **kwargs)
        raise ConnectionError("connection reset by peer")

    monkeypatch.setattr(scoring, "losses", lambda uri, films: np.full(len(films.labels), 0.5))
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, call, fail)
        with pytest.raises(TrackingError, match="connection reset"):
            enter(tracker, record)
    assert "verdict" not in sent(record)
    ((verdict,), _) = catch_up(tracker, home)
    assert (verdict.version, verdict.alias) == ("1", CHAMPION)
    assert versions(tracker) == [1]
    assert aliases(tracker) == {CHAMPION: "1"}
    assert catch_up(tracker, home) == ([], [])
    assert enter(tracker, record).version == "1"
    assert versions(tracker) == [1]


def test_catch_up_registers_what_an_outage_kept_back(
    tracker: Tracker, copy_trained: Callable[..., Record], home: Path
) -> None:
    away = Tracker(NO_SERVER)
    waiting = copy_trained("waiting", register=NAME)
    failed, plain = copy_trained("failed", register=NAME), copy_trained("plain")
    failed.finish("FAIL", "too late")
    for record in (waiting, plain):
        record.finish("COMPLETE")
        assert not away.try_send(record)
    assert catch_up(tracker, home) == ([], [])  # nothing can be registered before it is sent
    tracker.sync(home)
    assert [verdict.line().partition(":")[0] for verdict in catch_up(tracker, home)[0]] == [
        "pneumonia version 1 is champion"
    ]
    assert versions(tracker) == [1]


def test_promoting_what_is_not_there_names_what_is(tracker: Tracker, stand_ins: Callable[[float], str]) -> None:
    stand_ins(0.1), stand_ins(0.2)
    with pytest.raises(RegistryError, match="no version 7; versions there: 1, 2"):
        promote(tracker, NAME, "7")
    with pytest.raises(RegistryError, match="other has no version 1; versions there: none"):
        promote(tracker, "other", "1")


@pytest.mark.slow
def test_registration_on_a_server(server: TrackingServer, copy_trained: Callable[..., Record], home: Path) -> None:
    tracker = Tracker(server.uri)
    tracker.experiment_id(NAME)
    for name, bias in (("first", 2.0), ("better", 0.0)):
        record = copy_trained(name, bias=bias, register=NAME)
        record.finish("COMPLETE")
        tracker.send(record)
        verdict = enter(tracker, record)
    assert (verdict.version, verdict.alias) == ("2", CHAMPION)
    assert aliases(tracker) == {CHAMPION: "2"}
    late = copy_trained("late", bias=4.0, register=NAME)
    late.finish("COMPLETE")
    tracker.send(late)
    server.kill()
    with pytest.raises(TrackingError):
        enter(tracker, late)
    server.start()
    assert [(v.version, v.alias) for v in catch_up(tracker, home)[0]] == [("3", CHALLENGER)]
    assert promote(tracker, NAME, "3") == "pneumonia version 3 is champion by hand (it was version 2)"
