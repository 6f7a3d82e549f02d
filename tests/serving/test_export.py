"""The package folder: what it holds, that it scores like the network, and that MLflow loads it with its own code."""

import base64
import json
import threading
from pathlib import Path
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from mlflow.exceptions import MlflowException
from torch import nn

from pneumonia import served
from pneumonia.metrics.calibration import Calibration
from pneumonia.served import model as serving
from pneumonia.serving import bundle
from pneumonia.serving import export as package
from pneumonia.serving.export import PackageError

SIZE = 32
CLASSES = ("NORMAL", "PNEUMONIA")


class TinyNetwork(nn.Module):
    """Two convolutions, in the form that `package.write` asks for."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()
        )
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(12, 1)
        nn.init.normal_(self.head.weight, std=2.0)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.maps(x).mean((2, 3)))).squeeze(1)


def write(folder: Path, network: nn.Module | None = None, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "size": SIZE,
        "classes": CLASSES,
        "threshold": 0.4,
        "calibration": Calibration(1.5, -0.2),
    }
    package.write(folder, network or TinyNetwork(), **{**settings, **changes})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("package") / "package")


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (20, SIZE, SIZE), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(film, (0, 0), 2) for film in noise])


def png(film: np.ndarray) -> bytes:
    return cv2.imencode(".png", film)[1].tobytes()


# -------------------------------------------------------------------------------------------------------------- writing


def test_the_same_network_gives_the_same_bytes(folder, tmp_path):
    again = write(tmp_path / "again")
    names = sorted(path.name for path in again.iterdir())
    assert names == ["model.onnx", "model.safetensors", "package.json", "served.py"]
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_the_network_is_left_as_it_was(tmp_path):
    network = TinyNetwork().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    write(tmp_path / "package", network)
    assert network.training
    assert network.head.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_weights_come_back(folder):
    network = TinyNetwork(seed=5)
    network.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    x = torch.randn(2, 1, SIZE, SIZE)
    assert torch.equal(network.eval()(x), TinyNetwork().eval()(x))


def test_the_package_scores_like_the_network(folder, films):
    predictor = served.Predictor(folder)
    network = TinyNetwork().eval()
    with torch.inference_mode():
        logits = [network(torch.from_numpy(served.standardise(x.copy()))) for x in (films, films[:, :, ::-1])]
    expected = (logits[0] + logits[1]) / 2
    np.testing.assert_allclose(predictor.logits(films), expected.numpy(), atol=1e-5)
    probabilities = torch.sigmoid(1.5 * expected - 0.2).numpy()
    assert np.ptp(probabilities) > 0.01
    np.testing.assert_allclose(predictor.probabilities(films), probabilities, atol=1e-5)
    assert (predictor.size, predictor.classes, predictor.threshold) == (SIZE, CLASSES, 0.4)


def test_settings_of_version_0_1_are_read(tmp_path, films):
    """They say `flip`, which was always true."""
    settings = {
        "format": served.FORMAT,
        "decode_version": served.DECODE_VERSION,
        "size": SIZE,
        "classes": list(CLASSES),
        "threshold": 0.4,
        "calibration": {"slope": 1.5, "intercept": -0.2},
        "flip": True,
    }
    now, before = write(tmp_path / "now"), write(tmp_path / "before")
    (before / "package.json").write_text(json.dumps(settings, indent=2))
    assert (served.Predictor(before).logits(films) == served.Predictor(now).logits(films)).all()


class Shifted(TinyNetwork):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.01


def test_a_network_that_onnx_does_not_reproduce_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"differ by 0\.00"):
        write(tmp_path / "package", Shifted())
    assert not (tmp_path / "package").exists()


def test_a_network_that_is_not_finite_is_refused(tmp_path):
    network = TinyNetwork()
    nn.init.constant_(network.head.bias, float("nan"))
    with pytest.raises(PackageError, match="nan"):
        write(tmp_path / "package", network)
    with pytest.raises(PackageError, match="finite"):
        write(tmp_path / "package", calibration=Calibration(float("inf"), 0.0))


# -------------------------------------------------------------------------------------------------------------- scoring


def test_a_films_result_does_not_depend_on_its_company(folder, films):
    predictor = served.Predictor(folder)
    together = predictor.logits(films)
    assert np.array_equal(together, [predictor.logits(film[np.newaxis])[0] for film in films])
    results = []
    threads = [threading.Thread(target=lambda: results.append(predictor.logits(films))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, together) for result in results)
    assert predictor.logits(films[:0]).shape == (0,)


def test_a_film_and_its_mirror_image_score_the_same(folder, films):
    predictor = served.Predictor(folder)
    np.testing.assert_allclose(predictor.logits(films), predictor.logits(films[:, :, ::-1]), atol=1e-6)


def test_the_logit_is_the_mean_of_the_map(folder, films):
    session = served.session((folder / "model.onnx").read_bytes())
    logits, maps = session.run(None, {"films": served.standardise(films)})
    assert maps.shape == (len(films), SIZE // 4, SIZE // 4)
    np.testing.assert_allclose(maps.mean((1, 2)), logits, atol=1e-5)


def test_calibration_reaches_the_ends_without_overflow(folder):
    with np.errstate(all="raise"):
        assert served.Predictor(folder).calibrate(np.array([-1e6, 1e6])).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize(("shape", "expected"), [((100, 300), (100, 300)), ((1000, 4000), (128, 512))])
def test_the_heatmap_has_the_films_aspect(folder, shape, expected):
    film = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), (0, 0), 9)
    overlay = cv2.imdecode(np.frombuffer(served.Predictor(folder).heatmap(film), np.uint8), cv2.IMREAD_COLOR)
    assert overlay.shape == (*expected, 3)


def test_the_heatmap_is_coloured_where_the_evidence_is(tmp_path):
    class Bright(TinyNetwork):
        """Evidence is brightness."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1)
            nn.init.constant_(self.head.weight, 8.0)
            nn.init.constant_(self.head.bias, -8.0)

        def maps(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x, 4)

    film = np.full((64, 128), 40, np.uint8)
    film[:, 96:] = 200
    predictor = served.Predictor(write(tmp_path / "package", Bright()))
    overlay = cv2.imdecode(np.frombuffer(predictor.heatmap(film), np.uint8), cv2.IMREAD_COLOR).astype(int)
    colour = np.ptp(overlay, axis=2)
    assert colour[:, 104:].min() > 50
    assert colour[:, :80].max() < 10


