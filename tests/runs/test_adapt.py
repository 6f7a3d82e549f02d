"""A model is adapted to films of a place of another look: what the run holds, and what is registered."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pneumonia import synthetic
from pneumonia.data import index as data
from pneumonia.data.index import Index
from pneumonia.registry.versions import catch_up, enter
from pneumonia.results.adaptation import Adaptation
from pneumonia.runs.adapt import Parent, adapt_and_record, match_and_record, place_name, read_parent
from pneumonia.runs.context import RunContext
from pneumonia.serving import predict
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import HELD_OUT_PREDICTIONS, Record, records
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from pneumonia.training import adaptation
from tests.conftest import NO_SERVER, TINY
from tests.runs.conftest import CHAMPION

PLACE = "pneumonia-there"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 32 drawn films that were darkened, cut and mirrored; two of them are test films."""
    folder = tmp_path_factory.mktemp("there")
    found = data.scan(synthetic.write(tmp_path_factory.mktemp("drawn"), seed=7, train=64, test=8))
    table = found.table[found.table["split"] != "test"]
    rows = pd.concat([table[table["label"] == label].head(16) for label in (0, 1)])
    for number, path in enumerate(rows["path"]):
        film = cv2.imread(str(found.root / path), cv2.IMREAD_GRAYSCALE)
        other = (255 * (film[8:, 8:] / 255) ** 2).astype(np.uint8)[:, ::-1].copy()
        other[0, :32] = 8 * number  # no two are alike
        cv2.imwrite(str(folder / f"{number}.png"), other)
    manifest = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(len(rows))],
            "label": np.where(rows["label"] == 1, "Pneumonia", "normal"),
            "patient": np.where(np.isin(range(32), (0, 31)), ["of 0", "of 31"] * 16, rows["patient"]),
            "split": np.where(np.isin(range(32), (0, 31)), "test", "train"),
        }
    )
    manifest.to_csv(folder / "films.csv", index=False)
    return folder / "films.csv"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "RECIPE", replace(TINY, disturb=0.0, opacity=0.0))
    monkeypatch.setattr(adaptation, "STEPS", 4)
    monkeypatch.setattr(adaptation, "FOLDS", 2)


@pytest.fixture
def parent(registered: Record) -> Parent:
    return read_parent(CHAMPION)


def local(place: Path, parent: Parent) -> Index:
    return data.scan(place, like=parent.served.classes)


def adapted(parent: Parent, index: Index, context: RunContext, **more: object) -> tuple[Record, Adaptation]:
    return adapt_and_record(parent, index, context, place="there", **more)  # type: ignore[arg-type]


@pytest.mark.figures
def test_an_adapting_is_a_run_of_its_own_and_its_model_a_version_of_the_place(
    tracker: Tracker, registered: Record, parent: Parent, place: Path, context: RunContext
) -> None:
    index = local(place, parent)
    record, found = adapted(parent, index, context)
    verdict = enter(tracker, record)
    run = tracker.client.get_run(sent(record)["run_id"])
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert (tags["role"], tags["adapt.place"], tags["adapt.parent"]) == ("adapt", "there", "pneumonia/1")
    assert tags["adapt.parent_run"] == sent(registered)["run_id"]
    assert tags["adapt.method"] in ("fine-tuned", "recalibrated")
    assert {"model", "data", "name", "seed", "replay", "lr", "steps"} <= set(run.data.params)

    metrics = run.data.metrics
    for name in ("auc", "balanced_accuracy", "log_loss"):
        gain = metrics[f"after/{name}"] - metrics[f"before/{name}"]
        assert metrics[f"gain/{name}"] == pytest.approx(gain, abs=1e-9)
    assert metrics["gain/log_loss_low"] <= metrics["gain/log_loss"] <= metrics["gain/log_loss_high"]

    root = Path(run.info.artifact_uri)
    table = pd.read_csv(root / HELD_OUT_PREDICTIONS, dtype={"path": str})
    assert len(table) == 30  # the two test films are left out
    assert not {"0.png", "31.png"} & set(table["path"])
    assert (table.groupby("patient")["part"].nunique() == 1).all()
    before = predict.predict(parent.served, [index.root / path for path in table["path"]])
    assert table["before"].to_numpy() == pytest.approx(before["probability"].to_numpy(), abs=1e-4)
    (tn, fp), (fn, tp) = json.loads((root / "confusion_matrix.json").read_text())
    assert (tn + fp, fn + tp) == (15, 15)
    assert metrics["after/sensitivity"] == pytest.approx(tp / (tp + fn))
    figures = {path.name for path in (root / "figures").iterdir()}
    assert {"roc.png", "confusion_matrix.png", "confusion_matrix_before.png", "reliability.png"} <= figures

    version = tracker.client.get_model_version(PLACE, verdict.version)
    assert (verdict.name, version.run_id) == (PLACE, run.info.run_id)
    assert version.tags["adapt.parent"] == "pneumonia/1"
    assert "Made from pneumonia/1" in version.description
    assert "Held-out local films" in version.description
    assert tracker.client.get_registered_model("pneumonia").aliases.keys() == {"champion"}  # as it was
    served = predict.load(f"models:/{PLACE}/{verdict.version}")
    assert (served.threshold, served.calibration) == (found.adapted.model.threshold, found.adapted.model.calibration)
    assert served.classes == parent.served.classes


