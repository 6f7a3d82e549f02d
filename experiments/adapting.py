"""What do a few films of another hospital gain, and how good is the threshold that `adapt` chooses there?

    python -m experiments.adapting --films FILMS.csv --models FOLDER ... [--counts 20 50] [--splits 10] [--json FILE]

FILMS.csv is a manifest with the columns path, label, patient and view. Each split draws whole patients until there are
so many films, adapts each model to them as the command does, and scores the rest: AUC within a view (PA against PA, AP
against AP, weighted by pairs), since ill patients are filmed lying and view gives the class away; and balanced accuracy
at the threshold that was chosen, beside that of the model as it was. A model is a folder with `package.json` and
`model.safetensors`, as the artifacts of a run hold it. `--replay HOME` mixes in training films of a folder of films.

Result: see LOG.md. Half a minute an adapting on two quiet cores, so ten minutes a model for twenty.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import bench
from pneumonia.config import TrainConfig
from pneumonia.data import index as data
from pneumonia.metrics.calibration import Calibration
from pneumonia.metrics.scores import Ints, auc
from pneumonia.served import read_film
from pneumonia.serving.export import read_networks
from pneumonia.training.adaptation import LocalFilms, Model, adapt

SHARES = (0.35, 0.8)  # of ill films that a draw may have


def within_view(labels: Ints, scores: np.ndarray, views: np.ndarray) -> float:
    """AUC of films against films of the same view, each view weighted by its pairs."""
    total, pairs = 0.0, 0
    for view in np.unique(views):
        here = views == view
        count = int((labels[here] == 1).sum() * (labels[here] == 0).sum())
        if count:
            total, pairs = total + count * auc(labels[here], scores[here]), pairs + count
    return total / pairs


def draw(labels: Ints, patients: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Whole patients, drawn at random until there are `count` films; bool [N]. Drawn again while nearly all are of one
    class.
    """
    for attempt in range(1000):
        rng = np.random.default_rng(1000 * seed + attempt)
        taken = np.zeros(len(labels), bool)
        for patient in rng.permutation(np.unique(patients)):
            if taken.sum() >= count:
                break
            taken |= patients == patient
        if SHARES[0] <= labels[taken].mean() <= SHARES[1]:
            return taken
    raise ValueError(f"no draw of {count} films holds both classes")


def read_model(folder: Path) -> tuple[Model, int, tuple[str, str]]:
    """A package's networks with line and threshold, the side of its films, and its classes."""
    settings = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    model = Model(
        networks=read_networks(folder, TrainConfig.dropout),
        calibration=Calibration(**settings["calibration"]),
        threshold=settings["threshold"],
    )
    return model, settings["size"], (settings["classes"][0], settings["classes"][1])


def balanced_accuracy(labels: Ints, called: np.ndarray) -> float:
    return float((called[labels == 1].mean() + 1 - called[labels == 0].mean()) / 2)


def one(
    model: Model, films: np.ndarray, table: pd.DataFrame, taken: np.ndarray, home: Any, seed: int
) -> dict[str, Any]:
    """An adapting to the `taken` films, and its figures on the rest."""
    labels, views = table["label"].to_numpy(), table["view"].to_numpy()
    local = LocalFilms(
        films=films[taken],
        labels=labels[taken],
        patients=table["patient"].to_numpy()[taken],
        home_films=home[0],
        home_labels=home[1],
        opacities=True,
    )
    adapted = adapt(model, local, seed=seed)
    rest, told = ~taken, {"method": adapted.method, "seconds": adapted.seconds, "films": int(taken.sum())}
    for word, which in (("before", model), ("after", adapted.model)):
        logits = which.logits(films[rest])
        called = which.calibration.apply(logits) >= which.threshold
        told |= {
            f"within_{word}": within_view(labels[rest], logits, views[rest]),
            f"auc_{word}": auc(labels[rest], logits),
            f"balanced_accuracy_{word}": balanced_accuracy(labels[rest], called),
            f"specificity_{word}": float(1 - called[labels[rest] == 0].mean()),
        }
    return told


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--films", type=Path, required=True, help="manifest with path, label, patient, view")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of packages")
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50], help="how many films to adapt with")
    parser.add_argument("--splits", type=int, default=10, help="draws of each count")
    parser.add_argument("--replay", type=Path, help="folder of films that the models come from")
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.films, dtype=str)
    rows: list[dict[str, Any]] = []
    for folder in arguments.models:
        model, size, classes = read_model(folder)
        films = np.stack([read_film((arguments.films.parent / path).read_bytes(), size) for path in table["path"]])
        coded = table.assign(label=(table["label"].str.casefold() == classes[1].casefold()).astype(int))
        home = training_films(arguments.replay, size)
        for count in arguments.counts:
            for split in range(arguments.splits):
                taken = draw(coded["label"].to_numpy(), coded["patient"].to_numpy(), count, split)
                found = one(model, films, coded, taken, home, split)
                rows.append({"model": str(folder), "count": count, "split": split, **found})
                print(json.dumps(rows[-1]), flush=True)
    print(summary(pd.DataFrame(rows)))
    bench.write(bench.report({"runs": rows}), arguments.json)


def training_films(folder: Path | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Training films and labels of a folder; none for None."""
    if folder is None:
        return np.empty((0, size, size), np.uint8), np.empty(0, np.int64)
    index = data.scan(folder)
    rows = index.only("train")
    films = [read_film((index.root / path).read_bytes(), size) for path in rows["path"]]
    return np.stack(films), rows["label"].to_numpy()


def summary(runs: pd.DataFrame) -> str:
    """Means over splits, with the spread of the gains."""
    gains = runs.assign(
        gain_within=runs["within_after"] - runs["within_before"], gain_auc=runs["auc_after"] - runs["auc_before"]
    )
    columns = [name for name in gains if name not in ("model", "split", "method", "count")]
    means = gains.groupby("count")[columns].mean()
    means["sd_gain_within"] = gains.groupby("count")["gain_within"].std()
    means["least_gain_within"] = gains.groupby("count")["gain_within"].min()
    return means.T.to_string(float_format=lambda value: f"{value:.4f}")


if __name__ == "__main__":
    main()
