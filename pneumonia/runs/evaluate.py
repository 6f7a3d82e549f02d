"""Opens the test films for a model, once: counts that, scores, and logs a run with the report."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.data.classes import differ
from pneumonia.data.index import Index, Split
from pneumonia.metrics.logistic import sigmoid
from pneumonia.metrics.reliability import Reliability, reliability
from pneumonia.metrics.scores import number, raw_loss
from pneumonia.registry import test_openings, versions
from pneumonia.reports import model_card, plots
from pneumonia.reports.evaluation_page import html
from pneumonia.results.evaluation import PREVALENCES, Evaluation, assess, score_dict
from pneumonia.runs.artifacts import write_predictions, write_scores
from pneumonia.runs.context import RunContext
from pneumonia.serving import predict
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import CARD, TEST_PREDICTIONS, VAL_PREDICTIONS, Record, Run
from pneumonia.tracking.store import Tracker, finished
from pneumonia.tracking.sync import unsent
from pneumonia.tracking.tags import MODEL, TEST_OPENINGS, VERSION

SHOWN = 12  # wrong films that the report shows with their heatmaps


def evaluate(
    model: predict.Model,
    index: Index,
    *,
    split: Split = "test",
    prevalences: Sequence[float] = PREVALENCES,
    progress: bool = False,
) -> Evaluation:
    """Scores the films of a split from their files, through the served model itself, at its own threshold.

    Args:
        prevalences: for which to report PPV and NPV.

    Raises:
        ValueError: the split has no films, none could be scored, the model's classes are others than the films', or a
            prevalence does not lie between 0 and 1.
    """
    others = differ(model.classes, index.classes)
    if others:
        raise ValueError(f"the model {others}")
    rows = index.only(split)
    if rows.empty:
        raise ValueError(f"there are no {split} films in {index.root} to evaluate on")
    paths = [Path(index.root, path) for path in rows["path"]]
    table = predict.predict(model, paths, any_dicom=index.any_dicom, progress=progress)
    return assess(rows, table, split=split, classes=model.classes, threshold=model.threshold, prevalences=prevalences)


def evaluate_and_record(
    model: str | predict.Model, index: Index, context: RunContext, *, prevalences: Sequence[float] = PREVALENCES
) -> tuple[Record, Evaluation]:
    """Opens the test split for a model (its URI, or loaded): counts that on its version, scores, and logs a run of its
    own.

    The metrics `test/...` belong to the run and, where the store knows the model, to the model.

    Raises:
        ModelError: there is no such model.
        ValueError: as `evaluate`.
        TrackingError: the tracking store cannot be reached; no film was opened.
    """
    tracker = context.tracker
    tracker.experiment_id(context.experiment)
    model = predict.load(model) if isinstance(model, str) else model
    uri = model.uri
    whole, val = tracker.text_of(model.metadata.run_id, CARD), chosen_on(tracker, model)
    version = versions.version_of(tracker, uri, model.metadata.model_id)
    openings = test_openings.count_opening(tracker, version, model.metadata.model_id)
    named = {} if version is None else {VERSION: f"{version.name}/{version.version}"}
    record = context.begin(
        Run(
            name=f"evaluate {uri} on {index.root.name}",
            role="evaluate",
            tags={MODEL: uri, **named, TEST_OPENINGS: str(openings)},
            description=f"{uri} on the test films of {index.root.name}; opening {openings} of the test split for it.",
            model_id=tracker.known_model(model.metadata.model_id),
        ),
        index,
    )
    record.add_params({"model": uri, "data": str(index.root), "threshold": model.threshold})
    with finished(record, tracker):
        evaluation = evaluate(model, index, prevalences=prevalences, progress=context.progress)
        labels, figures = evaluation.rows["label"].to_numpy(), record.artifacts / "figures"
        write_scores(
            record, labels, evaluation.probabilities, model.threshold, evaluation.scores, model.classes,
            evaluation.bands(),
        )  # fmt: skip
        plots.save(plots.histograms(evaluation.by_group(), model.threshold), figures / "histograms.png")
        write_predictions(record.artifacts / TEST_PREDICTIONS, evaluation.rows, evaluation.probabilities, model.classes)
        reliabilities = calibrations(model, evaluation, val)
        _write_report(record, evaluation, model, index, openings, reliabilities)
        raw = raw_loss(labels, model.calibration.undo(evaluation.probabilities))
        before = {f"test/uncalibrated_{name}": value for name, value in reliabilities[-1][1].named().items()}
        record.summarise({**evaluation.named(), **before, "test/loss": raw}, step=0)
        record.add_metrics(index.report.named(), step=0)
        if whole is not None:
            tested = model_card.with_test(whole, evaluation, folder=index.root.name, openings=openings)
            (record.artifacts / CARD).write_text(tested, encoding="utf-8")
    if not unsent(record):
        with suppress(TrackingError):  # `sync` does it later
            versions.describe(tracker, record)
    return record, evaluation


def _write_report(
    record: Record,
    evaluation: Evaluation,
    model: predict.Model,
    index: Index,
    openings: int,
    reliabilities: Sequence[tuple[str, Reliability, Reliability]],
) -> None:
    """The evaluation as JSON, as a page with the figures that are drawn already, and as text."""
    told = {
        **evaluation.as_dict(),
        "before_and_after_calibration": {
            name: {"before": _for_json(before), "after": _for_json(after)} for name, before, after in reliabilities
        },
        "report": index.report.as_dict(),
    }
    record.add_json("evaluation.json", told)
    surest = evaluation.wrong()[:SHOWN]
    page = html(
        evaluation,
        index,
        model=model.uri,
        openings=openings,
        pictures={path.stem: path.read_bytes() for path in (record.artifacts / "figures").glob("*.png")},
        calibrations=reliabilities,
        heatmaps=predict.heatmaps(model, [index.root / film.path for film in surest], any_dicom=index.any_dicom),
    )
    (record.artifacts / "evaluation.html").write_text(page, encoding="utf-8")
    (record.artifacts / "evaluation.md").write_text(evaluation.text() + "\n", encoding="utf-8")


def chosen_on(tracker: Tracker, model: predict.Model) -> pd.DataFrame | None:
    """predictions/val.csv of the run that trained the model: the films that calibration and threshold were
    fitted to, without their corrupted copies.
    """
    return predictions_of(tracker, model, VAL_PREDICTIONS)


def predictions_of(tracker: Tracker, model: predict.Model, artifact: str) -> pd.DataFrame | None:
    """A table of predictions that the run that trained the model logged."""
    text = tracker.text_of(model.metadata.run_id, artifact)
    words = {"path": str, "patient": str, "label": str}
    return None if text is None else pd.read_csv(io.StringIO(text), dtype=words, keep_default_na=False)


def calibrations(
    model: predict.Model, evaluation: Evaluation, val: pd.DataFrame | None
) -> list[tuple[str, Reliability, Reliability]]:
    """For the validation films, where they are known, and the evaluated ones: name, before calibration, after it."""
    rows = evaluation.rows
    sets = [(evaluation.split, rows["label"].to_numpy(), evaluation.probabilities, rows["patient"])]
    if val is not None:
        labels = (val["label"] == model.classes[1]).to_numpy().astype(int)
        sets.insert(0, ("val", labels, val["probability"].to_numpy(), val["patient"]))
    return [
        (
            name,
            reliability(labels, sigmoid(model.calibration.undo(p)), patients=patients),
            reliability(labels, p, patients=patients),
        )
        for name, labels, p, patients in sets
    ]


def _for_json(one: Reliability) -> dict[str, Any]:
    return {
        "films": one.labels.size,
        "brier": number(one.brier),
        "ece": number(one.ece),
        "log_loss": number(one.log_loss),
        "slope": score_dict(one.line.slope, one.line.slope_interval),
        "intercept": score_dict(one.line.intercept, one.line.intercept_interval),
    }
