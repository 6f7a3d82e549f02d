"""Which detector tells films that a model does not know, at 5% of the validation films called unfamiliar?

    uv run --with scikit-image==0.26.0 python -m experiments.familiarity --data DIR --other FILMS.csv
                                          --models MODEL [MODEL ...] [--json FILE]

For each model (one a seed), detector and kind: the share that is called unfamiliar. The kinds in three groups:

known     validation films saved again or re-exposed: few should be called so
tuned     kinds that layers, shrinkage and fit were chosen by
chosen    kinds that nothing but the choice of the detector rests on: another hospital, photographs (scikit-learn's,
          scikit-image's), slices of CT and MR (pydicom's test files; most of those that it brings are the same ones
          in other encodings), films upside down, letters, parts of films

No test film is opened; lateral chests and hands are not at hand. Cost: two minutes a model on 2 quiet cores.
Result: see LOG.md.
"""

import string
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pandas as pd
import pydicom
import torch
from pydicom.data import get_testdata_files
from sklearn.datasets import load_digits, load_sample_images
from sklearn.mixture import GaussianMixture

from experiments import bench
from experiments.shortcut_audit import network_of
from pneumonia.augmentation import disturb as effects
from pneumonia.augmentation.augment import augment, standardise
from pneumonia.augmentation.stress_tests import CHANGES
from pneumonia.config import TrainConfig
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.runtime.environment import mlflow_defaults
from pneumonia.served import decode, read_film, stretch
from pneumonia.synthetic.film import draw
from pneumonia.training.familiarity import LOOK
from pneumonia.training.network import Cnn

SIZE = TrainConfig.size
FILMS = 700  # training films that a detector is fitted to, in each form
SHOWN = 200  # validation films that are changed
STRENGTH = TrainConfig.disturb
FALSE_ALARMS = 0.05
# Of skimage.data, what its package holds; microscopes and retinas among them, no X-rays.
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "horse"),
    *("hubble_deep_field", "immunohistochemistry", "logo", "microaneurysms", "moon", "page", "retina", "rocket"),
    *("text", "cell"),
)
SLICES = ("CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")
Films = np.ndarray  # uint8 [N, S, S]
Scores = dict[str, np.ndarray]


def kinds(val: Sequence[Path], other: Sequence[Path]) -> dict[str, Films]:
    """Films by group and kind, made of validation films and of what packages bring."""
    films, rng = [decode(path.read_bytes()) for path in val], np.random.default_rng(0)
    small = _small(films)
    return {
        "known: saved as a PNG of 1,024 px": _small([_resaved(film) for film in films]),
        "known: re-exposed": disturbed(small, frames=False),
        "known: disturbed as in training": disturbed(small),
        **{f"known: {name}": np.stack([change(film) for film in small]) for name, change in CHANGES.items()},
        "tuned: rotated by 90 degrees": _small([np.rot90(film) for film in films]),
        "tuned: a quarter of a film": _small([_part(film, 0.5, rng) for film in films]),
        "tuned: inverted": 255 - small,
        "tuned: noise": _small([_noise(blur, rng) for blur in (0, 1, 2, 4, 8) for _ in range(20)]),
        "tuned: drawn films": _small([draw("normal", np.random.default_rng(number)) for number in range(100)]),
        "chosen: another hospital": np.stack([read_film(path.read_bytes(), SIZE) for path in other]),
        "chosen: photographs": _small(photographs()),
        "chosen: slices of CT and MR": _small(slices()),
        "chosen: upside down": _small([film[::-1] for film in films]),
        "chosen: letters": _small([_letters(np.random.default_rng(number)) for number in range(100)]),
        "chosen: digits": _small([(15 * digit).astype(np.uint8) for digit in load_digits().images[:100]]),
        "chosen: half of a film": _small([_part(film, 0.7, rng) for film in films]),
    }


def _small(films: Sequence[np.ndarray]) -> Films:
    return np.stack([stretch(np.ascontiguousarray(film), SIZE) for film in films])


def _resaved(film: np.ndarray) -> np.ndarray:
    large = cv2.resize(film, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    return decode(cv2.imencode(".png", large)[1].tobytes())


def _part(film: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A piece that is `share` of the film's height and of its width."""
    down, across = (int(share * side) for side in film.shape)
    top, left = (int(rng.integers(0, side - part + 1)) for side, part in zip(film.shape, (down, across), strict=True))
    return film[top : top + down, left : left + across]


def _noise(blur: float, rng: np.random.Generator) -> np.ndarray:
    grain = rng.normal(size=(SIZE, SIZE))
    grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), blur)) if blur else grain
    return np.asarray(255 * (grain - grain.min()) / np.ptp(grain), np.uint8)


