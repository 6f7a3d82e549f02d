"""One training run and its record: fit, calibrate, choose the threshold, draw, package."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.config import TrainConfig
from pneumonia.data.cache import Decoded, decode
from pneumonia.data.classes import is_opacity_task
from pneumonia.data.index import Index
from pneumonia.metrics.calibration import Calibration, operating_point
from pneumonia.metrics.scores import score
from pneumonia.reports import gallery, plots
from pneumonia.reports.model_card import Made, card
from pneumonia.results.evaluation import assess
from pneumonia.runs.artifacts import write_predictions, write_scores
from pneumonia.runs.checkpointing import held
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import SILENT, Listener
from pneumonia.runtime.disk import room
from pneumonia.served import Predictor
from pneumonia.serving import export
from pneumonia.tracking.record import CARD, VAL_PREDICTIONS, Record, Run
from pneumonia.tracking.store import finished
from pneumonia.tracking.tags import DROPPED, TRIAL_EPOCHS
from pneumonia.training import familiarity
from pneumonia.training.loop import Epoch, Fitted, fit, fit_data
from pneumonia.training.network import build

MODEL_BYTES = 100 << 20  # more than two copies of the widest network take
OBJECTIVE = "val/objective"  # lower is better; val AUC saturates above 0.99 and cannot tell good trials apart


def run_training(
    config: TrainConfig,
    data: Decoded,
    record: Record,
    context: RunContext,
    *,
    listener: Listener = SILENT,
    keep_model: Callable[[float], bool] = lambda value: True,
    changed: bool | None = None,
) -> float:
    """Trains, and writes all that a COMPLETE or PRUNED record holds, but for a trial's status, which the search knows.

    Any other training goes on where one of the same configuration and films was killed, with the same result, by a
    checkpoint that each epoch leaves (see `checkpointing`).

    Args:
        context: its tracker sees the curves while they grow.
        listener: what it raises leaves the record as it is.
        keep_model: told the objective, says whether the record keeps the model.
        changed: whether corrupted validation films are scored too, see `FitData`.

    Returns:
        The objective: the best epoch's class-balanced log loss on the validation films (see `training.fit`).

    Raises:
        Diverged: loss or gradient was no number.
        ValueError: as `fit`, or the validation films lack a class.
        PackageError: the ONNX model does not predict what the trained network does.
    """
    record.add_params(asdict(config))
    films = fit_data(data, changed=changed)
    looks: dict[int, gallery.Look] = {}

    def log_epoch(epoch: Epoch) -> bool | None:
        record.add_metrics(epoch.metrics, step=epoch.number)
        if context.pictures and epoch.number in gallery.epochs(epoch.epochs):
            looks[epoch.number] = gallery.look(epoch.network, gallery_films(data)[1])
        context.tracker.try_send(record)
        return listener.on_epoch(epoch)

    with held(config, films, record, context, listener) as checkpoint:
        fitted = fit(
            config,
            films,
            on_epoch=log_epoch,
            on_step=listener.on_step,
            on_state=partial(checkpoint.write, looks=looks) if checkpoint else None,
            resume=checkpoint.read(looks) if checkpoint else None,
        )
        kept = keep_model(fitted.objective)
        write_results(record, fitted, data, keep_model=kept, looks=looks if context.pictures else None)
        listener.on_results()
        if checkpoint:
            record.finish("COMPLETE")  # before the checkpoint goes: killed here, nothing is trained again
            checkpoint.remove()
    return fitted.objective


def train_and_record(
    config: TrainConfig, index: Index, context: RunContext, *, data: str, listener: Listener = SILENT
) -> Record:
    """One training as a run of its own; nothing is registered.

    Args:
        data: what the films are called where the user named them.

    Raises:
        TrackingError: the tracking store cannot be reached before the training; later it may be away.
        Exception: what `decode_for` and `run_training` raises; the run has ended as FAIL then.
    """
    record = begin(config, index, context, data=data)
    context.tracker.send(record)
    with finished(record, context.tracker):
        decoded = decode_for(record, index, context, size=config.size, listener=listener)
        run_training(config, decoded, record, context, listener=listener)
    return record


def begin(config: TrainConfig, index: Index, context: RunContext, *, data: str, folder: Path | None = None) -> Record:
    """The record of one training, before it starts."""
    drawn = "" if config.sampler == "weighted" else f" sampler {config.sampler}"
    record = context.begin(
        Run(
            name=f"train {index.root.name} {config.size}px w{config.width}{drawn} seed {config.seed}",
            role="train",
            description=f"One training of {config.epochs} epochs at {config.size} px, width {config.width}.",
        ),
        index,
        folder,
    )
    record.add_params({"data": data, **asdict(config)})
    return record


def decode_for(record: Record, index: Index, context: RunContext, *, size: int, listener: Listener = SILENT) -> Decoded:
    """The decoded training and validation films; the record's `data_report.json` lists those that are left out.

    Raises:
        DataError, DiskFullError: as `cache.decode`.
    """
    decoded = decode(index.keep("train", "val"), size=size, home=context.home, progress=context.progress)
    record.add_json("data_report.json", index.without(decoded.failures).report.as_dict())
    for line in decoded.unread():
        listener.say(line)
    return decoded


def warm_up() -> None:
    """Does once what makes a process's first record slow: importing scikit-learn, seaborn and the ONNX exporter, and
    MLflow's search of all installed packages.
    """
    score([0, 1], [0.0, 1.0], 0.5)
    with tempfile.TemporaryDirectory() as scratch:
        folder, classes = Path(scratch), ("negative", "positive")
        plots.save(plots.confusion_matrix(np.eye(2, dtype=int), classes), folder / "figure.png")
        network, films = build(4, 0.0, seed=0).eval(), np.eye(32, dtype=np.uint8)[None]
        export.write(
            folder / "package",
            network,
            size=32,
            classes=classes,
            threshold=0.5,
            calibration=Calibration(slope=1.0, intercept=0.0),
            familiarity=familiarity.fit(network, TrainConfig(size=32), films, films),
        )
        export.save(folder / "package", folder / "model")


def suited(config: TrainConfig, index: Index, *, listener: Listener = SILENT) -> TrainConfig:
    """`config`, without painted opacities where the classes are not normal and an illness with opacities."""
    if config.opacity == 0 or is_opacity_task(index.classes):
        return config
    listener.say(
        f"no opacities are painted, since the classes are {' and '.join(index.classes)}: if one is normal and the "
        "other pneumonia, name them so"
    )
    return replace(config, opacity=0.0)


def write_results(
    record: Record, fitted: Fitted, data: Decoded, *, keep_model: bool, looks: dict[int, gallery.Look] | None
) -> None:
    """Fits calibration and threshold to the validation films, as they are and corrupted, and writes metrics, figures,
    predictions and the model, of the films as they are; and the gallery, unless `looks` is None, which holds by epoch
    the network's output for its films.
    """
    began = time.monotonic()
    val = data.index.only("val")
    labels, classes = val["label"].to_numpy(), data.index.classes
    calibration, threshold = operating_point(*fitted.calibration_data(labels))
    probabilities = calibration.apply(fitted.val_logits)
    scores = score(labels, probabilities, threshold)
    write_scores(record, labels, probabilities, threshold, scores, classes)
    write_predictions(record.artifacts / VAL_PREDICTIONS, val, probabilities, classes)
    if fitted.history:
        plots.save(plots.learning_curves(fitted.history), record.artifacts / "figures" / "learning_curves.png")
    if record.run.register is not None:
        scored = pd.DataFrame({"probability": probabilities, "error": ""})
        text = card(
            record.run.register,
            index=data.index,
            made=Made(
                fitted.config,
                fitted.best_epoch,
                fitted.members,
                changed=fitted.changed_logits.size > 0,
                weights=fitted.network.weights,
            ),
            validation=assess(val, scored, split="val", classes=classes, threshold=threshold),
            tags=record.run.tags,
        )
        (record.artifacts / CARD).write_text(text, encoding="utf-8")
    split = data.index.table["split"].to_numpy()
    known = familiarity.fit(fitted.network, fitted.config, data.films[split == "train"], data.films[split == "val"])
    with room(record.folder, MODEL_BYTES), tempfile.TemporaryDirectory(dir=record.folder) as scratch:
        folder, model = Path(scratch) / "package", Path(scratch) / "model"
        export.write(
            folder,
            fitted.network,
            size=fitted.config.size,
            classes=classes,
            threshold=threshold,
            calibration=calibration,
            familiarity=known,
        )
        if looks is not None:
            write_gallery(record, Predictor(folder), data, looks, fitted)
        if keep_model:
            export.save(folder, model)
            model.rename(record.model)  # a record has a whole model or none
    record.summarise(
        {
            **{f"val/{name}": value for name, value in scores.items()},
            OBJECTIVE: fitted.objective,
            "val/loss": fitted.loss,
            "val/threshold": threshold,
            # the epochs of a training have logged it already, at the same step
            **{name: value for name, value in fitted.training.items() if not fitted.history or name != "train/loss"},
            "train/seconds": fitted.seconds,
            **({"train/best_epoch": fitted.best_epoch} if fitted.history else {}),
            "data/seconds": data.seconds,
            "record/seconds": time.monotonic() - began,
        },
        step=len(fitted.history),
    )
    _describe(record, fitted, {**scores, "threshold": threshold}, films=len(labels), kept=keep_model)


def _describe(record: Record, fitted: Fitted, scores: Mapping[str, float], *, films: int, kept: bool) -> None:
    """Tags and description of a training that is done, by its scores on so many validation films."""
    epochs, of = len(fitted.history), fitted.config.epochs
    tags, how = {}, f"the mean of {fitted.members} networks."
    if fitted.history:
        tags = {TRIAL_EPOCHS: f"{epochs} of {of}"}
        early = "" if epochs == of else f" It ended after {epochs} of {of} epochs."
        how = f"epoch {fitted.best_epoch} of {epochs} was the best.{early}"
    record.update(
        tags={**record.run.tags, **tags, **({} if kept else {DROPPED: "not sent"})},
        description=f"{record.run.description}\n\nOn {films} validation films: "
        f"log loss {scores['log_loss']:.4f}, AUC {scores['auc']:.4f}, "
        f"sensitivity {scores['sensitivity']:.3f} and specificity {scores['specificity']:.3f} "
        f"at the threshold {scores['threshold']:.3f}; {how}",
    )


def gallery_films(data: Decoded) -> tuple[pd.DataFrame, np.ndarray]:
    """The gallery's validation films: their rows of the index, and their pixels uint8 [N, S, S]."""
    val = data.index.only("val")
    rows = val.iloc[gallery.chosen(val)]
    return rows, np.asarray(data.films[rows.index.to_numpy()])


def write_gallery(
    record: Record, predictor: Predictor, data: Decoded, looks: dict[int, gallery.Look], fitted: Fitted
) -> None:
    """The gallery as pictures for MLflow's image grid: of the finished model, and of the network as it learned, all by
    the calibration and threshold of the finished one.
    """
    rows, films = gallery_films(data)
    last = len(fitted.history)
    made = f"epoch {fitted.best_epoch} of {last}" if fitted.history else f"{fitted.members} of the trials' networks"
    steps = {0: (f"the model: {made}", gallery.look_of(predictor, films))}
    steps |= {epoch: (f"epoch {epoch} of {last}", look) for epoch, look in looks.items()}
    for number, (_, row) in enumerate(rows.iterrows(), start=1):
        truth = f"is {data.index.classes[row['label']]} {row['subtype']}".strip()
        name = row["path"].rsplit("/", 1)[-1]
        for step, (when, look) in steps.items():
            logit, evidence = look.logits[number - 1], look.evidence[number - 1]
            picture = gallery.draw(predictor, films[number - 1], logit, evidence, when, f"{truth}: {name}")
            record.add_image(gallery.key(number, row), picture, step=step)