@pytest.mark.parametrize("key", ["format", "decode_version"])
def test_a_package_that_needs_other_code_is_refused(folder, tmp_path, key):
    settings = json.loads((folder / "package.json").read_text())
    (tmp_path / "package.json").write_text(json.dumps({**settings, key: 99}))
    with pytest.raises(ValueError, match=f"{key} 99"):
        served.Predictor(tmp_path)


# --------------------------------------------------------------------------------------------------------------- MLflow


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        mlflow.pyfunc.save_model(path, **package.pyfunc_arguments(folder))
        assert not [file for file in path.rglob("*") if file.suffix in (".pkl", ".pickle") or file.name == "uv.lock"]
        return mlflow.pyfunc.load_model(str(path))


def test_the_loaded_model_scores_like_the_package(model, folder, films):
    predictor = served.Predictor(folder)
    films = np.stack([cv2.resize(film, (90, 70)) for film in films])
    expected = predictor.probabilities(np.stack([served.read_film(png(film), SIZE) for film in films]))
    as_bytes = model.predict(pd.DataFrame({"image": [png(film) for film in films]}))
    as_text = model.predict(pd.DataFrame({"image": [base64.b64encode(png(film)).decode() for film in films]}))
    assert as_bytes.columns.tolist() == ["probability", "label", "threshold", "warning"]
    assert np.array_equal(as_bytes["probability"], expected)
    assert as_text.equals(as_bytes)
    assert as_bytes["label"].tolist() == [CLASSES[int(p >= 0.4)] for p in expected]
    assert set(as_bytes["threshold"]) == {0.4}


@pytest.mark.parametrize(
    "write",
    [
        lambda data: base64.encodebytes(data).decode(),  # a line break after 76 letters and at the end
        lambda data: base64.b64encode(data).decode() + "\n",
        lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}",
        lambda data: [base64.b64encode(data).decode()],
        bytearray,
    ],
)
def test_films_are_taken_as_people_write_them(model, write):
    plain = model.predict(pd.DataFrame({"image": [GOOD, GOOD]}))
    assert model.predict(pd.DataFrame({"image": [write(GOOD), write(GOOD)]})).equals(plain)


def test_explain_adds_a_heatmap(model, films):
    film = cv2.resize(films[0], (90, 60))
    table = model.predict(pd.DataFrame({"image": [png(film)]}), params={"explain": True})
    assert table.columns.tolist() == ["probability", "label", "threshold", "warning", "heatmap"]
    picture = np.frombuffer(base64.b64decode(table["heatmap"][0]), np.uint8)
    assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape == (60, 90, 3)


def test_the_input_example_is_a_film(model):
    assert 0 <= model.predict(package.input_example())["probability"].item() <= 1
    assert package.input_example().equals(package.input_example())