def test_the_first_version_is_champion_only_if_it_is_no_worse_than_what_it_was_made_from(
    tracker: Tracker, parent: Parent, place: Path, context: RunContext
) -> None:
    index = local(place, parent)
    worse, _ = adapted(parent, index, context)
    change(worse, probability=lambda table: np.where(table["label"] == "NORMAL", 0.99, 0.01))
    verdict = enter(tracker, worse)
    assert verdict.alias == "challenger"
    assert "the model that it was made from" in verdict.reason
    assert {k: str(v) for k, v in tracker.client.get_registered_model(PLACE).aliases.items()} == {"challenger": "1"}

    better, _ = adapted(parent, index, context)
    change(better, probability=lambda table: np.where(table["label"] == "NORMAL", 0.1, 0.9))
    assert enter(tracker, better).alias == "champion"
    third, _ = adapted(parent, index, context)
    change(third, probability=lambda table: np.where(table["label"] == "NORMAL", 0.2, 0.8))
    verdict = enter(tracker, third)
    assert (verdict.alias, tracker.client.get_registered_model(PLACE).aliases["champion"]) == ("challenger", 2)


def change(record: Record, **columns: Any) -> None:
    """Replaces held-out predictions, in the record and in the store."""
    path = record.artifacts / HELD_OUT_PREDICTIONS
    pd.read_csv(path, dtype={"path": str}).assign(**columns).to_csv(path, index=False)
    Tracker(record_uri(record)).client.log_artifact(sent(record)["run_id"], str(path), "predictions")


def record_uri(record: Record) -> str:
    return sent(record)["uri"]


