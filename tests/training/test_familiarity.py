"""Whether a film is one that the model knows: how that is fitted, packaged, and told to who asks."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import predictions_to_json

from pneumonia import served
from pneumonia.config import TrainConfig
from pneumonia.served import model as serving
from pneumonia.serving import export as package
from pneumonia.serving import predict
from pneumonia.serving.export import PackageError
from pneumonia.training import familiarity
from pneumonia.training.familiarity import Familiarity
from pneumonia.training.network import Ensemble, build
from tests import known
from tests.served.conftest import TinyNetwork, png, write

COLUMNS = ["probability", "label", "threshold", "familiarity", "familiar", "warning", "error"]


@pytest.fixture(scope="module", autouse=True)
def whole_familiarity() -> Iterator[None]:
    familiarity.FILMS = 1000
    yield
    familiarity.FILMS = 100


def letters(seed: int) -> np.ndarray:
    rng, film = np.random.default_rng(seed), np.full((96, 96), 255, np.uint8)
    for row in range(20, 96, 25):
        cv2.putText(film, "".join(rng.choice(list("ABCDEFG"), 5)), (2, row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 0, 2)
    return cv2.resize(film, (32, 32), interpolation=cv2.INTER_AREA)


STRANGE = {
    "letters": np.stack([letters(seed) for seed in range(20)]),
    "noise": np.random.default_rng(3).integers(0, 256, (20, 32, 32), dtype=np.uint8),
    "ramps": np.stack([np.tile(np.linspace(low, 255, 32).astype(np.uint8), (32, 1)) for low in range(0, 200, 10)]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("package") / "package")


@pytest.fixture(scope="module")
def predictor(folder: Path) -> served.Predictor:
    return served.Predictor(folder)


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> predict.Model:
    path = tmp_path_factory.mktemp("model") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        mlflow.pyfunc.save_model(path, **package.pyfunc_arguments(folder))
    return predict.load(str(path))


def scores(predictor: served.Predictor, films: np.ndarray) -> np.ndarray:
    return np.array([predictor.familiarity(predictor.look(film)[1]) for film in films])


def test_one_validation_film_in_twenty_is_unfamiliar(predictor: served.Predictor) -> None:
    found = scores(predictor, known.films(100, seed=1))  # what `known` sets the scale by
    assert (found < served.FAMILIAR).sum() == 5
    assert (found.min(), found.max()) == pytest.approx((0, 1), abs=0.01)


def test_other_films_of_the_kind_are_familiar(predictor: served.Predictor) -> None:
    assert (scores(predictor, known.films(200, seed=2)) < served.FAMILIAR).mean() < 0.15


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_films_are_not(predictor: served.Predictor, kind: str) -> None:
    assert (scores(predictor, STRANGE[kind]) < served.FAMILIAR).all()


def test_familiarity_falls_with_the_distance(predictor: served.Predictor) -> None:
    found = [predictor.familiarity(distance) for distance in np.linspace(0, 2 * predictor.distances[-1], 500)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (1.0, 0.0)


def test_a_film_and_its_mirror_image_are_equally_familiar(predictor: served.Predictor) -> None:
    for film in known.films(5, seed=4):
        assert predictor.look(film)[1] == pytest.approx(predictor.look(film[:, ::-1].copy())[1], rel=1e-4)


def test_the_package_measures_what_was_fitted(folder: Path, predictor: served.Predictor) -> None:
    """The distance is Mahalanobis's of the mean features of a film and its mirror image, in float64."""
    network = TinyNetwork().eval()
    fitted = known.known(network)
    for film in (*known.films(3, seed=5), STRANGE["letters"][0]):
        shown = torch.from_numpy(served.standardise(np.stack((film, film[:, ::-1]))))
        with torch.inference_mode():
            mean = familiarity.features(network.maps(shown), shown).double().numpy().mean(axis=0)
        expected = np.square(fitted.weight.astype(float) @ mean + fitted.bias).sum()
        assert predictor.look(film)[1] == pytest.approx(expected, rel=1e-3)


def test_an_ensemble_is_measured_by_all_its_members() -> None:
    network = Ensemble([build(width, 0.3, seed=width).eval() for width in (4, 6)]).eval()
    fitted = known.known(network)
    assert fitted.weight.shape == (8 * (4 + 6) + 32,) * 2


def test_what_is_kept_does_not_grow_with_the_films() -> None:
    """So that no film can stand in it."""
    network, config = TinyNetwork().eval(), TrainConfig(size=32)
    few, many = (familiarity.fit(network, config, known.films(n), known.films(n, seed=1)) for n in (50, 600))
    for name in vars(few):
        assert vars(few)[name].shape == vars(many)[name].shape


