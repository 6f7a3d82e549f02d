import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pneumonia import served
from pneumonia.metrics.calibration import Calibration
from pneumonia.serving import export as package
from pneumonia.serving import predict
from tests.known import known
from tests.served.conftest import deep, dicom


class Tiny(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 4, 5, stride=4)
        self.head = nn.Linear(4, 1)

    def maps(self, films: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(films))

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(films).mean((2, 3)))[:, 0]


def save(folder: Path, *, seed: int = 0, classes: tuple[str, str] = ("NORMAL", "PNEUMONIA")) -> Path:
    network = Tiny(seed)
    package.write(
        folder / "package",
        network,
        size=32,
        classes=classes,
        threshold=0.5,
        calibration=Calibration(3.0, 0.1),
        familiarity=known(network),
    )
    mlflow.pyfunc.save_model(folder / "model", **package.pyfunc_arguments(folder / "package"))
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> predict.Model:
    return predict.load(str(folder))


def film(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (60, 80), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, cv2.GaussianBlur(noise, (0, 0), 1 + seed))[1].tobytes())
    return path


def test_predictions_are_the_package_s_own_whatever_the_number_of_threads(
    model: predict.Model, folder: Path, tmp_path: Path
) -> None:
    paths = [film(tmp_path / f"{i}.png", i) for i in range(8)]
    table = predict.predict(model, paths)
    predictor = served.Predictor(folder / "artifacts" / "package")
    films = np.stack([served.read_film(path.read_bytes(), 32) for path in paths])

    np.testing.assert_allclose(table.probability, predictor.probabilities(films), atol=1e-12)
    assert table.path.tolist() == [str(path) for path in paths]
    assert table.label.tolist() == [model.classes[p >= model.threshold] for p in table.probability]
    assert set(table.threshold) == {0.5}
    assert (table.error == "").all()
    pd.testing.assert_frame_equal(table, predict.predict(model, paths, threads=1))


def test_a_bad_film_is_a_row_that_says_why_and_spoils_no_other(model: predict.Model, tmp_path: Path) -> None:
    good = [film(tmp_path / "a.jpeg", 1), film(tmp_path / "z.jpeg", 2)]
    text, empty, cut, gone = (tmp_path / name for name in ("text.jpeg", "empty.jpeg", "cut.jpeg", "gone.jpeg"))
    text.write_text("<html>not found</html>")
    empty.touch()
    cut.write_bytes(good[0].read_bytes()[:300])
    table = predict.predict(model, [good[0], text, empty, cut, gone, tmp_path, good[1]]).set_index("path")

    assert len(table) == 7
    alone = predict.predict(model, good).set_index("path")
    pd.testing.assert_frame_equal(table.loc[[str(path) for path in good]], alone)
    bad = table.drop(index=[str(path) for path in good])
    assert bad.probability.isna().all()
    assert (bad.label == "").all()
    assert bad.error.str.len().between(5, 120).all()
    assert not bad.error.str.contains("record|Traceback|Error").any()
    assert table.error[str(gone)] == "no such file"
    assert table.error[str(tmp_path)] == "not a file"


def test_two_models_in_one_process_each_run_their_own_code(
    model: predict.Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
    other = save(tmp_path)
    code = other / "served.py"
    code.write_text(code.read_text().replace('"probability": probability,', '"probability": 0.25,'))
    manifest = other / "artifacts" / "package" / "package.json"
    settings = json.loads(manifest.read_text())
    del settings["sha256"]  # as versions of before have it, whose code is their own
    manifest.write_text(json.dumps(settings))
    path = film(tmp_path / "a.png")
    before = predict.predict(model, [path])
    assert predict.predict(predict.load(str(other)), [path]).probability.tolist() == [0.25]
    pd.testing.assert_frame_equal(predict.predict(model, [path]), before)
    pd.testing.assert_frame_equal(predict.predict(predict.load(str(folder)), [path]), before)


def test_a_missing_model_is_named_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(predict.ModelError, match=rf"no model at {tmp_path}/nowhere: looked for .*MLmodel"):
        predict.load("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(predict.ModelError, match="empty"):
        predict.load("empty")


def test_a_model_of_another_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
    code = "import mlflow\nclass M(mlflow.pyfunc.PythonModel):\n    def predict(self, model_input):\n        return 1\n"
    (tmp_path / "code.py").write_text(f"{code}mlflow.models.set_model(M())\n")
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=str(tmp_path / "code.py"), pip_requirements=["mlflow"])
    with pytest.raises(predict.ModelError, match=r"not one of this program's"):
        predict.load(str(tmp_path / "m"))


def test_a_model_that_lost_its_graph_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "artifacts" / "package" / "model.onnx").unlink()
    with pytest.raises(predict.ModelError, match=r"cannot be loaded"):
        predict.load(str(tmp_path / "model"))


@pytest.mark.slow
def test_registered_and_logged_uris(folder: Path, tmp_path: Path, store: str) -> None:
    client = mlflow.MlflowClient(store)
    with mlflow.start_run(experiment_id=client.create_experiment("predict")) as run:
        arguments = package.pyfunc_arguments(folder / "artifacts" / "package")
        info = mlflow.pyfunc.log_model(name="model", registered_model_name="films", **arguments)
    client.set_registered_model_alias("films", "champion", "1")
    path = film(tmp_path / "a.png")
    expected = predict.predict(predict.load(str(folder)), [path])
    for name in ("models:/films@champion", "models:/films/1", info.model_uri, f"runs:/{run.info.run_id}/model"):
        loaded = predict.load(name)
        pd.testing.assert_frame_equal(predict.predict(loaded, [path]), expected)
        assert loaded.metadata.run_id == run.info.run_id
    for name in ("models:/films@nobody", "models:/films/7", "models:/strangers/1", f"runs:/{'0' * 32}/model"):
        with pytest.raises(predict.ModelError, match=name):
            predict.load(name)


def test_any_dicom_is_asked_of_the_model_and_what_is_doubtful_stands_in_the_table(
    model: predict.Model, tmp_path: Path
) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom(deep(), BitsStored=12, Modality="OT", ViewPosition="LL"))
    assert "any_dicom reads it" in predict.predict(model, [path])["error"].item()
    row = predict.predict(model, [path], any_dicom=True).iloc[0]
    assert row["error"] == ""
    assert "Modality" in row["warning"]
    assert "ViewPosition" in row["warning"]
    assert predict.heatmaps(model, [path], any_dicom=True)


def test_a_model_of_before_any_dicom_is_named(model: predict.Model, tmp_path: Path) -> None:
    class Before:
        def get_params_schema(self) -> None:
            return None

    old = replace(model, metadata=Before())
    with pytest.raises(predict.ModelError, match="earlier version, which has no any_dicom"):
        predict.predict(old, [film(tmp_path / "a.png")], any_dicom=True)
    assert predict.predict(old, [film(tmp_path / "a.png")])["error"].item() == ""