GOOD = png(np.arange(32 * 40, dtype=np.uint16).reshape(32, 40).astype(np.uint8))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"image": [GOOD, None]}), "record 1: the image is missing"),
        (pd.DataFrame({"image": [GOOD, float("nan")]}), "record 1: the image is missing"),
        (pd.DataFrame({"image": [3]}), "record 0: the image must be base64"),
        (pd.DataFrame({"image": [[1, 2]]}), "record 0: the image must be base64"),
        (pd.DataFrame({"image": [{"secret": 1}]}), "record 0: the image must be base64"),
        (pd.DataFrame({"image": ["/etc/secret.png"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": ["https://secret.example/a.png"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": ["c2VjcmV0IQ=="]}), "record 0: the file is text"),
        (pd.DataFrame({"image": ["c2Vj\ncmV0IQ=\n"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": ["sécret"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": [""]}), "record 0: the film is empty"),
        (pd.DataFrame({"secret": [GOOD]}), "no records with a column 'image'"),
        (pd.DataFrame({"image": []}), "1 to 1000 records, not 0"),
        (pd.DataFrame({"image": [GOOD] * 1001}), "1 to 1000 records, not 1001"),
    ],
    ids=range(14),
)
def test_wrong_requests_get_one_sentence(model, table, words):
    with pytest.raises(MlflowException) as caught:
        model.predict(table)
    assert caught.value.get_http_status_code() == 400
    caught.value.message = "the server puts the request's data here: secret"
    body = json.loads(caught.value.serialize_as_json())
    assert body.keys() == {"error_code", "message"}
    assert body["error_code"] == "INVALID_PARAMETER_VALUE"
    assert words in body["message"]
    assert "secret" not in body["message"]


def test_many_heatmaps_at_once_are_refused(model):
    table = pd.DataFrame({"image": [GOOD] * (serving.MAX_EXPLAINED + 1)})
    assert len(model.predict(table)) == serving.MAX_EXPLAINED + 1
    with pytest.raises(MlflowException, match="with explain"):
        model.predict(table, params={"explain": True})


def test_an_unforeseen_error_tells_the_client_nothing(folder, monkeypatch, caplog):
    model = serving.ServedModel()
    model.predictor = served.Predictor(folder)
    monkeypatch.setattr(serving, "stretch", lambda *_: 1 / 0)
    with pytest.raises(serving.RequestError) as caught:
        model.predict(pd.DataFrame({"image": [GOOD]}))
    assert caught.value.get_http_status_code() == 500
    assert "zero" not in caught.value.serialize_as_json()
    assert "division by zero" in caplog.text


def test_two_versions_in_one_process_each_run_their_own_code(folder, tmp_path):
    source = bundle.code()
    old = "def standardise(films: np.ndarray) -> np.ndarray:\n"
    assert source.count(old) == 1
    other = tmp_path / "other" / "served.py"
    other.parent.mkdir()
    other.write_text(source.replace(old, f"{old}    films = 255 - films\n"), encoding="utf-8")
    arguments = package.pyfunc_arguments(folder)
    mlflow.pyfunc.save_model(tmp_path / "first", **arguments)
    mlflow.pyfunc.save_model(tmp_path / "second", **{**arguments, "python_model": str(other)})
    models = [mlflow.pyfunc.load_model(str(tmp_path / name)) for name in ("first", "second", "first")]
    first, second, again = (model.predict(pd.DataFrame({"image": [GOOD]}))["probability"].item() for model in models)
    film = served.read_film(GOOD, SIZE)[np.newaxis]
    predictor = served.Predictor(folder)
    assert first == again == predictor.probabilities(film)[0]
    assert second == predictor.probabilities(255 - film)[0]
    assert abs(first - second) > 0.001


def test_what_the_served_file_imports_is_pinned(folder):
    pinned = {requirement.partition("==")[0] for requirement in package.requirements()}
    assert pinned == {"mlflow", "numpy", "onnxruntime", "opencv-python-headless", "pandas", "pydicom"} | {
        "python-gdcm",
        "simplejpeg",
    }
    assert "torch" not in bundle.code()
    assert "from pneumonia" not in bundle.code()
    assert package.pyfunc_arguments(folder)["pip_requirements"] == package.requirements()


def test_the_bundle_holds_every_module_of_the_served_code():
    there = {path.stem for path in Path(served.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(bundle.MODULES) == there


def test_two_things_of_one_name_are_not_bundled(tmp_path, monkeypatch):
    for name in bundle.MODULES:
        (tmp_path / f"{name}.py").write_text("LEAST = 1\n" if name != "png" else "LEAST = 2\n")
    monkeypatch.setattr(bundle, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="LEAST is more than one thing"):
        bundle.code()
