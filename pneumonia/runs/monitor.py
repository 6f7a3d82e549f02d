"""Looks at what a served version answered, and logs a run with the report."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.registry import versions
from pneumonia.reports import monitor_figures, plots
from pneumonia.reports.monitor_page import html
from pneumonia.results.monitoring import Monitoring, Version, monitor
from pneumonia.runs.context import RunContext
from pneumonia.runs.evaluate import chosen_on, predictions_of
from pneumonia.serving import answers, predict
from pneumonia.tracking.record import HELD_OUT_PREDICTIONS, Record, Run
from pneumonia.tracking.store import finished
from pneumonia.tracking.tags import MODEL, VERSION


def monitor_and_record(
    log: Path,
    model: str | predict.Model,
    context: RunContext,
    *,
    labels: Path | None = None,
    days: int | None = None,
    any_share: bool = False,
) -> tuple[Record, Monitoring]:
    """Compares a version's answers with its validation films, and logs a run with the page, a figure a day and the
    scores of labelled films.

    Args:
        model: its URI, or loaded. Answers of other versions are counted only; those that do not say which version gave
            them are taken for this one's.
        labels: see `serving.answers.labels`.
        days: only the last so many days of the log.
        any_share: another share of positives is no change.

    Raises:
        AnswersError: there is no log, it has no answer of this version, or the labels cannot be used.
        ModelError: there is no such model.
        TrackingError: the tracking store cannot be reached.
    """
    tracker = context.tracker
    tracker.experiment_id(context.experiment)
    found = answers.read(log)
    model = predict.load(model) if isinstance(model, str) else model
    version = versions.version_of(tracker, model.uri, model.metadata.model_id)
    name = None if version is None else f"{version.name}/{version.version}"
    called = model.uri if name is None else f"{model.uri} ({name})"
    mine, others = _of_version(found.table, [*filter(None, (name, model.metadata.model_id))], called)
    if days is not None:
        mine = mine[mine["time"] >= mine["time"].max().floor("D") - pd.Timedelta(days=days - 1)]
    known = None if labels is None else answers.labels(labels, model.classes)
    val = chosen_on(tracker, model)
    if val is None:  # of a model that was adapted: its own place's films, each scored without its patient
        val = predictions_of(tracker, model, HELD_OUT_PREDICTIONS)
    monitored = monitor(
        mine,
        Version(model=called, classes=model.classes, threshold=model.threshold, val=val),
        labels=known,
        others=others,
        unread=found.unread,
        any_share=any_share,
    )
    record = context.begin(
        Run(
            name=f"monitor {called}",
            role="monitor",
            tags={MODEL: model.uri, **({} if name is None else {VERSION: name})},
            description=f"{monitored.sentence()}.",
        ),
        None,
    )
    record.add_params({"model": model.uri, "log": str(log), "threshold": model.threshold})
    with finished(record, tracker):
        _write(record, monitored)
    return record, monitored


def _of_version(table: pd.DataFrame, names: list[str], called: str) -> tuple[pd.DataFrame, dict[str, int]]:
    mine = answers.versions(table, names)
    others = dict(Counter(table["version"][~mine]).most_common())
    if not mine.any():
        there = ", ".join(f"{version} ({count:,})" for version, count in others.items())
        raise answers.AnswersError(f"the log has no answer of {called}, but of {there}: name one of these with --model")
    return table[mine].reset_index(drop=True), others


def _write(record: Record, m: Monitoring) -> None:
    """Figures, page, JSON, and the metrics: of each day at its own time, and of all answers."""
    figures = record.artifacts / "figures"
    drawn = {
        "answers": monitor_figures.answers_by_day(m),
        "scores": monitor_figures.scores(m),
        "shares": monitor_figures.shares(m),
    }
    if m.labelled is not None:
        drawn["labelled"] = monitor_figures.scores_by_period(m)
    for name, figure in drawn.items():
        plots.save(figure, figures / f"{name}.png")
    pictures = {name: (figures / f"{name}.png").read_bytes() for name in drawn}
    (record.artifacts / "monitor.html").write_text(html(m, pictures), encoding="utf-8")
    record.add_json("monitor.json", m.as_dict())
    for day, row in m.days.iterrows():
        assert isinstance(day, pd.Timestamp)
        step, at = (day - m.days.index[0]).days, int(day.timestamp() * 1000)
        record.add_metrics({f"day/{name}": float(value) for name, value in row.items()}, step=step, time=at)
    for step, period in enumerate(m.periods):
        scores = {f"period/{name}": value for name, value in period.scores.items()}
        bounds = {
            f"period/{name}_{end}": bound
            for name, interval in period.intervals.items()
            for end, bound in zip(("low", "high"), interval, strict=True)
        }
        record.add_metrics({**scores, **bounds, "period/films": float(period.films)}, step=step)
    record.summarise({name: value for name, value in m.named().items() if np.isfinite(value)}, step=0)
