"""What stands in stores of earlier versions, letter for letter: names of record files and of their keys, of tags, of
studies' attributes, of artifacts. A name that changes here leaves behind the runs, studies and models that have it.
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import get_args, get_type_hints

from pneumonia.search import attributes
from pneumonia.tracking import record as records
from pneumonia.tracking import tags, views
from pneumonia.tracking.record import Record, Role, Run, Sent, State
from pneumonia.tracking.sync import sent, unsent

RUN = """{
 "dataset": {"name": "films", "digest": "ab", "source": "/films", "context": "training", "classes": ["no", "yes"]},
 "description": "One training.",
 "experiment": "pneumonia",
 "key": "0123456789abcdef",
 "model_id": null,
 "name": "train films 64px w16 seed 0",
 "owner": {"host": "here", "pid": 1, "started": 1.5},
 "parent": "p",
 "register": "pneumonia",
 "role": "final",
 "run_id": null,
 "tags": {"study": "s", "best.trial": "3"}
}
"""


def test_the_files_of_a_record_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    for name, text in {
        "run.json": RUN,
        "params.json": '{"lr": 0.002}',
        "metrics.jsonl": '{"step": 1, "time": 1730000000000, "metrics": {"val/auc": 0.98}}\n{"step": 2, "ti',
        "summary.json": '{"step": 2, "time": 1730000000000, "metrics": {"val/auc": 0.99}}',
        "status.json": '{"state": "COMPLETE", "reason": "", "time": 1730000000000}',
        "sent.json": '{"uri": "sqlite:///mlflow.db", "run_id": "r", "experiment_id": "1", "closed": true}',
    }.items():
        (tmp_path / name).write_text(text)
    record = Record(tmp_path)
    assert (record.run.key, record.run.began) == ("0123456789abcdef", None)
    assert record.params == {"lr": 0.002}
    assert [line["step"] for line in record.metrics] == [1]
    assert record.summary == {"val/auc": 0.99}
    assert record.status is not None
    assert record.status["state"] == "COMPLETE"
    assert sent(record)["run_id"] == "r"
    assert not unsent(record)
    assert records.records(tmp_path) == [record]
    folders = {path.name for path in (record.artifacts, record.images, record.model)}
    assert folders == {"artifacts", "images", "model"}


def test_keys_of_a_record_s_files() -> None:
    assert {field.name for field in fields(Run)} == {
        "name", "role", "experiment", "parent", "run_id", "tags", "description", "dataset", "register", "model_id",
        "began", "key", "owner",
    }  # fmt: skip
    assert set(get_type_hints(Sent)) == {
        "uri", "run_id", "experiment_id", "params", "metrics", "artifacts", "images", "model_id", "dropped", "closed",
        "deleted", "version", "verdict", "described", "parent", "superseded",
    }  # fmt: skip


def test_words_of_roles_and_states() -> None:
    assert set(get_args(Role)) == {
        "search", "trial", "final", "train", "seeds", "evaluate", "compare", "eda", "worker", "adapt",
        "monitor",
    }  # fmt: skip
    assert set(get_args(State)) == {"COMPLETE", "PRUNED", "FAIL", "INTERRUPTED"}


def named(module: ModuleType) -> list[str]:
    return sorted(value for name, value in vars(module).items() if name.isupper())


def test_tags() -> None:
    assert named(tags) == [
        "adapt.method", "adapt.parent", "adapt.parent_run", "adapt.place",
        "best.trial", "best.trials", "champion.since.", "data.any_dicom", "data.classes", "data.fingerprint",
        "data.negative", "data.positive", "gate.by_hand", "gate.log_loss.", "gate.unusable", "joined", "model",
        "model.dropped", "model.version", "reason", "record", "resumed_by", "resumed_from", "role", "search.answered",
        "study", "study.key", "test.openings", "trial.epochs", "trial.number", "trial.state",
    ]  # fmt: skip
    assert set(views.experiment_tags()) == {
        "mlflow.experimentKind",
        "mlflow.sharedViewState.trials",
        "mlflow.sharedViewState.curves",
        "mlflow.sharedViewState.films",
    }


def test_attributes_of_studies_and_trials() -> None:
    assert named(attributes) == [
        "fault", "finished", "folder", "key", "leader", "objective", "parent", "parents", "reason", "run_id", "space",
        "surplus", "worker",
    ]  # fmt: skip


def test_artifacts_of_a_training(copy_trained: Callable[..., Record]) -> None:
    record = copy_trained()
    there = {path.relative_to(record.artifacts).as_posix() for path in record.artifacts.rglob("*") if path.is_file()}
    assert there == {
        "confusion_matrix.json",
        "figures/confusion_matrix.png",
        "figures/learning_curves.png",
        "figures/precision_recall.png",
        "figures/reliability.png",
        "figures/roc.png",
        "model_card.md",
        "predictions/val.csv",
    }
    assert (record.model / "artifacts" / "package" / "package.json").exists()
