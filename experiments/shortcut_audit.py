"""Does the model see disease, or how the films were made?

    python -m experiments.shortcut_audit --data DIR [--model models:/pneumonia@champion] [--shuffles 5]
                                          [--json FILE]

Six looks, all at validation films; no test film is opened:

files        What the files alone tell, without a look at a lung: bytes a pixel, shape, JPEG quantisation, colour, and
             the grey of the border, to a boosted forest that is fitted to the training films.
model        What the model's AUC and log loss do when every film is saved again as a JPEG of one quality, when the
             outer tenth of each side is cut off, or painted in the mean grey of what is left, when local contrast is
             evened out (CLAHE), and when all are stretched or narrowed, or cut until both classes are of one shape: ill
             films are a quarter wider before all become squares, so that a chest's shape there gives its class away.
opacities    How the model tells the normal films from the same ones with an opacity painted into the lungs: of what a
             hospital's films have in common nothing else is different. (Other opacities than those that judged it.)
one class    The model's AUC when one class alone is re-exposed, cropped, turned and so on (`stress`), as if its films
             came from another machine.
labels       Trainings on labels that were shuffled among the training films. Their AUC must be .5 in the mean over
             shuffles, within its spread; one by itself may lie far from .5, since any function of a film, a random one
             too, goes with its class or against it.
heatmaps     The rank correlation of the model's heatmaps with those of the same network whose layers are made random
             from the head downwards, which must vanish in the mean over draws (Adebayo et al. 2018).

Most of these changes are what training shows, too. Cost: four minutes on 2 cores. Result: the files alone reach AUC
.91; a champion's specificity falls from .970 to .950 with the border painted (trained without `disturb`: to .03), and
to .925 with it cut off; it calls 72% of normal films with an opacity ill (without `opacity`: 10%); see LOG.md.
"""

import copy
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from experiments import bench
from experiments.speedrun import RECIPES
from pneumonia.augmentation.stress_tests import CHANGES, SHAPES, painted_of, stretched
from pneumonia.data import cache
from pneumonia.data import index as data
from pneumonia.data.classes import is_opacity_task
from pneumonia.metrics import scores as metrics
from pneumonia.metrics.intervals import intervals
from pneumonia.runtime.environment import mlflow_defaults
from pneumonia.served import CANONICAL, decode, evidence, read_film
from pneumonia.serving import predict
from pneumonia.training.loop import FitData, fit, fit_data
from pneumonia.training.network import Cnn, build

QUALITY = 60  # of the one JPEG quality: below that of nearly all films, so that none keeps more than another
RECIPE = RECIPES["speedrun"]  # of the trainings on shuffled labels
BORDER = 0.1  # of each side that is painted over
WIDER = 1.24  # width over height, ill films to normal ones: medians of the 210 of full size
DRAWS = 10  # of random weights


def file_features(path: Path) -> list[float]:
    """Bytes a pixel, aspect, log of the pixels, mean of the luminance quantisation table, colour, mean and spread of
    the border's grey; NaN for what the format does not have.
    """
    film = path.read_bytes()
    with Image.open(path) as image:
        width, height = image.size
        colour = float(image.mode != "L")
        tables = getattr(image, "quantization", None)
    grey = decode(film)
    edge = max(1, round(0.05 * min(grey.shape)))
    strips = grey[:edge], grey[-edge:], grey[:, :edge], grey[:, -edge:]
    border = np.concatenate([strip.ravel() for strip in strips])
    quantisation = float(np.mean(tables[0])) if tables else np.nan
    pixels = width * height
    return [len(film) / pixels, width / height, np.log(pixels), quantisation, colour, border.mean(), border.std()]


def files(index: data.Index) -> dict[str, Any]:
    """The AUC of the files alone, all together and each feature by itself."""
    names = ["bytes_a_pixel", "aspect", "pixels", "quantisation", "colour", "border_mean", "border_spread"]
    x, y = {}, {}
    with ThreadPoolExecutor() as pool:
        for split in ("train", "val"):
            rows = index.only(split)
            x[split] = np.array(list(pool.map(file_features, [index.root / path for path in rows["path"]])))
            y[split] = rows["label"].to_numpy()
    forest = HistGradientBoostingClassifier(random_state=0).fit(x["train"], y["train"])
    alone = {}
    for column, name in enumerate(names):
        aucs = {split: metrics.auc(y[split], np.nan_to_num(x[split][:, column], nan=-1.0)) for split in x}
        alone[name] = aucs["val"] if aucs["train"] >= 0.5 else 1 - aucs["val"]  # train says which way it goes
    patients = index.only("val")["patient"].to_numpy()
    return {"auc": scored(y["val"], forest.predict_proba(x["val"])[:, 1], 0.5, patients)["auc"], "alone": alone}


