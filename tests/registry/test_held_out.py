"""What a version is worth on local films: told by models that did not learn from them, however it was made."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.registry.held_out import HeldOut, learned
from pneumonia.serving import predict
from pneumonia.tracking.record import HELD_OUT_PREDICTIONS, LOCAL_PREDICTIONS
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.tags import PARENT_RUN
from tests.registry.conftest import NAME

Adapting = Callable[..., str]
ELSEWHERE = "0" * 32  # the id of a run of another store


@pytest.fixture
def adapting(tracker: Tracker) -> Adapting:
    """Makes runs of adapted models; their ids. `adapting(parent, held_out={"f": 0.6})` learned from the film f, and
    `adapting(parent, local={"g": (0.5, 0.75)})` moved its probability without labels."""

    def make(
        parent: str | None = None,
        *,
        held_out: dict[str, float] | None = None,
        local: dict[str, tuple[float, float]] | None = None,
    ) -> str:
        tags = {} if parent is None else {PARENT_RUN: parent}
        run_id: str = tracker.client.create_run("1", tags=tags).info.run_id
        if held_out is not None:
            rows = [{"sha256": film, "patient": f"of {film}", "probability": p} for film, p in held_out.items()]
            tracker.client.log_text(run_id, pd.DataFrame(rows).to_csv(index=False), HELD_OUT_PREDICTIONS)
        if local is not None:
            moves = [{"sha256": film, "before": old, "probability": new} for film, (old, new) in local.items()]
            tracker.client.log_text(run_id, pd.DataFrame(moves).to_csv(index=False), LOCAL_PREDICTIONS)
        return run_id

    return make


@pytest.fixture
def losses(tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """`losses(run_id, "fg")`: those of the run's version on the ill films f and g, of which it may predict none."""

    def refuse(uri: str) -> predict.Model:
        raise AssertionError(f"{uri} predicts a film that it may have learned from")

    monkeypatch.setattr(predict, "load", refuse)
    tracker.client.create_registered_model(NAME)

    def ask(run_id: str, films: str) -> list[float]:
        version = tracker.client.create_model_version(NAME, source=str(tmp_path), run_id=run_id).version
        held_out = HeldOut(
            tracker=tracker,
            run_id="of a candidate",
            table=pd.DataFrame({"sha256": list(films)}),
            labels=np.ones(len(films), np.int64),
            patients=list(films),
            root=tmp_path,
            key="films",
        )
        return list(held_out.losses(f"models:/{NAME}/{version}"))

    return ask


def test_a_version_that_was_moved_without_labels_is_scored_by_what_it_comes_from(
    adapting: Adapting, losses: Callable[..., list[float]]
) -> None:
    """As it serves: moved so that a film of 0.5 has 0.75, odds of 3 for 1, one of 0.6 has odds of 4.5."""
    once = adapting(adapting(), held_out={"f": 0.6, "g": 0.2})
    moved = adapting(once, local={"x": (0.5, 0.75), "y": (0.25, 0.5), "z": (0.2, 3 / 7)})
    assert losses(moved, "gf") == pytest.approx([-np.log(0.75 / 1.75), -np.log(4.5 / 5.5)])
    back = adapting(moved, local={"x": (0.75, 0.5)})
    assert losses(back, "gf") == pytest.approx([-np.log(0.2), -np.log(0.6)])


def test_of_a_film_that_several_adaptings_held_out_the_last_one_counts(
    adapting: Adapting, losses: Callable[..., list[float]]
) -> None:
    first = adapting(adapting(), held_out={"f": 0.6, "g": 0.2})
    second = adapting(first, held_out={"g": 0.7, "h": 0.9})
    assert losses(second, "fgh") == pytest.approx([-np.log(0.6), -np.log(0.7), -np.log(0.9)])


def test_all_that_a_model_comes_from_is_asked_what_it_learned(tracker: Tracker, adapting: Adapting) -> None:
    first = adapting(ELSEWHERE, held_out={"f": 0.6})
    last = adapting(adapting(adapting(first), held_out={"g": 0.7}), local={"x": (0.5, 0.75)})
    assert [list(table["sha256"]) for table in learned(tracker, last)] == [["g"], ["f"]]
    assert not list(learned(tracker, adapting()))
    assert not list(learned(tracker, ELSEWHERE))
    assert not list(learned(tracker, None))


def test_runs_that_name_each_other_as_parent_are_asked_once(tracker: Tracker, adapting: Adapting) -> None:
    first = adapting(held_out={"f": 0.6})
    second = adapting(first)
    tracker.client.set_tag(first, PARENT_RUN, second)
    assert [list(table["sha256"]) for table in learned(tracker, second)] == [["f"]]
