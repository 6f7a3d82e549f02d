"""A record goes only where the store has all of it and nothing reads it again; a model only where better ones are."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumonia.config import TrainConfig
from pneumonia.housekeeping import tracked
from pneumonia.runtime.signals import identity
from pneumonia.search import attributes, connection
from pneumonia.search import study as studies
from pneumonia.search_space import search_space
from pneumonia.tracking import tags
from pneumonia.tracking.places import local
from pneumonia.tracking.record import Record, records
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import remember, sent
from tests.conftest import gone
from tests.housekeeping.conftest import NewRecord
from tests.tracking.conftest import small, stub_model


def can_go(home: Path, tracker: Tracker, days: float = 30) -> set[str]:
    of = tracked.searches(tracker, tracked.storages(home))
    return {Path(one.what).name for one in tracked.sent_records(home, tracker, of, days=days)}


def test_a_record_that_the_store_has_goes_and_its_run_stays(
    tracker: Tracker, sent_record: NewRecord, home: Path
) -> None:
    record = sent_record("one", role="train")
    run_id = sent(record)["run_id"]
    (listed,) = tracked.sent_records(home, tracker, tracked.searches(tracker, []), days=30)
    assert (listed.kind, listed.what) == ("record", str(record.folder))
    assert run_id in listed.why
    assert record.folder.exists()
    assert listed.remove()
    assert not record.folder.exists()
    assert tracker.client.get_run(run_id).info.status == "FINISHED"
    assert tracker.sync(home) == ([], [])


def test_what_is_not_wholly_sent_stays(
    tracker: Tracker, sent_record: NewRecord, new_record: NewRecord, home: Path
) -> None:
    small(new_record, "unsent", owner=gone())
    new_record("running", owner=gone())
    for name, change in (
        ("not-closed", lambda record: remember(record, closed=False)),
        ("file-more", lambda record: record.add_json("figures/later.json", {})),
        ("file-changed", lambda record: record.add_json("confusion_matrix.json", [[1, 2], [3, 4]] * 9)),
        ("param-more", lambda record: record.add_params({"later": 1})),
        ("line-more", lambda record: record.add_metrics({"val/auc": 1.0}, step=9)),
        ("picture-more", lambda record: record.add_image("later", b"png")),
        ("deleted", lambda record: remember(record, deleted=True)),
        ("unregistered", lambda record: record.update(register="pneumonia")),
        ("another-store", lambda record: remember(record, uri="http://lab:5000")),
        ("lives", lambda record: record.update(owner=identity())),
        ("torn", lambda record: (record.folder / "params.json").write_text("{")),
    ):  # fmt: skip
        change(sent_record(name))
    assert can_go(home, tracker) == set()
    sent_record("whole")
    assert can_go(home, tracker) == {"whole"}


def test_what_the_store_has_lost_stays(tracker: Tracker, sent_record: NewRecord, home: Path) -> None:
    deleted, files = sent_record("deleted"), sent_record("files")
    assert can_go(home, tracker) == {"deleted", "files"}
    tracker.client.delete_run(sent(deleted)["run_id"])
    place = local(tracker.client.get_run(sent(files)["run_id"]).info.artifact_uri)
    assert place is not None
    shutil.rmtree(place.parent.parent)
    assert can_go(home, tracker) == set()


def test_a_record_of_another_machine_goes_when_it_is_old(tracker: Tracker, sent_record: NewRecord, home: Path) -> None:
    sent_record("far", owner={**gone(), "host": "another"})
    assert can_go(home, tracker) == set()
    assert can_go(home, tracker, days=0) == {"far"}


def test_a_record_that_gets_something_to_send_between_the_list_and_the_removal_stays(
    tracker: Tracker, sent_record: NewRecord, home: Path
) -> None:
    record = sent_record("one")
    (listed,) = tracked.sent_records(home, tracker, tracked.searches(tracker, []), days=30)
    remember(record, closed=False)
    assert not listed.remove()
    assert records(home / "records") == [record]


def test_records_of_an_unfinished_study_stay(
    tracker: Tracker, sent_record: NewRecord, new_record: NewRecord, home: Path
) -> None:
    of_study = {"tags": {tags.STUDY: "films"}}
    sent_record("trial", role="trial", **of_study)
    assert can_go(home, tracker) == set()  # no search is known that finished it
    killed = new_record("killed", role="search", owner=gone(), **of_study)
    killed.finish("INTERRUPTED", "SIGTERM")
    tracker.send(killed)
    assert can_go(home, tracker) == set()
    time.sleep(0.01)  # the newest search counts
    sent_record("done", role="search", **of_study)
    assert can_go(home, tracker) == {"trial", "done"}
    # who types its command again is to be told that it is done
    killed.update(tags={**killed.run.tags, tags.ANSWERED: "true"})
    assert can_go(home, tracker) == {"trial", "killed", "done"}
    time.sleep(0.01)
    again = new_record("again", role="search", owner=gone(), **of_study)
    tracker.send(again)
    assert can_go(home, tracker) == set()


@pytest.mark.parametrize("where", ["home", "named"])
def test_a_study_s_own_word_goes_first(where: str, tracker: Tracker, sent_record: NewRecord, home: Path) -> None:
    url = f"sqlite:///{home / 'study.db' if where == 'home' else home.parent / 'elsewhere.db'}"
    home.mkdir(exist_ok=True)
    study = studies.create_or_resume(
        connection.connect(url), "films", TrainConfig(size=32, epochs=3), search_space(long=True), changed=True
    )
    of_study = {"tags": {tags.STUDY: "films"}}
    done = sent_record("done", role="search", **of_study)
    if where == "named":
        done.add_params({"storage": url})
        remember(done, params=sorted(done.params))
    sent_record("trial", role="trial", **of_study)
    assert can_go(home, tracker) == set()
    study.set_user_attr(attributes.FINISHED, "run")
    assert can_go(home, tracker) == {"done", "trial"}


def test_a_study_s_database_that_cannot_be_asked_is_taken_for_unfinished(
    tracker: Tracker, sent_record: NewRecord, home: Path
) -> None:
    sent_record("done", role="search", tags={tags.STUDY: "films"})
    sent_record("training", role="train")
    (home / "study.db").write_text("no database" * 100)
    assert can_go(home, tracker) == {"training"}


def test_evaluations_wait_until_the_newest_is_in_the_description(
    tracker: Tracker, sent_record: NewRecord, home: Path
) -> None:
    """Without the newest an older one would be written there."""
    of_version = {"role": "evaluate", "tags": {tags.VERSION: "pneumonia/1"}}
    sent_record("older", **of_version)
    newer = sent_record("newer", **of_version)
    sent_record("of-no-version", role="evaluate")
    assert can_go(home, tracker) == {"of-no-version"}
    remember(newer, described=True)
    assert can_go(home, tracker) == {"older", "newer", "of-no-version"}


def test_a_home_of_an_earlier_version_keeps_the_record_that_says_whose_it_is(
    tracker: Tracker, sent_record: NewRecord, home: Path
) -> None:
    sent_record("first")
    time.sleep(0.01)
    sent_record("last")
    old = home.rename(home.parent / ".pneumonia")
    assert can_go(old, tracker) == {"first"}


def test_a_record_inside_another_goes_before_it(tracker: Tracker, sent_record: NewRecord, home: Path) -> None:
    outer, inner = sent_record("outer"), sent_record("inner")
    moved = outer.folder / "inner"
    inner.folder.rename(moved)
    of = tracked.searches(tracker, [])
    (listed,) = tracked.sent_records(home, tracker, of, days=30)
    assert listed.what == str(moved)
    assert listed.remove()
    assert can_go(home, tracker) == {"outer"}


# --- models


@pytest.fixture
def trials(tracker: Tracker, new_record: NewRecord) -> Callable[..., list[Record]]:
    """Trials of the study `films` with these objectives, each with its model in the store."""

    def make(*values: float) -> list[Record]:
        made = []
        for number, value in enumerate(values):
            of_study = {tags.STUDY: "films", tags.TRIAL_NUMBER: str(number)}
            record = new_record(f"trial-{number}", role="trial", tags=of_study, owner=gone())
            record.add_metrics({"val/objective": 1 - value}, step=1, time=1)
            record.summarise({"val/objective": value}, step=1)
            stub_model(record)
            (record.model / "weights.bin").write_bytes(bytes(5000))
            record.finish("PRUNED" if number == 1 else "COMPLETE")
            tracker.send(record)
            made.append(record)
        return made

    return make


def spare(tracker: Tracker, home: Path, keep: int) -> list[str]:
    of = tracked.searches(tracker, [])
    return sorted(one.what.removeprefix("models:/") for one in tracked.spare_models(tracker, of, keep, home))


def test_models_beyond_the_best_go_from_the_store(
    tracker: Tracker, trials: Callable[..., list[Record]], sent_record: NewRecord, home: Path
) -> None:
    made = trials(0.3, 0.1, 0.4, 0.2, 0.2)
    assert spare(tracker, home, 2) == []  # the study is not finished
    sent_record("done", role="search", tags={tags.STUDY: "films"})
    ids = [sent(record)["model_id"] for record in made]
    assert spare(tracker, home, 2) == sorted(ids[number] for number in (0, 2, 4))  # of equal ones the earlier is better
    assert spare(tracker, home, 5) == []
    of = tracked.searches(tracker, [])
    places = {one: local(tracker.client.get_logged_model(one).artifact_location) for one in ids}
    for one in tracked.spare_models(tracker, of, 2, home):
        assert one.kind == "model"
        assert one.size > 5000
        assert one.remove()
    left = {model.model_id for model in tracker.client.search_logged_models(["1"])}
    assert {ids[1], ids[3]} <= left
    assert not {ids[0], ids[2], ids[4]} & left
    assert [places[one].exists() and any(places[one].iterdir()) for one in ids] == [False, True, False, True, False]
    run = tracker.client.get_run(sent(made[0])["run_id"])
    assert run.data.tags[tags.DROPPED] == "deleted"
    assert sent(made[0])["dropped"]
    assert not sent(made[1])["dropped"]
    assert spare(tracker, home, 2) == []


def test_models_that_something_refers_to_stay(
    tracker: Tracker, trials: Callable[..., list[Record]], sent_record: NewRecord, home: Path
) -> None:
    made = trials(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    sent_record("done", role="search", tags={tags.STUDY: "films"})
    sent_record("final", role="final", tags={tags.STUDY: "films"})
    ids, runs = [sent(one)["model_id"] for one in made], [sent(one)["run_id"] for one in made]
    client = tracker.client
    client.create_registered_model("pneumonia")
    client.create_model_version("pneumonia", f"models:/{ids[1]}", run_id=runs[1], model_id=ids[1])
    sent_record("evaluated", role="evaluate", tags={tags.MODEL: f"models:/{ids[2]}"})
    sent_record("evaluated-by-run", role="evaluate", tags={tags.MODEL: f"runs:/{runs[3]}/model"})
    sent_record("adapted", role="adapt", tags={tags.PARENT_RUN: runs[4]})
    assert spare(tracker, home, 1) == [ids[5]]


def test_a_model_that_is_registered_between_the_list_and_the_removal_stays(
    tracker: Tracker, trials: Callable[..., list[Record]], sent_record: NewRecord, home: Path
) -> None:
    made = trials(0.1, 0.2)
    sent_record("done", role="search", tags={tags.STUDY: "films"})
    (listed,) = tracked.spare_models(tracker, tracked.searches(tracker, []), 1, home)
    have = sent(made[1])
    tracker.client.create_registered_model("pneumonia")
    tracker.client.create_model_version(
        "pneumonia", f"models:/{have['model_id']}", run_id=have["run_id"], model_id=have["model_id"]
    )
    assert not listed.remove()
    assert tracker.has_model(have["run_id"])
