"""The benchmarks run, and write what is promised. Their figures are not tested: those depend on the machine."""

import importlib
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import optuna
import pandas as pd
import pytest
import scipy.stats

from experiments import adapting, bench, drawn_films, gain, search_study, shortcut_audit, speedrun, step_profile
from pneumonia.augmentation import stress_tests as stress
from pneumonia.config import Plan, SearchConfig, TrainConfig
from pneumonia.data import index as data
from pneumonia.data.cache import Decoded
from pneumonia.runs.context import RunContext
from pneumonia.search import final, run
from pneumonia.search import study as studies
from pneumonia.serving import predict
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from tests.conftest import ROOT, TINY

FOLDER = ROOT / "experiments"
TIMES = {"seconds", "decode_seconds", "train_seconds"}
ON_TEST_FILMS = {"test_auc", "test_accuracy", "test_balanced_accuracy", "test_best_accuracy"}


@pytest.mark.slow  # torchvision alone takes seconds to import
@pytest.mark.parametrize("name", sorted({path.stem for path in FOLDER.glob("*.py")} - {"__init__", "bench", "browser"}))
def test_each_is_a_command_that_says_what_it_is_for(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m experiments.{name}" in said
    assert "--json FILE" in said or "--json JSON" in said or name == "pictures"  # which are its figures


def strict(path: Path) -> dict[str, Any]:
    """JSON as the standard has it, without NaN."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_speedrun_writes_a_row_a_seed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    out = tmp_path / "speedrun.json"
    words = ["speedrun", "--recipe", "quality", "--data", str(films), "--seeds", str(seeds), "--json", str(out)]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setitem(speedrun.RECIPES, "quality", replace(TINY, epochs=2))
    speedrun.main()
    report = strict(out)
    assert [row["seed"] for row in report["seeds"]] == list(range(seeds))
    for row in report["seeds"]:
        assert set(row) == {"seed", "val_auc"} | TIMES | ON_TEST_FILMS
        assert all(0 <= row[name] <= 1 for name in {"val_auc"} | ON_TEST_FILMS)
        assert row["seconds"] == pytest.approx(row["decode_seconds"] + row["train_seconds"])
    assert report["recipe"]["size"] == TINY.size
    assert {"commit", "machine", "import_seconds", "summary"} < set(report)


def test_the_speedrun_does_without_a_test_split(films: Path, tmp_path: Path) -> None:
    shutil.copytree(films / "chest_xray" / "train", tmp_path / "films" / "train")
    result = speedrun.run(tmp_path / "films", replace(TINY, epochs=1))
    assert set(result) == {"seed", "val_auc"} | TIMES


@pytest.mark.slow
def test_the_quality_recipe_is_what_the_search_trains_in_full(
    index: data.Index, home: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search whose only trial is the first that is proposed: the recipe as it stands."""
    trained = []

    def one_trial(study: optuna.Study, *rest: Any, **more: Any) -> None:
        trial = studies.claim(study, 1, wait=lambda: None)
        assert trial is not None
        study.tell(trial, 0.1)

    def train(config: TrainConfig, *rest: Any, **more: Any) -> None:
        trained.append(config)
        raise InterruptedError

    monkeypatch.setattr(run.pool, "prepared", nullcontext)  # no worker will start
    monkeypatch.setattr(run, "_run_trials", one_trial)
    monkeypatch.setattr(run, "_record_trials", lambda *rest: None)  # draws figures
    monkeypatch.setattr(final, "run_training", train)
    config = SearchConfig(data="films", trials=1).for_data(cores=8, films=4400)
    with pytest.raises(InterruptedError):
        run.search(config, index, RunContext(home=home, tracker=tracker))
    assert trained == [speedrun.RECIPES["quality"]]


def test_a_spread_is_that_of_a_sample_and_one_row_has_none() -> None:
    rows = [{"seed": seed, "auc": auc} for seed, auc in enumerate((0.9, 0.92, 0.97))]
    found = bench.summary(rows)
    assert list(found) == ["auc"]
    assert found["auc"] == {"mean": pytest.approx(0.93), "std": pytest.approx(0.0013**0.5)}
    assert bench.spread(found["auc"]) == "0.9300 ± 0.0361"
    assert bench.spread(bench.summary(rows[:1])["auc"]) == "0.9000"


def test_the_profile_accounts_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "FILMS", 128)
    figures = step_profile.profile(replace(TINY, epochs=2), threads=1)
    shares = {name: value for name, value in figures.items() if name.endswith("_share")}
    assert set(shares) == {f"{n}_share" for n in ("input", "augment", "gather", "optimizer", "network_and_rest")}
    assert all(0 <= share < 1 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["network_and_rest_share"] > 0.2


def test_the_audit_masks_the_border_alone_and_saves_anew() -> None:
    film = np.random.default_rng(0).integers(0, 256, (100, 200), np.uint8)
    masked = shortcut_audit.masked(film)
    inner = film[10:-10, 20:-20]
    assert (shortcut_audit.cropped(film) == inner).all()
    assert (masked[10:-10, 20:-20] == inner).all()
    assert np.unique(masked[:10]).tolist() == np.unique(masked[:, -20:]).tolist() == [round(inner.mean())]
    resaved = shortcut_audit.resaved(film)
    assert resaved.shape == film.shape
    assert 0 < np.abs(resaved.astype(int) - film).mean() < 40


def test_the_audit_finds_what_the_files_give_away(films: Path, tmp_path: Path) -> None:
    """Films of one class saved at another quality, as in the real training films."""
    folder = shutil.copytree(films, tmp_path / "films")
    for path in folder.glob("**/train/PNEUMONIA/*"):
        film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), film, [cv2.IMWRITE_JPEG_QUALITY, 30])
    fair, unfair = shortcut_audit.files(data.scan(films)), shortcut_audit.files(data.scan(folder))
    assert unfair["alone"]["quantisation"] == 1.0
    assert unfair["alone"]["quantisation"] > fair["alone"]["quantisation"]