@pytest.mark.slow
def test_films_that_a_champion_did_not_see_it_predicts_itself(
    tracker: Tracker, parent: Parent, place: Path, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = local(place, parent)
    few = replace(index, table=index.table[index.table["path"] != "5.png"].reset_index(drop=True))
    first, _ = adapted(parent, few, context)
    assert enter(tracker, first).alias == "champion"
    asked: list[str] = []
    load = predict.load
    monkeypatch.setattr(predict, "load", lambda uri: asked.append(uri) or load(uri))
    second, _ = adapted(parent, index, context)
    verdict = enter(tracker, second)
    assert "cannot be scored" not in verdict.reason, verdict.reason
    assert asked == [f"models:/{PLACE}/1"]
    scores = [tracker.client.get_model_version(PLACE, number).tags for number in ("1", "2")]
    keys = [{name for name in tags if name.startswith("gate.log_loss.")} for tags in scores]
    assert keys[1] < keys[0]  # the champion was scored on both sets


@pytest.mark.slow
def test_a_model_that_learned_from_these_films_is_not_adapted_to_them_again(
    tracker: Tracker, parent: Parent, place: Path, context: RunContext
) -> None:
    index = local(place, parent)
    patients = index.table.drop_duplicates("patient").sort_values(["label", "patient"])["patient"]
    early = index.table["patient"].isin(patients[::2])
    halves = [replace(index, table=index.table[which].reset_index(drop=True)) for which in (early, ~early)]
    record, _ = adapted(parent, halves[0], context)
    once = read_parent(f"models:/{PLACE}/{enter(tracker, record).version}")
    with pytest.raises(ValueError, match=r"has learned from \d+ of these films"):
        adapted(once, index, context)
    record, _ = adapted(once, halves[1], context)
    twice = read_parent(f"models:/{PLACE}/{enter(tracker, record).version}")
    with pytest.raises(ValueError, match=r"has learned from \d+ of these films"):  # through what it was made from
        adapted(twice, halves[0], context)


def test_a_model_that_was_moved_without_labels_since_has_still_learned_from_its_films(
    tracker: Tracker, parent: Parent, place: Path, context: RunContext
) -> None:
    index = local(place, parent)
    record, _ = adapted(parent, index, context)
    once = read_parent(f"models:/{PLACE}/{enter(tracker, record).version}")
    unread = data.scan_unlabelled(sorted(place.parent.glob("*.png")), place.parent, parent.served.classes)
    record, _ = match_and_record(once, unread, context, place="there", prevalence=0.2)
    moved = read_parent(f"models:/{PLACE}/{enter(tracker, record).version}")
    with pytest.raises(ValueError, match="has learned from 30 of these films"):
        adapted(moved, index, context)


def test_an_adapting_that_was_not_registered_is_by_sync(
    tracker: Tracker, parent: Parent, place: Path, context: RunContext
) -> None:
    adapted(parent, local(place, parent), context)
    (verdict,), missed = catch_up(tracker, context.home)
    assert (verdict.name, missed) == (PLACE, [])


@pytest.mark.slow
def test_without_a_store_nothing_is_trained(parent: Parent, place: Path, context: RunContext) -> None:
    with pytest.raises(TrackingError):
        adapted(parent, local(place, parent), replace(context, tracker=Tracker(NO_SERVER)))
    assert not records(context.home / "records" / "adapt")


@pytest.mark.parametrize("kept", ["normal", "Pneumonia"])
def test_one_class_alone_is_refused(parent: Parent, place: Path, context: RunContext, kept: str) -> None:
    index = local(place, parent)
    label = int(kept == "Pneumonia")
    alone = replace(index, table=index.table[index.table["label"] == label].reset_index(drop=True))
    with pytest.raises(ValueError, match="adapting needs films of 2 patients of each class"):
        adapted(parent, alone, context)


def test_other_classes_are_refused(parent: Parent, place: Path, context: RunContext) -> None:
    with pytest.raises(ValueError, match="the model tells"):
        adapted(parent, replace(local(place, parent), classes=("WELL", "ILL")), context)


def test_home_films_are_mixed_in(parent: Parent, place: Path, context: RunContext, index: Index) -> None:
    record, _ = adapted(parent, local(place, parent), context, home=index)
    assert record.params["replay"] == str(index.root)
    assert "with training films of its first place mixed in" in (record.artifacts / "model_card.md").read_text()


def test_a_package_of_an_earlier_version_is_adapted(registered: Record, place: Path, context: RunContext) -> None:
    """As 94dab95 wrote them: other keys in package.json, the same weights."""
    model = registered.folder.parent / "old"
    shutil.copytree(predict_folder(registered), model)
    (code,) = model.glob("*.py")
    code.write_text(re.sub(r"DECODE_VERSION = \d+", "DECODE_VERSION = 3", code.read_text()))
    settings = model / "artifacts" / "package" / "package.json"
    old = {**json.loads(settings.read_text()), "decode_version": 3, "flip": True}
    settings.write_text(json.dumps(old))
    parent = read_parent(str(model))
    record, _ = adapted(parent, local(place, parent), context)
    assert record.run.tags["adapt.parent"] == "pneumonia/1"  # whose files these are


def test_a_package_without_weights_cannot_be_adapted(registered: Record, tmp_path: Path) -> None:
    model = tmp_path / "bare"
    shutil.copytree(predict_folder(registered), model)
    (model / "artifacts" / "package" / "model.safetensors").unlink()
    with pytest.raises(predict.ModelError, match=r"cannot be adapted: its weights, model.safetensors, are not beside"):
        read_parent(str(model))


def predict_folder(record: Record) -> Path:
    """The logged model of a record that was sent."""
    client = Tracker(record_uri(record)).client
    return Path(client.get_logged_model(sent(record)["model_id"]).artifact_location)


@pytest.mark.parametrize(
    ("text", "name"), [("Other_Hospital", "other-hospital"), ("St. Mary's", "st.-mary-s"), ("a/b:c", "a-b-c")]
)
def test_names_of_places(text: str, name: str) -> None:
    assert place_name(text) == name


@pytest.mark.parametrize("text", ["", "demo", "--", "Demo"])
def test_names_that_no_place_may_have(text: str) -> None:
    with pytest.raises(ValueError, match="--name"):
        place_name(text)