def _letters(rng: np.random.Generator) -> np.ndarray:
    """A page of 300 px with lines of letters, black on white or white on black."""
    ink = 255 * int(rng.integers(2))
    page = np.full((300, 300), 255 - ink, np.uint8)
    for line in range(30, 300, int(rng.integers(30, 60))):
        words = "".join(rng.choice(list(string.ascii_letters + "    "), 18))
        font, size, width = int(rng.integers(4)), float(rng.uniform(0.6, 1.6)), int(rng.integers(1, 4))
        cv2.putText(page, words, (5, line), font, size, ink, width, cv2.LINE_AA)
    return page


def photographs() -> list[np.ndarray]:
    """Grey photographs, uint8 [H, W], of scikit-learn and, where it is installed, scikit-image."""
    films = list(load_sample_images().images)
    try:
        import skimage.data
    except ModuleNotFoundError:
        print("scikit-image is not installed: two photographs only")
    else:
        films += [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    return [_grey(np.asarray(film)) for film in films]


def _grey(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 3:
        picture = picture[..., :3].mean(axis=2)
    return np.asarray(255.0 * picture / picture.max(), np.uint8)


def slices() -> list[np.ndarray]:
    """The CT and MR slices among pydicom's test files, uint8 [H, W]; greys by the 0.5th and 99.5th percentile."""
    found = []
    for name in SLICES:
        pixels = pydicom.dcmread(get_testdata_files(name)[0]).pixel_array.astype(float)
        low, high = np.percentile(pixels, (0.5, 99.5))
        found.append((255 * np.clip((pixels - low) / (high - low), 0, 1)).astype(np.uint8))
    return found


def disturbed(films: Films, *, frames: bool = True) -> Films:
    """As `disturb` changes them; without `frames` in tone, contrast and exposure alone: no frame, no hole."""
    x, generator = standardise(torch.from_numpy(films)), torch.Generator().manual_seed(0)
    with patch.multiple(effects, FRAME=frames * effects.FRAME, HOLE=frames * effects.HOLE):
        return _greys(effects.disturb(x, strength=STRENGTH, generator=generator))


def augmented(films: Films) -> Films:
    generator = torch.Generator().manual_seed(0)
    return _greys(augment(torch.from_numpy(films), strength=1.0, disturbance=STRENGTH, generator=generator))


def _greys(x: torch.Tensor) -> Films:
    """Standardised films as grey levels again, 40 to a standard deviation."""
    return np.asarray((128 + 40 * x[:, 0]).round().clamp(0, 255).to(torch.uint8).numpy())


@torch.inference_mode()
def seen(network: Cnn, films: Films) -> dict[str, np.ndarray]:
    """What a network and a coarse look make of films, by layer; means over a film and its mirror image."""
    parts = []
    for chunk in torch.split(torch.from_numpy(films), 128):
        both = []
        for x in (standardise(chunk), standardise(chunk.flip(2))):
            stage, layers = network.eval().stem(x), []
            for block in network.stages:
                stage = block(stage)
                layers.append(stage.mean(dim=(2, 3)))
            coarse = torch.nn.functional.avg_pool2d(x, SIZE // LOOK)[..., : LOOK // 2].flatten(1)
            both.append((layers[3], torch.cat(layers[1:3], dim=1), coarse, network.head(layers[3])))
        parts.append([(one + other) / 2 for one, other in zip(*both, strict=True)])
    names = ("pooled", "inner", "coarse", "logit")
    return {name: torch.cat(part).double().numpy() for name, part in zip(names, zip(*parts, strict=True), strict=True)}


class Space:
    """Features of training films: standardised, then turned so that they do not go together."""

    def __init__(self, films: np.ndarray, shrink: float = 1e-3) -> None:
        self.mean, spread = films.mean(axis=0), films.std(axis=0)
        self.spread = spread + 0.01 * spread.mean()
        apart = (films - self.mean) / self.spread
        correlations = (1 - shrink) * apart.T @ apart / len(apart) + shrink * np.eye(apart.shape[1])
        self.values, self.vectors = np.linalg.eigh(correlations)  # from the least on

    def turned(self, films: np.ndarray) -> np.ndarray:
        return np.asarray((films - self.mean) / self.spread @ self.vectors)

    def white(self, films: np.ndarray) -> np.ndarray:
        return np.asarray(self.turned(films) / np.sqrt(self.values))


Detector = Callable[[np.ndarray], np.ndarray]  # features [N, K] -> how strange [N]


def gaussian(train: np.ndarray) -> Detector:
    space = Space(train)
    return lambda films: np.square(space.white(films)).sum(axis=1)


def class_means(train: np.ndarray, labels: np.ndarray) -> Detector:
    """Lee et al. 2018: the nearest class mean, one covariance around them."""
    means = [train[labels == label].mean(axis=0) for label in (0, 1)]
    space = Space(np.concatenate([train[labels == label] - means[label] for label in (0, 1)]))
    return lambda films: np.min([np.square(space.white(films - mean)).sum(axis=1) for mean in means], axis=0)


def residual(train: np.ndarray) -> Detector:
    """What is left beside the principal components that hold nine tenths of the variance."""
    space = Space(train)
    rest = np.cumsum(space.values) < 0.1 * space.values.sum()
    return lambda films: np.square(space.turned(films)[:, rest]).sum(axis=1)


def neighbours(train: np.ndarray) -> Detector:
    """The tenth nearest training film, in the 32 strongest whitened directions (Sun et al. 2022)."""
    space = Space(train)
    known = space.white(train)[:, -32:]

    def distance(films: np.ndarray) -> np.ndarray:
        white = space.white(films)[:, -32:]
        apart = np.square(white).sum(axis=1)[:, None] - 2 * white @ known.T + np.square(known).sum(axis=1)
        return np.asarray(np.sort(apart, axis=1)[:, 9])

    return distance


def mixture(train: np.ndarray) -> Detector:
    """Four Gaussians in the 32 strongest whitened directions."""
    space = Space(train)
    fitted = GaussianMixture(4, reg_covar=0.01, random_state=0).fit(space.white(train)[:, -32:])
    return lambda films: np.asarray(-fitted.score_samples(space.white(films)[:, -32:]))


def flagged(network: Cnn, split: dict[str, Films], labels: np.ndarray, films: dict[str, Films]) -> pd.DataFrame:
    """The share of each kind's films that each detector calls unfamiliar: a row a kind, a column a detector."""
    forms = {"as is": split["train"], "disturbed": disturbed(split["train"]), "augmented": augmented(split["train"])}
    train = {name: seen(network, form) for name, form in forms.items()}
    asked = {name: seen(network, form) for name, form in {"val": split["val"], **films}.items()}

    def of(features: dict[str, np.ndarray], layers: Sequence[str]) -> np.ndarray:
        return np.concatenate([features[layer] for layer in layers], axis=1)

    found: dict[str, dict[str, float]] = {}

    def add(name: str, layers: Sequence[str], make: Callable[[np.ndarray], Detector], *shown: str) -> None:
        detector = make(np.concatenate([of(train[form], layers) for form in ("as is", *shown)]))
        scores = {kind: detector(of(features, layers)) for kind, features in asked.items()}
        threshold = np.quantile(scores["val"], 1 - FALSE_ALARMS)
        found[name] = {kind: float((scores[kind] > threshold).mean()) for kind in films}

    add("energy", ["logit"], lambda _: lambda logits: -np.logaddexp(0, np.abs(logits[:, 0])))
    add("class means", ["pooled"], lambda features: class_means(features, labels))
    add("one mean", ["pooled"], gaussian)
    add("10th neighbour", ["pooled"], neighbours)
    add("mixture", ["pooled"], mixture)
    add("residual", ["pooled"], residual)
    add("coarse look", ["coarse"], gaussian)
    add("pooled + coarse", ["pooled", "coarse"], gaussian)
    add("... and augmented", ["pooled", "coarse"], gaussian, "augmented")
    add("... and disturbed (taken)", ["pooled", "coarse"], gaussian, "disturbed")
    add("pooled, disturbed too", ["pooled"], gaussian, "disturbed")
    add("three layers, disturbed too", ["pooled", "inner"], gaussian, "disturbed")
    return pd.DataFrame(found)


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train")
    parser.add_argument("--other", type=Path, required=True, help="manifest of another hospital's films")
    parser.add_argument("--models", nargs="+", required=True, help="model URIs or folders, of one width")
    arguments = parser.parse_args()
    mlflow_defaults()
    index, other = data.scan(arguments.data), data.scan(arguments.other)
    with tempfile.TemporaryDirectory(prefix="familiarity-") as home:
        decoded = cache.decode(index.keep("train", "val"), size=SIZE, home=Path(home))
        rows, split, labels = decoded.index.table, {}, np.empty(0)
        for name, most in (("val", len(decoded.films)), ("train", FILMS)):
            at = np.flatnonzero(rows["split"] == name)
            at = at[np.linspace(0, len(at) - 1, min(most, len(at))).astype(int)]
            split[name], labels = np.array(decoded.films[at]), rows["label"].to_numpy()[at]
        val = decoded.index.only("val")["path"]
        val = val.iloc[np.linspace(0, len(val) - 1, min(SHOWN, len(val))).astype(int)]
        films = kinds([index.root / path for path in val], [other.root / path for path in other.table["path"]])
    tables = [flagged(network_of(model), split, labels, films) for model in arguments.models]
    shares = np.mean([table.to_numpy() for table in tables], axis=0)
    shown = pd.DataFrame(100 * shares, index=tables[0].index, columns=tables[0].columns).round().astype(int)
    shown.insert(0, "films", [len(of) for of in films.values()])
    print(shown.to_string())
    told = {model: table.to_dict() for model, table in zip(arguments.models, tables, strict=True)}
    bench.write(bench.report({"models": told}), arguments.json)


if __name__ == "__main__":
    main()