def test_the_audit_asks_the_model_itself(films: Path, trained: Record) -> None:
    index, model = data.scan(films), predict.load(str(trained.model))
    rows = index.only("val")
    said = predict.predict(model, [index.root / path for path in rows["path"]])["probability"]
    read = [cv2.imread(str(index.root / path), cv2.IMREAD_GRAYSCALE) for path in rows["path"]]
    assert shortcut_audit.asked(model, read) == pytest.approx(said.to_numpy(), abs=1e-3)


def test_the_audit_paints_normal_films_and_changes_one_class_alone(
    films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of a model that goes by the grey of the film."""
    grey = SimpleNamespace(threshold=0.5)
    monkeypatch.setattr(shortcut_audit, "asked", lambda _, shown: np.array([film.mean() / 255 for film in shown]))
    index = data.scan(films)
    found = shortcut_audit.one_class_changed(grey, index)  # type: ignore[arg-type]
    assert list(found) == ["NORMAL", "PNEUMONIA"]
    assert set(found["NORMAL"]) == {*stress.SHAPES, *stress.CHANGES}
    assert found["NORMAL"]["lighter"] < found["NORMAL"]["darker"]
    assert found["PNEUMONIA"]["lighter"] > found["PNEUMONIA"]["darker"]
    painted = shortcut_audit.by_opacity(grey, index)  # type: ignore[arg-type]
    assert painted["auc"]["value"] > 0.6  # painted films are brighter


def test_random_weights_destroy_the_heatmaps(trained: Record, decoded: Decoded) -> None:
    network = shortcut_audit.network_of(str(trained.model))
    found = shortcut_audit.heatmaps(network, np.array(decoded.films[:6]))
    assert list(found) == ["head", *(f"stage {number}" for number in (4, 3, 2, 1)), "stem"]
    assert all(abs(value["mean"]) < 0.6 for value in found.values())  # 1 for the model itself


@pytest.mark.slow
def test_drawn_films_score_recipes_and_models(
    films: Path, trained: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drawn_films, "FILMS", 60)
    monkeypatch.setattr(drawn_films, "RECIPES", {"as it stands": {}, "opacity 0.0": {"opacity": 0.0}})
    out = tmp_path / "drawn.json"
    words = ["drawn_films", "recipes", "--data", str(films), "--size", "32", "--width", "4", "--epochs", "1"]
    monkeypatch.setattr("sys.argv", [*words, "--json", str(out)])
    drawn_films.main()
    report = strict(out)
    assert [(row["recipe"], row["seed"]) for row in report["rows"]] == [
        (recipe, seed) for recipe in ("as it stands", "opacity 0.0") for seed in (0, 1)
    ]
    assert all(0 <= row[name] <= 1 for row in report["rows"] for name in ("drawn", "bacteria", "virus", "AUC"))
    assert report["summary"]["as it stands"]["drawn"]["std"] is not None
    monkeypatch.setattr("sys.argv", [words[0], "painted", *words[2:], "--seeds", "1", "--json", str(out)])
    drawn_films.main()
    (row,) = strict(out)["rows"]
    assert 0 <= row["AUC"] <= 1
    monkeypatch.setattr("sys.argv", ["drawn_films", "models", "--model", str(trained.model), "--json", str(out)])
    drawn_films.main()
    (row,) = strict(out)["rows"]
    assert 0 <= row["mean NORMAL"] <= 1
    assert f"drawn {row['drawn']:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "missing"), [(["models"], "--model URI"), (["recipes"], "--data DIR"), (["painted"], "--data DIR")]
)
def test_drawn_films_asks_for_what_it_needs(
    words: list[str], missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["drawn_films", *words])
    with pytest.raises(SystemExit) as ended:
        drawn_films.main()
    assert ended.value.code == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize("name", ["all", "tenth", "subtypes"])
def test_films_that_score_a_gain_are_of_patients_that_no_arm_sees(films: Path, tmp_path: Path, name: str) -> None:
    of = gain.task(name, films, seed=0, home=tmp_path)
    seen, held = of.index.table, of.held.table
    assert not set(seen["patient"]) & set(held["patient"])
    assert set(seen["split"]) == {"train", "val"}
    assert not set(data.scan(films).only("test")["path"]) & {*seen["path"], *held["path"]}
    assert set(held["label"]) == set(seen["label"]) == {0, 1}
    assert (of.index.classes == ("bacteria", "virus")) == (name == "subtypes")


def test_each_seed_has_a_tenth_of_its_own_and_the_same_films_score(films: Path, tmp_path: Path) -> None:
    first, second = (gain.task("tenth", films, seed=seed, home=tmp_path) for seed in (0, 1))
    assert set(first.index.table["patient"]) != set(second.index.table["patient"])
    assert first.held.fingerprint == second.held.fingerprint


def test_a_gain_is_the_paired_difference_with_its_t_interval() -> None:
    losses = {"search": [0.20, 0.31, 0.39], "recipe": [0.25, 0.33, 0.45]}
    rows = [
        {"task": "all", "seed": seed, "arm": arm, "log_loss": value}
        for arm, values in losses.items()
        for seed, value in enumerate(values)
    ]
    (found,) = gain.compared(pd.DataFrame(rows)).to_dict("records")
    expected = scipy.stats.ttest_rel(losses["search"], losses["recipe"]).confidence_interval()
    assert (found["task"], found["against"], found["seeds"]) == ("all", "recipe", 3)
    assert found["difference"] == pytest.approx(-0.13 / 3)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


@pytest.mark.slow
def test_workers_are_timed_on_whole_searches(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(trials=2, epochs=1, final_epochs=2, workers=1, size=32, keep_models=2)
    monkeypatch.setattr(search_study, "_plan", lambda index: plan)
    out = tmp_path / "workers.json"
    monkeypatch.setattr("sys.argv", ["search_study", "workers", "--data", str(films), "--json", str(out)])
    search_study.main()
    found = strict(out)
    assert found["ratio"] == pytest.approx(found["seconds"]["1"] / found["seconds"]["2"])


@pytest.mark.slow
def test_a_study_of_the_gain_goes_on_where_it_was_broken_off(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = SearchConfig(data=str(films), trials=2, epochs=1, final_epochs=1, size=32, workers=1)
    asked: list[str] = []
    task, train = gain.task, gain._train

    def tiny_task(*args: Any, **more: Any) -> gain.Task:
        return replace(task(*args, **more), config=replace(tiny, seed=more["seed"]))

    def told(of: gain.Task, configs: Any, home: Path, **more: Any) -> dict[str, Any]:
        asked.append(of.name)
        return train(of, configs, home, **more)

    monkeypatch.setattr(gain, "task", tiny_task)
    monkeypatch.setattr(gain, "_train", told)
    table = tmp_path / "gain.csv"

    def study(*arms: str) -> pd.DataFrame:
        return gain.study(films, tmp_path, table, tasks=["all"], arms=arms, seeds=1)

    study("search", "recipe")
    assert asked == ["all"]
    found = study("search", "recipe", "seeds", "longer")
    assert asked == ["all"] * 3
    assert list(found["against"]) == ["recipe", "seeds", "longer"]
    assert np.isfinite(found["difference"]).all()
    rows = pd.read_csv(table)
    assert list(rows["arm"]) == ["search", "recipe", "seeds", "longer"]
    assert rows.loc[rows["arm"] == "search", "trainings"].item() == 2
    assert study("search", "recipe", "seeds", "longer").equals(found)
    assert asked == ["all"] * 3


def test_films_are_ranked_within_a_view_and_patients_are_drawn_whole() -> None:
    labels, views = np.array([0, 1, 0, 1, 1]), np.array(["PA", "PA", "AP", "AP", "AP"])
    assert adapting.within_view(labels, np.array([1, 2, 10, 11, 12]), views) == 1  # across views it would not be
    assert adapting.within_view(labels, np.array([2, 1, 10, 11, 12]), views) == pytest.approx(2 / 3)  # of three pairs

    rng = np.random.default_rng(0)
    patients, many = rng.integers(0, 30, 60).astype(str), rng.integers(0, 2, 60)
    for seed in range(5):
        taken = adapting.draw(many, patients, 20, seed)
        assert 20 <= taken.sum() < 30
        assert not set(patients[taken]) & set(patients[~taken])