def resaved(film: np.ndarray) -> np.ndarray:
    encoded = cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


def cropped(film: np.ndarray) -> np.ndarray:
    down, across = (round(BORDER * side) for side in film.shape)
    return film[down:-down, across:-across]


def masked(film: np.ndarray) -> np.ndarray:
    """In the mean grey of what is left, so that standardising the film changes little."""
    inner = cropped(film)
    down, across = (round(BORDER * side) for side in film.shape)
    painted = np.full_like(film, round(float(inner.mean())))
    painted[down:-down, across:-across] = inner
    return painted


def of_one_shape(film: np.ndarray, label: int) -> np.ndarray:
    """Cut at top and bottom if it is a normal film, at the sides if it is an ill one, and stretched to its size again:
    chests become narrower and wider, until the shape of the film says nothing. Nothing is filled in.
    """
    height, width = film.shape
    edge = (1 - WIDER**-0.5) / 2
    down, across = (0, round(edge * width)) if label else (round(edge * height), 0)
    inner = film[down : height - down, across : width - across]
    return np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR))


def by_model(model: predict.Model, index: data.Index) -> dict[str, Any]:
    """The model's scores on the films as they are, and after each change, through its own code."""
    rows = index.only("val")
    labels, patients = rows["label"].to_numpy(), rows["patient"].to_numpy()
    changes: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "as they are": lambda film, _: film,
        "resaved": lambda film, _: resaved(film),
        "cropped": lambda film, _: cropped(film),
        "masked": lambda film, _: masked(film),
        "evened out": lambda film, _: CHANGES["evened"](film),
        "all wider": lambda film, _: stretched(WIDER)(film),
        "all narrower": lambda film, _: stretched(1 / WIDER)(film),
        "of one shape": of_one_shape,
    }
    found = {}
    for name, change in changes.items():
        pairs = zip(rows["path"], labels, strict=True)
        p = asked(model, (change(decode((index.root / path).read_bytes()), label) for path, label in pairs))
        found[name] = scored(labels, p, model.threshold, patients)
    return found


def by_opacity(model: predict.Model, index: data.Index) -> dict[str, Any]:
    """The model's scores on the normal films, and on the same ones with an opacity, which count as ill."""
    rows = index.only("val").query("label == 0")
    films = [read_film((index.root / path).read_bytes(), CANONICAL) for path in rows["path"]]
    p = asked(model, [*films, *(painted_of(film, number) for number, film in enumerate(films))])
    labels, patients = np.repeat([0, 1], len(films)), np.tile(rows["patient"], 2)
    return scored(labels, p, model.threshold, patients)


def one_class_changed(model: predict.Model, index: data.Index) -> dict[str, dict[str, float]]:
    """AUC by class and change, where the films of that class alone are changed: as if they came from another machine
    than the other class's.
    """
    rows = index.only("val")
    films = [read_film((index.root / path).read_bytes(), CANONICAL) for path in rows["path"]]
    labels, plain = rows["label"].to_numpy(), asked(model, films)
    found: dict[str, dict[str, float]] = {name: {} for name in index.classes}
    for change, changed in {**SHAPES, **CHANGES}.items():
        p = asked(model, map(changed, films))
        for label, name in enumerate(index.classes):
            found[name][change] = metrics.auc(labels, np.where(labels == label, p, plain))
    return found


