"""Versions of a registered model: real ones that differ in their calibration, and stand-ins of a given loss."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pneumonia.registry import scoring
from pneumonia.registry.gate import Verdict
from pneumonia.registry.scoring import Validation
from pneumonia.registry.versions import enter
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker

NAME = "pneumonia"
FILMS = Validation(films=[], labels=np.array([]), patients=list("ab"), opacities=True, key="films")


Register = Callable[..., Verdict]


@pytest.fixture
def register(tracker: Tracker, copy_trained: Callable[..., Record]) -> Register:
    """Finishes, sends and enters a copy of the trained model whose logits are moved by `bias`: the further from 0, the
    worse it is, since the calibration was fitted on the very films of the gate."""

    def make(name: str, *, bias: float) -> Verdict:
        record = copy_trained(name, bias=bias, register=NAME, role="final")
        record.finish("COMPLETE")
        tracker.send(record)
        return enter(tracker, record)

    return make


def aliases(tracker: Tracker) -> dict[str, str]:
    there = tracker.client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in there.items()}


def versions(tracker: Tracker) -> list[int]:
    return sorted(int(v.version) for v in tracker.client.search_model_versions(f"name = '{NAME}'"))


@pytest.fixture
def stand_ins(tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], str]:
    """Registers versions without a model, of a given log loss: `stand_ins(0.3)` is the version's number."""
    scores: dict[str, float] = {}

    def losses(uri: str, films: Validation) -> np.ndarray:
        if uri not in scores:
            raise KeyError("probability")  # as of a model that is not this program's
        return np.full(2, scores[uri])

    monkeypatch.setattr(scoring, "losses", losses)
    tracker.client.create_registered_model(NAME)

    def make(loss: float | None) -> str:
        version = str(tracker.client.create_model_version(NAME, source=str(tmp_path)).version)
        if loss is not None:
            scores[f"models:/{NAME}/{version}"] = loss
        return version

    return make
