"""Adapts a model to a place and logs a run with what that gained, and with the model."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pneumonia.config import TrainConfig
from pneumonia.data.cache import decode
from pneumonia.data.classes import differ, is_opacity_task
from pneumonia.data.index import Index
from pneumonia.metrics.calibration import match_prevalence
from pneumonia.registry import versions
from pneumonia.registry.held_out import COLUMNS, learned
from pneumonia.reports import plots
from pneumonia.reports.adapted_card import adapted_card, matched_card
from pneumonia.results.adaptation import Adaptation, Matched, assess
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import SILENT, Listener
from pneumonia.runs.train import MODEL_BYTES
from pneumonia.runtime.disk import room
from pneumonia.serving import export, predict
from pneumonia.tracking.record import CARD, HELD_OUT_PREDICTIONS, LOCAL_PREDICTIONS, Record, Run
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.tags import METHOD, PARENT, PARENT_RUN, PLACE
from pneumonia.training import adaptation, familiarity
from pneumonia.training.adaptation import LocalFilms, Model
from pneumonia.training.familiarity import Familiarity
from pneumonia.training.network import Network

UNLABELLED = 20  # films that a threshold without labels needs
ASSUMED = 0.5  # prevalence where none is given


@dataclass(frozen=True)
class Parent:
    """A model to adapt: as it is served, and its networks."""

    served: predict.Model
    networks: list[Network]

    @property
    def model(self) -> Model:
        served = self.served
        return Model(networks=self.networks, calibration=served.calibration, threshold=served.threshold)


def read_parent(uri: str) -> Parent:
    """Loads a model and its networks.

    Raises:
        ModelError: there is no such model, or its weights are not beside its graph.
    """
    with tempfile.TemporaryDirectory(prefix="pneumonia-parent-") as scratch:
        package = Path(scratch) / "package"
        served = predict.load(uri, package_to=package)
        try:
            return Parent(served, export.read_networks(package, TrainConfig.dropout))
        except export.PackageError as error:
            raise predict.ModelError(f"the model {uri} cannot be adapted: {error}") from error


def place_name(text: str) -> str:
    """What a place is called in the name of its registered model: lower case, words joined by `-`.

    Raises:
        ValueError: nothing is left of it, or it is `demo`, which the models of drawn films are called.
    """
    name = re.sub(r"[^\w.]+|_", "-", text.casefold()).strip("-.")
    if name in ("", "demo"):
        raise ValueError(f"the place cannot be called {text!r}: give it another name with --name")
    return name


def adapt_and_record(
    parent: Parent,
    index: Index,
    context: RunContext,
    *,
    place: str,
    home: Index | None = None,
    seed: int = 0,
    listener: Listener = SILENT,
) -> tuple[Record, Adaptation]:
    """Adapts a model to the films of a place, and logs a run; its model is to be registered as `pneumonia-{place}`.

    Films of the test split are left out: they are for `evaluate`.

    Args:
        home: films of the place that the model comes from; its training films are mixed in.

    Raises:
        ValueError: the classes are not the model's, the films are too few, or the model has learned from some of them.
        DataError, DiskFullError: as `cache.decode`.
        TrackingError: the tracking store cannot be reached before the training.
    """
    tracker, served = context.tracker, parent.served
    if (others := differ(served.classes, index.classes)) is not None:
        raise ValueError(f"the model {others}")
    index = _local(index)
    _check_unseen(tracker, parent, index)
    told = {"seed": seed, "labels": "given", "replay": "none" if home is None else str(home.root), **_recipe()}
    record = _begin(parent, index, context, place=place, params=told)
    tracker.send(record)
    with finished(record, tracker):
        decoded = decode(index, size=served.size, home=context.home, progress=context.progress)
        record.add_json("data_report.json", index.without(decoded.failures).report.as_dict())
        for line in decoded.unread():
            listener.say(line)
        table = decoded.index.table
        home_films, home_labels = _training_films(home, served.size, context)
        adapted = adaptation.adapt(
            parent.model,
            LocalFilms(
                films=np.asarray(decoded.films),
                labels=table["label"].to_numpy(),
                patients=table["patient"].to_numpy(),
                home_films=home_films,
                home_labels=home_labels,
                opacities=is_opacity_task(index.classes),
            ),
            seed=seed,
            on_step=listener.on_step,
        )
        found = assess(adapted, table, index.classes)
        known = familiarity.fit_to_few(
            adapted.model.network, adaptation.RECIPE, np.asarray(decoded.films), adapted.fold
        )
        _write(record, found, known, size=served.size)
    return record, found


def match_and_record(
    parent: Parent,
    index: Index,
    context: RunContext,
    *,
    place: str,
    prevalence: float | None = None,
    listener: Listener = SILENT,
) -> tuple[Record, Matched]:
    """Moves a model's threshold and calibration to a place by films whose classes are not known, and logs a run.

    Without labels nobody can say whether that is better: the version becomes challenger, and is promoted by hand.

    Args:
        index: see `scan_unlabelled`.
        prevalence: the share of ill films among these; `ASSUMED` if None.

    Raises:
        ValueError: the prevalence does not lie between 0 and 1, or there are fewer than `UNLABELLED` films.
        DataError, DiskFullError, TrackingError: as `adapt_and_record`.
    """
    share = ASSUMED if prevalence is None else prevalence
    if not 0 < share < 1:
        raise ValueError(f"prevalence must lie between 0 and 1, not {share:g}")
    if len(index.table) < UNLABELLED:
        raise ValueError(f"a threshold without labels needs {UNLABELLED} films, but there are {len(index.table)}")
    params = {"labels": "none", "prevalence": share}
    record = _begin(parent, index, context, place=place, params=params)
    context.tracker.send(record)
    with finished(record, context.tracker):
        decoded = decode(index, size=parent.served.size, home=context.home, progress=context.progress)
        for said in decoded.unread():
            listener.say(said)
        start = parent.model
        logits = start.logits(decoded.films)
        line, threshold = match_prevalence(start.calibration, logits, share)
        before, after = start.calibration.apply(logits), line.apply(logits)
        found = Matched(
            films=len(after),
            prevalence=share,
            assumed=prevalence is None,
            called_before=float((before >= start.threshold).mean()),
            called=float((after >= threshold).mean()),
            threshold=threshold,
        )
        predictions = record.artifacts / LOCAL_PREDICTIONS
        predictions.parent.mkdir(parents=True, exist_ok=True)
        table = decoded.index.table[["path", "sha256"]].assign(probability=after, before=before)
        table.to_csv(predictions, index=False)
        record.add_json("adaptation.json", found.as_dict())
        record.update(
            tags={**record.run.tags, METHOD: "unlabelled"}, description=f"{record.run.description}\n\n{found.text()}"
        )
        assert record.run.register is not None
        card = matched_card(
            record.run.register,
            matched=found,
            classes=index.classes,
            params=record.params,
            tags=record.run.tags,
            weights=start.networks[0].weights,
        )
        (record.artifacts / CARD).write_text(card, encoding="utf-8")
        moved = replace(start, calibration=line, threshold=threshold)
        folds = np.arange(len(after)) % adaptation.FOLDS
        known = familiarity.fit_to_few(start.network, adaptation.RECIPE, np.asarray(decoded.films), folds)
        _write_model(record, moved, known, size=parent.served.size, classes=index.classes)
        record.summarise(found.named(), step=0)
    return record, found


def _begin(parent: Parent, index: Index, context: RunContext, *, place: str, params: Mapping[str, object]) -> Record:
    """The record of an adapting, before it starts."""
    served = parent.served
    lineage = _lineage(context.tracker, served)
    record = context.begin(
        Run(
            name=f"adapt {lineage[PARENT]} to {place}",
            role="adapt",
            tags={PLACE: place, **lineage},
            description=f"{lineage[PARENT]} adapted to {len(index.table)} films of {place}.",
            register=f"pneumonia-{place}",
        ),
        index,
    )
    record.add_params({"model": served.uri, "data": str(index.root), "name": place, **params})
    return record


def _local(index: Index) -> Index:
    """The films to adapt to: all but the test films."""
    kept = index.keep("train", "val")
    return replace(kept, table=kept.table.assign(split="train"))


def _check_unseen(tracker: Tracker, parent: Parent, index: Index) -> None:
    """Raises:
    ValueError: the model, or one that it comes from, was itself adapted to some of the films, so that nothing of them
        could be held out.
    """
    table, seen = index.table, np.zeros(len(index.table), bool)
    for films in learned(tracker, parent.served.metadata.run_id):
        seen |= (table["sha256"].isin(films["sha256"]) | table["patient"].isin(films["patient"])).to_numpy()
    if seen.any():
        raise ValueError(
            f"{parent.served.uri} has learned from {seen.sum()} of these films or their patients, so that none of them "
            "can tell what another adapting gains: adapt the model that it was made from to all films together"
        )


def _lineage(tracker: Tracker, served: predict.Model) -> dict[str, str]:
    version = versions.version_of(tracker, served.uri, served.metadata.model_id)
    name = served.uri if version is None else f"{version.name}/{version.version}"
    run_id = served.metadata.run_id
    return {PARENT: name, **({PARENT_RUN: run_id} if run_id else {})}


def _recipe() -> dict[str, object]:
    """The parameters of a fine-tuning, as of a training, and those that only it has."""
    recipe, left_out = asdict(adaptation.RECIPE), ("size", "width", "epochs", "half_size", "patience", "seed", "device")
    own = {"steps": adaptation.STEPS, "folds": adaptation.FOLDS}
    return {**{name: value for name, value in recipe.items() if name not in left_out}, **own}


def _training_films(home: Index | None, size: int, context: RunContext) -> tuple[np.ndarray, np.ndarray]:
    if home is None:
        return np.empty((0, size, size), np.uint8), np.empty(0, np.int64)
    decoded = decode(home.keep("train", "val"), size=size, home=context.home, progress=context.progress)
    train = (decoded.index.table["split"] == "train").to_numpy()
    return decoded.films[train], decoded.index.table["label"].to_numpy()[train]


def _write(record: Record, found: Adaptation, known: Familiarity, *, size: int) -> None:
    """Predictions, figures, matrices, card, model and metrics."""
    adapted, classes = found.adapted, found.classes
    labels, after = found.rows["label"].to_numpy(), adapted.after
    table = found.rows[["path", "patient", "sha256"]].assign(
        label=np.asarray(classes)[labels],
        probability=after.probabilities,
        before=adapted.before.probabilities,
        part=adapted.fold,
    )
    predictions = record.artifacts / HELD_OUT_PREDICTIONS
    predictions.parent.mkdir(parents=True, exist_ok=True)
    table[list(COLUMNS)].to_csv(predictions, index=False)
    figures, threshold = record.artifacts / "figures", adapted.model.threshold
    plots.save(plots.confusion_matrix(found.before.confusion, classes), figures / "confusion_matrix_before.png")
    plots.save(plots.confusion_matrix(found.after.confusion, classes), figures / "confusion_matrix.png")
    pair = {"before": adapted.before.probabilities, "after": after.probabilities}
    plots.save(plots.rocs(labels, pair), figures / "roc.png")
    scores = found.after.scores
    recall = plots.precision_recall(labels, after.probabilities, threshold, scores)
    plots.save(recall, figures / "precision_recall.png")
    reliability = plots.reliability(labels, after.probabilities, threshold, ece=scores["ece"])
    plots.save(reliability, figures / "reliability.png")
    record.add_json("confusion_matrix.json", found.after.confusion.tolist())
    record.add_json("confusion_matrix_before.json", found.before.confusion.tolist())
    record.add_json("adaptation.json", found.as_dict())
    (record.artifacts / "adaptation.md").write_text(found.text() + "\n", encoding="utf-8")
    record.update(
        tags={**record.run.tags, METHOD: adapted.method},
        description=f"{record.run.description}\n\n{found.text()}",
    )
    assert record.run.register is not None
    card = adapted_card(record.run.register, adaptation=found, params=record.params, tags=record.run.tags)
    (record.artifacts / CARD).write_text(card, encoding="utf-8")
    _write_model(record, adapted.model, known, size=size, classes=classes)
    record.summarise({**found.named(), "train/seconds": adapted.seconds}, step=0)


def _write_model(record: Record, model: Model, known: Familiarity, *, size: int, classes: tuple[str, str]) -> None:
    with room(record.folder, MODEL_BYTES), tempfile.TemporaryDirectory(dir=record.folder) as scratch:
        package, whole = Path(scratch) / "package", Path(scratch) / "model"
        export.write(
            package,
            model.network,
            size=size,
            classes=classes,
            threshold=model.threshold,
            calibration=model.calibration,
            familiarity=known,
        )
        export.save(package, whole)
        whole.rename(record.model)  # a record has a whole model or none
