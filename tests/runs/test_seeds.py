"""One recipe with several seeds: a run a seed, and their means with their spread on the run above them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pneumonia.cli import cli
from pneumonia.config import TrainConfig
from pneumonia.data import cache
from pneumonia.data.index import Index
from pneumonia.runs import seeds
from pneumonia.runs import train as trial
from pneumonia.runs.context import RunContext
from pneumonia.runs.seeds import Seeds, SeedsError, seeds_from
from pneumonia.runtime.signals import Interrupted
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent, unsent
from pneumonia.training.loop import Diverged
from tests.command import Lab
from tests.conftest import TINY, Told

SCORES = ("auc", "average_precision", "accuracy", "sensitivity", "specificity", "f1", "ece", "log_loss", "objective")
ONE_EPOCH = replace(TINY, epochs=1)
Train = Callable[..., Seeds]


@pytest.fixture
def train(index: Index, tracker: Tracker, home: Path) -> Train:
    def run(which: range = range(2), **more: Any) -> Seeds:
        config = more.pop("config", ONE_EPOCH)
        listener = more.pop("listener", Told())
        context = RunContext(home=home, tracker=tracker, **more)
        return seeds.train_and_record(config, which, index, context, data="films", listener=listener)

    return run


def of(tracker: Tracker, run_id: str) -> list[Run]:
    """The runs under a run, in the order of their seeds."""
    found = tracker.client.search_runs(["1"], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'")
    return sorted(found, key=lambda run: int(run.data.params["seed"]))


def quick(*fails: int, error: BaseException | None = None) -> Callable[..., float]:
    """A `run_training` that only claims its scores, and raises with the seeds `fails`."""

    def run(config: TrainConfig, decoded: Any, record: Record, *context: Any, **more: Any) -> float:
        if config.seed in fails:
            raise error or Diverged("the loss is not finite at step 3")
        record.summarise({f"val/{name}": 0.5 + 0.01 * config.seed for name in SCORES}, step=1)
        return 0.5

    return run


def test_seeds_follow_each_other() -> None:
    assert list(seeds_from(0, 5)) == [0, 1, 2, 3, 4]
    assert list(seeds_from(7, 2)) == [7, 8]
    with pytest.raises(ValueError, match="seeds must be at least 1, not 0"):
        seeds_from(0, 0)
    with pytest.raises(ValueError, match="seed must be from 0 to 4294967295, not 4294967296"):
        seeds_from(2**32 - 1, 2)


@pytest.mark.slow
def test_each_seed_is_a_whole_run_and_their_means_stand_above(
    train: Train, tracker: Tracker, index: Index, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decodings: list[int] = []
    monkeypatch.setattr(trial, "decode", lambda *a, **k: (decodings.append(k["size"]), cache.decode(*a, **k))[1])
    told = Told()
    found = train(range(3, 5), tags={"who": "me"}, listener=told)
    assert (told.seeds, decodings) == ([3, 4], [TINY.size])
    run_id = sent(found.record)["run_id"]
    children = of(tracker, run_id)
    assert [child.data.params["seed"] for child in children] == ["3", "4"]
    for child in children:
        tags = child.data.tags
        assert (tags["role"], tags["trial.state"], tags["who"]) == ("train", "COMPLETE", "me")
        assert tags["data.fingerprint"] == index.fingerprint
        assert tracker.has_model(child.info.run_id)
        root = Path(child.info.artifact_uri)
        there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        figures = {f"figures/{name}.png" for name in ("confusion_matrix", "roc", "precision_recall", "reliability")}
        assert figures | {"confusion_matrix.json", "predictions/val.csv"} <= there

    parent = tracker.client.get_run(run_id)
    assert (parent.info.status, parent.data.tags["role"]) == ("FINISHED", "seeds")
    assert "trial.state" not in parent.data.tags
    assert "seed" not in parent.data.params
    assert (parent.data.params["seeds"], parent.data.params["width"]) == ("2", str(TINY.width))
    assert parent.inputs.dataset_inputs
    values = np.array([[child.data.metrics[f"val/{name}"] for name in SCORES] for child in children])
    assert np.ptp(values[:, -1]) > 0  # the seeds are not one training twice
    for name, column in zip(SCORES, values.T, strict=True):
        assert parent.data.metrics[f"val/{name}"] == pytest.approx(column.mean())
        assert parent.data.metrics[f"val/{name}_std"] == pytest.approx(column.std(ddof=1))
    assert parent.data.metrics["seeds/complete"] == 2
    assert not any(name.endswith("_std") and not name.startswith("val/") for name in parent.data.metrics)

    root = Path(parent.info.artifact_uri)
    table = pd.read_csv(root / "seeds.csv")
    assert table["seed"].tolist() == [3, 4]
    assert table["run_id"].tolist() == [child.info.run_id for child in children]
    np.testing.assert_allclose(table[[f"val/{name}" for name in SCORES]].to_numpy(), values)
    assert (root / "figures" / "seeds.png").stat().st_size > 5000
    assert (root / "data_report.json").exists()
    note = parent.data.tags["mlflow.note.content"]
    assert "with seeds 3 to 4. 2 of 2 seeds came to an end." in note
    auc = values[:, 0]
    assert f"AUC {auc.mean():.4f} ± {auc.std(ddof=1):.4f}" in note

    config = replace(ONE_EPOCH, seed=4)
    alone = trial.train_and_record(
        config, index, RunContext(home=home, tracker=tracker, tags={"who": "me"}), data="films"
    )
    assert alone.summary["val/auc"] == found.children[4].summary["val/auc"]
    assert alone.params == found.children[4].params
    assert alone.run.tags == found.children[4].run.tags

    assert found.unsent == 0
    assert not tracker.client.search_registered_models()
    last = found.text().splitlines()[-1]
    assert last.startswith("mean ± std")
    assert f"{auc.mean():.4f} ± {auc.std(ddof=1):.4f}" in last
    as_dict = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert as_dict["run_id"] == run_id
    assert [(one["seed"], one["run_id"]) for one in as_dict["seeds"]] == [
        (3, children[0].info.run_id),
        (4, children[1].info.run_id),
    ]
    assert as_dict["mean"]["val/auc"] == pytest.approx(auc.mean())
    assert as_dict["std"]["val/auc"] == pytest.approx(auc.std(ddof=1))


def test_a_seed_that_fails_does_not_end_the_others(
    train: Train, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "run_training", quick(1, error=MemoryError("no room")))
    told = Told()
    found = train(range(3), listener=told)
    reason = "seed 1: MemoryError: no room"
    assert found.failed == {1: "MemoryError: no room"}
    assert reason in told.said
    assert found.sentence() == f"2 of 3 seeds came to an end; {reason}"
    children = of(tracker, sent(found.record)["run_id"])
    assert [child.data.tags["trial.state"] for child in children] == ["COMPLETE", "FAIL", "COMPLETE"]
    parent = tracker.client.get_run(sent(found.record)["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["seeds/complete"] == 2
    aucs = [children[at].data.metrics["val/auc"] for at in (0, 2)]
    assert parent.data.metrics["val/auc"] == pytest.approx(np.mean(aucs))
    assert found.sentence() in parent.data.tags["mlflow.note.content"]
    assert found.table()["reason"].tolist() == ["", "MemoryError: no room", ""]
    assert [one["metrics"] == {} for one in found.as_dict()["seeds"]] == [False, True, False]


def test_one_seed_that_is_left_has_no_spread(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "run_training", quick(0))
    found = train(range(2))
    assert "val/auc_std" not in found.record.summary
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["std"]["val/auc"] is None
    assert "±" not in found.text().splitlines()[-1].removeprefix("mean ± std")


def test_where_all_seeds_fail_their_parent_fails(
    train: Train, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "run_training", quick(0, 1))
    with pytest.raises(SeedsError, match="0 of 2 seeds came to an end; seeds 0, 1: Diverged: the loss is not finite"):
        train()
    (parent,) = tracker.client.search_runs(["1"], "tags.role = 'seeds'")
    assert parent.info.status == "FAILED"
    assert "0 of 2 seeds" in parent.data.tags["reason"]
    assert {child.info.status for child in of(tracker, parent.info.run_id)} == {"FAILED"}


def test_a_stop_ends_the_seed_and_its_parent(train: Train, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "run_training", quick(1, error=Interrupted(2)))
    with pytest.raises(Interrupted):
        train(range(3))
    (parent,) = tracker.client.search_runs(["1"], "tags.role = 'seeds'")
    assert parent.info.status == "KILLED"
    assert [child.info.status for child in of(tracker, parent.info.run_id)] == ["FINISHED", "KILLED"]


def test_what_could_not_be_sent_is_counted_and_sent_later(
    train: Train, tracker: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "run_training", quick())
    with monkeypatch.context() as away:
        away.setattr(Tracker, "try_send", lambda *a, **k: False)
        found = train()
    assert found.unsent == 3
    _, left = tracker.sync(home)
    assert left == []
    assert not any(unsent(record) for record in (found.record, *found.children.values()))
    assert len(of(tracker, sent(found.record)["run_id"])) == 2


def test_the_command_says_which_seeds_failed(
    store: str, films: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    monkeypatch.setattr(seeds, "run_training", quick(8))
    words = ["train", "--data", str(films), "--size", "32", "--seed", "7"]
    result = CliRunner().invoke(cli, [*words, "--seeds", "2", "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [(one["seed"], one["state"]) for one in told["seeds"]] == [(7, "COMPLETE"), (8, "FAIL")]
    assert told["mean"]["val/auc"] == pytest.approx(0.57)
    assert "1 of 2 seeds came to an end; seed 8: Diverged: the loss is not finite at step 3" in result.stderr
    none = CliRunner().invoke(cli, [*words, "--seeds", "0"])
    assert (none.exit_code, none.stderr) == (2, "error: seeds must be at least 1, not 0\n")


@pytest.mark.slow
def test_the_command_trains_and_compares_seeds(store: str, films: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", films, tracking=store)
    words = ["--data", str(films), "--size", "32", "--width", "4", "--epochs", "2"]
    ids = []
    for more in ([], ["--sampler", "none"]):
        command = lab.start("train", *words, "--seeds", "2", *more)
        assert command.end() == 0, command.text()
        assert "seed 1 (2 of 2)" in command.text()
        assert "mean ± std" in command.text()
        (run,) = [run for run in lab.runs("seeds") if run.info.run_id not in ids]
        ids.append(run.info.run_id)
        assert f"run {run.info.run_id}" in command.text()
    assert len(lab.runs("train")) == 4
    one = lab.start("train", *words, "--seeds", "1", "--seed", "9")
    assert one.end() == 0, one.text()
    assert len(lab.runs("seeds")) == 2
    assert not lab.client.search_registered_models()
    compared = lab.start("compare", *ids, "--data", str(films))
    assert compared.end() == 0, compared.text()
    assert "sampler" in compared.text()
