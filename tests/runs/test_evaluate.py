"""The test films are scored in a run of their own, and no other film is opened."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from pneumonia.data.index import Index
from pneumonia.registry.versions import catch_up
from pneumonia.runs.context import RunContext
from pneumonia.runs.evaluate import evaluate_and_record
from pneumonia.serving import predict
from pneumonia.serving.predict import ModelError
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record, records
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent, unsent
from tests.conftest import NO_SERVER
from tests.runs.conftest import CHAMPION, openings


@pytest.mark.figures
def test_the_test_films_are_scored_in_a_run_of_their_own(
    tracker: Tracker, registered: Record, index: Index, home: Path
) -> None:
    record, evaluation = evaluate_and_record(
        CHAMPION, index, RunContext(home=home, tracker=tracker, tags={"who": "me"})
    )
    client, model_id = tracker.client, sent(registered)["model_id"]
    run = client.get_run(sent(record)["run_id"])
    assert run.info.run_id != sent(registered)["run_id"]
    assert run.info.status == "FINISHED"
    assert (run.data.tags["role"], run.data.tags["model"], run.data.tags["who"]) == ("evaluate", CHAMPION, "me")
    assert run.data.tags["data.fingerprint"] == index.fingerprint
    assert "trial.state" not in run.data.tags

    names = ("auc", "average_precision", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision")
    scores = {name: evaluation.scores[name] for name in (*names, "npv", "f1", "mcc", "brier", "ece")}
    for name, value in scores.items():  # precision is none where no film is called ill
        assert run.data.metrics.get(f"test/{name}", np.nan) == pytest.approx(value, nan_ok=True)
    assert all(np.isfinite(scores[name]) for name in ("auc", "accuracy", "sensitivity", "specificity", "brier"))
    assert run.data.metrics["test/auc_low"] <= run.data.metrics["test/auc"] <= run.data.metrics["test/auc_high"]
    assert all(name.startswith(("test/", "data/")) for name in run.data.metrics)
    labels, p = evaluation.rows["label"].to_numpy(), evaluation.probabilities
    logits = predict.load(CHAMPION).calibration.undo(p)
    assert run.data.metrics["test/loss"] == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits))))

    model = client.get_logged_model(model_id)
    tied = {metric.key: metric for metric in model.metrics if metric.key.startswith("test/")}
    assert not any(metric.key.startswith("data/") for metric in model.metrics if metric.run_id == run.info.run_id)
    of_files = index.report.named()
    assert {name: metric.value for name, metric in tied.items()} | of_files == run.data.metrics
    assert {metric.run_id for metric in tied.values()} == {run.info.run_id}
    assert {metric.dataset_digest for metric in tied.values()} == {index.fingerprint[:36]}
    assert "val/auc" in {metric.key for metric in model.metrics}
    trained = client.get_run(sent(registered)["run_id"])
    assert not [name for name in trained.data.metrics if name.startswith("test/")]

    (dataset,) = run.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "testing"}

    root = Path(run.info.artifact_uri)
    table = pd.read_csv(root / "predictions" / "test.csv")
    rows = index.only("test")
    assert list(table.columns) == ["path", "patient", "label", "probability", "familiarity", "familiar"]
    assert table["path"].tolist() == rows["path"].tolist()
    assert (table["label"] == "PNEUMONIA").tolist() == (rows["label"] == 1).tolist()
    np.testing.assert_allclose(table["probability"], evaluation.probabilities, atol=1e-12)
    assert not (root / "predictions" / "val.csv").exists()
    page = (root / "evaluation.html").read_text()
    for name in ("confusion_matrix", "roc", "precision_recall", "reliability", "histograms"):
        png = (root / "figures" / f"{name}.png").read_bytes()
        assert len(png) > 5000
        assert (base64.b64encode(png).decode() in page) == (name != "reliability")  # the page has four of its own
    assert np.sum(json.loads((root / "confusion_matrix.json").read_text())) == len(rows)
    assert json.loads((root / "evaluation.json").read_text())["films"] == len(rows)
    told = json.loads((root / "evaluation.json").read_text())
    before, after = (told["before_and_after_calibration"]["test"][when] for when in ("before", "after"))
    assert after["brier"] == evaluation.scores["brier"] != before["brier"]
    assert run.data.metrics["test/uncalibrated_brier"] == before["brier"]
    assert run.data.metrics["data/found"] == told["report"]["found"] == index.report.found
    assert page.count("reliability diagram of") == 4
    assert f"{evaluation.scores['auc']:.3f}" in page
    assert page.count("heatmap over") == min(12, len(evaluation.wrong()))
    for name, films in (("val", "before"), ("val", "after"), ("test", "before"), ("test", "after")):
        assert f"<td>{name}</td><td>{films}</td>" in page
    assert "| AUC" in (root / "evaluation.md").read_text()

    described = client.get_model_version("pneumonia", "1").description
    assert "the first time that they were opened" in described
    assert f"{evaluation.scores['auc']:.3f}" in described
    assert run.info.run_id in described
    assert (root / "model_card.md").read_text().count("## ") > described.count("## ") - 1


def test_a_description_that_the_store_did_not_take_is_made_up_for(
    tracker: Tracker, registered: Record, index: Index, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object) -> None:
        raise ConnectionError("away")

    with monkeypatch.context() as broken:
        broken.setattr(type(tracker.client), "update_model_version", away)
        record, evaluation = evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker))
    assert record.run.tags["model.version"] == "pneumonia/1"
    before = tracker.client.get_model_version("pneumonia", "1").description
    assert catch_up(tracker, home) == ([], [])
    after = tracker.client.get_model_version("pneumonia", "1").description
    assert f"{evaluation.scores['auc']:.3f}" not in before
    assert f"{evaluation.scores['auc']:.3f}" in after
    tracker.client.update_model_version("pneumonia", "1", "by hand")
    catch_up(tracker, home)
    assert tracker.client.get_model_version("pneumonia", "1").description == "by hand"

    with monkeypatch.context() as broken:
        broken.setattr(type(tracker.client), "update_model_version", away)
        evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker))
    last, _ = evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker))
    told = tracker.client.get_model_version("pneumonia", "1").description
    catch_up(tracker, home)  # what is owed of the second is older than what the third said
    assert tracker.client.get_model_version("pneumonia", "1").description == told
    assert sent(last)["run_id"] in told

    with monkeypatch.context() as broken:
        broken.setattr(type(tracker.client), "update_model_version", away)
        evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker))
    tracker.client.delete_registered_model_alias("pneumonia", "champion")
    tracker.client.delete_model_version("pneumonia", "1")
    assert catch_up(tracker, home) == ([], [])


def test_a_model_that_the_store_does_not_know_is_scored_too(
    tracker: Tracker, copy_trained: Callable[..., Record], index: Index, home: Path
) -> None:
    folder = copy_trained("elsewhere").model
    record, evaluation = evaluate_and_record(str(folder), index, RunContext(home=home, tracker=tracker))
    run = tracker.client.get_run(sent(record)["run_id"])
    assert run.data.metrics["test/auc"] == pytest.approx(evaluation.scores["auc"])
    assert run.data.tags["test.openings"] == "1"


def test_only_test_films_are_opened(
    tracker: Tracker, registered: Record, index: Index, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (opened.append(self), read(self))[1])
    evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker))
    films = [path.relative_to(index.root).as_posix() for path in opened if path.is_relative_to(index.root)]
    assert set(films) == set(index.only("test")["path"])  # a film that is called wrong is drawn as well


def test_without_a_store_nothing_is_opened_or_counted(
    index: Index, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was opened"))
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=Tracker(NO_SERVER)))
    assert records(home / "records") == []


def test_a_model_that_is_not_there_leaves_no_run(tracker: Tracker, index: Index, home: Path) -> None:
    with pytest.raises(ModelError, match="pneumonia@champion"):
        evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker))
    assert tracker.client.search_runs(["1"]) == []


def test_a_run_whose_films_cannot_be_scored_fails(
    tracker: Tracker, registered: Record, index: Index, home: Path
) -> None:
    gone = Index(index.table, index.classes, Path("/nonexistent"), index.fingerprint, index.report)
    with pytest.raises(ValueError, match="none of 16 test films could be scored"):
        evaluate_and_record(CHAMPION, gone, RunContext(home=home, tracker=tracker))
    (record,) = records(home / "records" / "evaluate")
    assert not unsent(record)
    run = tracker.client.get_run(sent(record)["run_id"])
    assert run.info.status == "FAILED"
    assert "none of 16 test films" in run.data.tags["reason"]
    assert openings(tracker) == "1"  # that they were asked for counts


def test_an_adopted_run_is_used(tracker: Tracker, registered: Record, index: Index, home: Path) -> None:
    made = tracker.client.create_run("1")
    record, _ = evaluate_and_record(CHAMPION, index, RunContext(home=home, tracker=tracker, run_id=made.info.run_id))
    assert sent(record)["run_id"] == made.info.run_id
    assert tracker.client.get_run(made.info.run_id).info.status == "FINISHED"