def test_the_same_films_give_the_same_bits() -> None:
    network = TinyNetwork().eval()
    first, second = known.known(network), known.known(network)
    assert all((vars(first)[name] == vars(second)[name]).all() for name in vars(first))


def test_films_as_training_disturbs_them_are_less_strange() -> None:
    network, train, val = TinyNetwork().eval(), known.films(400), known.films(100, seed=1)
    shown = [
        familiarity.fit(network, TrainConfig(size=32, disturb=disturb), train, val).distances[-1]
        for disturb in (0.0, 0.5)
    ]
    assert shown[1] < shown[0]


def test_a_familiarity_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    fitted = known.known(TinyNetwork())
    broken = Familiarity(weight=fitted.weight, bias=fitted.bias * np.nan, distances=fitted.distances)
    with pytest.raises(PackageError, match="finite"):
        write(tmp_path / "package", familiarity=broken)
    assert not (tmp_path / "package").exists()


# --------------------------------------------------------------------------------------------------------------- served


def test_the_answer_says_what_is_familiar(model: predict.Model, predictor: served.Predictor) -> None:
    films = [known.films(1, seed=1)[0], STRANGE["letters"][0]]
    answer: Any = model.pyfunc.predict(pd.DataFrame({"image": [png(film) for film in films]}))
    assert answer.columns.tolist() == COLUMNS
    assert answer["familiar"].tolist() == [True, False]
    assert answer["familiarity"].tolist() == pytest.approx(scores(predictor, np.stack(films)), abs=1e-9)
    assert answer["warning"].tolist() == ["", serving.STRANGE]
    assert answer["error"].tolist() == ["", ""]


def test_every_column_is_in_the_signature(model: predict.Model) -> None:
    assert [column.name for column in model.metadata.signature.outputs] == COLUMNS


def test_a_bad_film_spoils_no_other_where_errors_are_returned(model: predict.Model) -> None:
    good = png(known.films(1)[0])
    table = pd.DataFrame({"image": [good, b"text", None, base64.b64encode(good).decode()]})
    with pytest.raises(MlflowException, match="record 1: the file is text"):
        model.pyfunc.predict(table)
    answer: Any = model.pyfunc.predict(table, params={"errors": "return", "explain": True})
    assert answer.columns.tolist() == [*COLUMNS, "heatmap"]
    assert [bool(error) for error in answer["error"]] == [False, True, True, False]
    assert answer["error"][2] == "the image is missing"
    assert answer["probability"].isna().tolist() == [False, True, True, False]
    assert answer.loc[1, ["label", "warning", "heatmap"]].tolist() == ["", "", ""]
    text = io.StringIO()
    predictions_to_json(answer, text)  # as the server does
    bad = json.loads(text.getvalue(), parse_constant=pytest.fail)["predictions"][1]
    assert (bad["probability"], bad["familiarity"], bad["familiar"]) == (None, None, False)
    alone: Any = model.pyfunc.predict(table[:1])
    assert answer.loc[0, COLUMNS].tolist() == alone.loc[0].tolist()
    with pytest.raises(MlflowException, match="errors must be raise or return"):
        model.pyfunc.predict(table, params={"errors": "ignore"})


def test_the_table_of_predictions_has_it(model: predict.Model, tmp_path: Path) -> None:
    paths = [tmp_path / "known.png", tmp_path / "letters.png", tmp_path / "bad.png"]
    for path, data in zip(paths, [png(known.films(1, seed=1)[0]), png(STRANGE["letters"][0]), b"text"], strict=True):
        path.write_bytes(data)
    table = predict.predict(model, paths)
    assert table["familiar"].tolist() == [True, False, pd.NA]
    assert table["familiarity"].isna().tolist() == [False, False, True]
    assert table["warning"].tolist() == ["", serving.STRANGE, ""]


def test_a_model_of_before_goes_on_without_it(model: predict.Model, tmp_path: Path) -> None:
    class Before:
        """Answers as models did that had three columns."""

        def predict(self, table: pd.DataFrame, params: object = None) -> pd.DataFrame:
            return pd.DataFrame({"probability": [0.7], "label": ["PNEUMONIA"], "threshold": [0.5]})

    (tmp_path / "a.png").write_bytes(png(known.films(1)[0]))
    table = predict.predict(replace(model, pyfunc=Before()), [tmp_path / "a.png"])  # type: ignore[arg-type]
    assert table.loc[0, ["probability", "label", "warning", "error"]].tolist() == [0.7, "PNEUMONIA", "", ""]
    assert table[["familiarity", "familiar"]].isna().all(axis=None)
