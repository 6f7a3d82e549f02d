"""Records without a training, and a store that loses single calls."""

from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.models import Model

from pneumonia.tracking.record import Record

NewRecord = Callable[..., Record]


class Flaky:
    """A client whose `fault`-th call fails, before the store does it, or after it did but the answer is lost."""

    def __init__(self, client: MlflowClient, fault: int, *, before: bool) -> None:
        self._client, self._left, self._before = client, fault, before
        self.failed = ""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left != 0:
                return method(*args, **kwargs)
            self.failed = name
            if not self._before:
                method(*args, **kwargs)
            raise ConnectionError(f"{name}: connection reset by peer")

        return call


def stub_model(record: Record) -> None:
    """An MLflow model of two files that nobody loads."""
    record.model.mkdir()
    Model().save(str(record.model / "MLmodel"))
    (record.model / "weights.bin").write_bytes(b"weights")


def small(new_record: NewRecord, name: str, **fields: Any) -> Record:
    """An ended record with a bit of everything."""
    dataset = {"name": "films", "digest": "ab" * 32, "source": "/films", "profile": {"train": 3}}
    record = new_record(name, **{"dataset": dataset, "tags": {"a": "b"}, "description": "words", **fields})
    record.add_params({"lr": 1e-3, "width": 8})
    for step in (1, 2, 3):
        record.add_metrics({"val/auc": step / 4, "val/loss": 1 / step}, step=step)
    record.summarise({"val/auc": 0.75, "val/threshold": 0.4}, step=3)
    record.add_json("confusion_matrix.json", [[1, 0], [0, 1]])
    record.add_json("figures/figure.json", {})
    stub_model(record)
    record.finish("COMPLETE")
    return record


def files(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """Every artifact of a run."""
    found = []
    for item in client.list_artifacts(run_id, folder):
        found += files(client, run_id, item.path) if item.is_dir else [item.path]
    return found
