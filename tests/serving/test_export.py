"""The package folder: what it holds, and that it scores like the network."""

import json

import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import nn

from pneumonia import served
from pneumonia.metrics.calibration import Calibration
from pneumonia.serving import export as package
from pneumonia.serving.export import PackageError
from tests.served.conftest import CLASSES, SIZE, TinyNetwork, write


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


def test_mlflow_s_onnx_flavour_finds_the_graph_which_is_there_once(folder, films, tmp_path):
    package.save(folder, tmp_path / "model")
    graph = mlflow.onnx.load_model(str(tmp_path / "model"))
    shown = served.standardise(films.copy())
    with torch.inference_mode():
        expected = TinyNetwork().eval()(torch.from_numpy(shown)).numpy()
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["logit"], {"films": shown})[0], expected, atol=1e-5)
    assert len(list((tmp_path / "model").rglob("*.onnx"))) == 1
    served_model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert 0 < served_model.predict(package.input_example())["probability"][0] < 1


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
        "familiarity": {"distances": [0.0, 1.0]},
    }
    now, before = write(tmp_path / "now"), write(tmp_path / "before")
    (before / "package.json").write_text(json.dumps(settings, indent=2))
    assert (served.Predictor(before).logits(films) == served.Predictor(now).logits(films)).all()


class Shifted(TinyNetwork):
    by = 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.by


def test_a_network_that_onnx_does_not_reproduce_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"^ONNX and torch differ by 0\.00\S+ in probability, more than 0\.0001$"):
        write(tmp_path / "package", Shifted())
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(("by", "slope", "said"), [(1e-6, 1e4, r"1e\+04"), (3e-9, 3e8, r"3e\+08")])
def test_where_only_rounding_shows_the_sentence_says_why(by, slope, said, tmp_path):
    """A network that has hardly learned: every film has the logit 0, or nearly so."""
    network = Shifted()
    network.by = by
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    with pytest.raises(PackageError, match=f"so little that rounding shows: .* line of slope {said} stretches"):
        write(tmp_path / "package", network, calibration=Calibration(slope, 0.0))
    write(tmp_path / "package", network, calibration=Calibration(1.0, 0.0))


def test_a_network_that_is_not_finite_is_refused(tmp_path):
    network = TinyNetwork()
    nn.init.constant_(network.head.bias, float("nan"))
    with pytest.raises(PackageError, match="nan"):
        write(tmp_path / "package", network)
    with pytest.raises(PackageError, match="finite"):
        write(tmp_path / "package", calibration=Calibration(float("inf"), 0.0))


def test_the_input_example_is_a_film(model):
    assert 0 <= model.predict(package.input_example())["probability"].item() <= 1
    assert package.input_example().equals(package.input_example())