def asked(model: predict.Model, films: Iterable[np.ndarray]) -> np.ndarray:
    """Probabilities of films uint8 [H, W], through the model's own code."""
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        paths = []
        for number, film in enumerate(films):
            paths.append(Path(scratch) / f"{number}.png")
            cv2.imwrite(str(paths[-1]), film, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        answers = predict.predict(model, paths)
    if len(refused := answers[answers["error"] != ""]):
        raise SystemExit(f"a change left a film of which the model says: {refused['error'].iloc[0]}")
    return answers["probability"].to_numpy(dtype=float)


def shuffled_labels(films: FitData, shuffles: int) -> list[dict[str, float]]:
    """AUC on the validation films' true labels after trainings on shuffled ones."""
    found = []
    for seed in range(shuffles):
        given = replace(films, train_labels=np.random.default_rng(seed).permutation(films.train_labels))
        fitted = fit(replace(RECIPE, seed=seed), given)
        # The last epoch: the best one would be chosen by the true labels.
        found.append({"auc": fitted.history[-1]["val/auc"]})
    return found


def heatmaps(network: Cnn, films: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Rank correlation of the maps of `films` uint8 [N, S, S] before and after layers are made random: for each number
    of layers the mean over films, and of that mean and spread over draws of the random weights.
    """
    before = evidence_of(network, films)
    draws: list[dict[str, float]] = []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        other = copy.deepcopy(network)
        stages = [(f"stage {number}", other.stages[number - 1]) for number in (4, 3, 2, 1)]
        layers: list[tuple[str, nn.Module]] = [("head", other.head), *stages, ("stem", other.stem)]
        draws.append({})
        for name, layer in layers:
            for module in layer.modules():
                if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                    module.reset_parameters()
            pairs = zip(before, evidence_of(other, films), strict=True)
            draws[-1][name] = float(np.nanmean([spearmanr(a.ravel(), b.ravel())[0] for a, b in pairs]))
    return bench.summary(draws)


@torch.inference_mode()
def evidence_of(network: Cnn, films: np.ndarray) -> np.ndarray:
    """What heatmaps are drawn from, float64 [N, h, w]."""
    network.eval()
    return np.stack([evidence(lambda x: network(torch.from_numpy(x)).numpy(), film) for film in films])


def network_of(uri: str) -> Cnn:
    """The network that a logged model was exported from, with its weights."""
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch) if ":/" in uri else uri)
        state = safetensors.torch.load_file(folder / "artifacts" / "package" / "model.safetensors")
    network = build(state["head.weight"].shape[1] // 8, 0.0, seed=0)
    network.load_state_dict(state)
    return network


def scored(y: np.ndarray, p: np.ndarray, threshold: float, patients: np.ndarray) -> dict[str, Any]:
    scores, bounds = metrics.score(y, p, threshold), intervals(y, p, threshold, patients=patients, draws=500)
    names = ("auc", "log_loss", "sensitivity", "specificity")
    return {name: {"value": scores[name], "interval": list(bounds[name])} for name in names}


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with train")
    parser.add_argument("--model", default="models:/pneumonia@champion", help="a model URI or folder [the champion]")
    parser.add_argument("--shuffles", type=int, default=5, help="trainings on shuffled labels [5]")
    arguments = parser.parse_args()
    mlflow_defaults()
    model, index = predict.load(arguments.model), data.scan(arguments.data)
    with tempfile.TemporaryDirectory(prefix="audit-") as home:
        small = cache.decode(index.keep("train", "val"), size=RECIPE.size, home=Path(home))
        index = index.without(small.failures)
        own = cache.decode(index.keep("val"), size=model.size, home=Path(home))
        report = {
            "files": files(index),
            "model": by_model(model, index),
            "opacities": by_opacity(model, index) if is_opacity_task(index.classes) else None,
            "one class changed": one_class_changed(model, index),
            "shuffled labels": bench.summary(shuffled_labels(fit_data(small), arguments.shuffles)),
            "heatmaps": heatmaps(network_of(arguments.model), np.array(own.films[:16])),
        }
    show(report)
    bench.write(bench.report(report), arguments.json)


def show(report: dict[str, Any]) -> None:
    rows = [("the files alone", {"auc": report["files"]["auc"]})]
    rows += [(f"the model, films {name}", scores) for name, scores in report["model"].items()]
    if report["opacities"]:
        rows.append(("the model, normal films and the same ones painted", report["opacities"]))

    def words(score: dict[str, Any]) -> str:
        return "{:.3f} ({:.3f}-{:.3f})".format(score["value"], *score["interval"])

    table = pd.DataFrame([{"": name, **{score: words(value) for score, value in of.items()}} for name, of in rows])
    print(table.fillna("").to_string(index=False))
    print("\neach by itself: " + ", ".join(f"{name} {auc:.3f}" for name, auc in report["files"]["alone"].items()))
    print("\nAUC of the model with one class alone changed:")
    for name, aucs in report["one class changed"].items():
        worst = min(aucs, key=lambda change: aucs[change])
        print(f"  {name:<28} {np.mean(list(aucs.values())):.3f} in the mean, worst {aucs[worst]:.3f} ({worst})")
    print("\ntrained on shuffled labels:")
    for name, value in report["shuffled labels"].items():
        print(f"  {name:<28} {value['mean']:.3f} +- {value['std'] or 0:.3f}")
    print("\nheatmaps, rank correlation with the model's own when layers are random from the head down to")
    for name, value in report["heatmaps"].items():
        print(f"  {name:<28} {value['mean']:+.3f} +- {value['std']:.3f}")


if __name__ == "__main__":
    main()
