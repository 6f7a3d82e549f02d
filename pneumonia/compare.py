"""Scores the same validation films with several models, and logs how they compare."""

import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia import plots, predict
from pneumonia.comparison import SCORES, Comparison, assess
from pneumonia.data import Index
from pneumonia.record import Record, Run
from pneumonia.report.comparison import html
from pneumonia.sending import if_there
from pneumonia.tracking import Tracker, finished, tracker_errors
from pneumonia.trial import data_tags, dataset_of

RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Logged:
    """What there is of a run that kept no model: its classes, its threshold, the fingerprint of its films, and its
    probability of each validation film by path.
    """

    run_id: str
    classes: tuple[str, ...]
    threshold: float
    fingerprint: str | None
    probabilities: pd.Series

    def scores(self, paths: pd.Series) -> pd.DataFrame:
        """A row a path with `probability` and `error`, as `predict.predict` gives them."""
        found = self.probabilities.reindex(paths)
        missing = f"the run {self.run_id} has no prediction of it"
        return pd.DataFrame({"probability": found.to_numpy(), "error": np.where(found.isna(), missing, "")})


def named(texts: Sequence[str]) -> list[str]:
    """The models that texts name: each may hold several, with spaces or commas between them.

    Raises:
        ValueError: fewer than two, or one twice.
    """
    found = [name for text in texts for name in ([text] if Path(text).exists() else re.split(r"[\s,]+", text)) if name]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    if len(found) < 2:
        raise ValueError(f"comparing takes two models or more, not {len(found)}: models:/NAME@ALIAS, run ids, folders")
    return found


def uri_of(name: str) -> str:
    """The model URI of a name: a run id stands for the model that the run logged."""
    return f"runs:/{name}/model" if RUN_ID.fullmatch(name) else name


def label(tracker: Tracker, name: str) -> str:
    """What a model is called in tables: a run by its name and the beginning of its id, any other as it was named."""
    if not RUN_ID.fullmatch(name):
        return name
    with tracker_errors(tracker.uri):
        return f"{tracker.client.get_run(name).info.run_name} {name[:8]}"


def load(tracker: Tracker, name: str) -> predict.Model | Logged:
    """The model of that name; for a run that kept no model, the predictions that it logged.

    Raises:
        ModelError: neither is there.
        TrackingError: the tracking store cannot be reached.
    """
    logged = None
    if RUN_ID.fullmatch(name) and not tracker.has_model(name):
        logged = logged_by(tracker, name)
    return predict.load(uri_of(name)) if logged is None else logged


def logged_by(tracker: Tracker, run_id: str) -> Logged | None:
    """The predictions of the validation films that a training logged; None where the run has none."""
    text = tracker.text_of(run_id, "predictions/val.csv")
    if text is None:
        return None
    with tracker_errors(tracker.uri):
        data = tracker.client.get_run(run_id).data
    table = pd.read_csv(io.StringIO(text), dtype={"path": str}, keep_default_na=False)
    if "val/threshold" not in data.metrics or "probability" not in table:  # not a training, or not one that ended
        return None
    return Logged(
        run_id=run_id,
        classes=tuple(data.tags.get("data.classes", "").split("/")),
        threshold=data.metrics["val/threshold"],
        fingerprint=data.tags.get("data.fingerprint"),
        probabilities=table.drop_duplicates("path").set_index("path")["probability"],
    )


def trained_from(tracker: Tracker, model: predict.Model | Logged) -> str | None:
    """The fingerprint of the films that a model was trained from; None where the store does not know its run."""
    if isinstance(model, Logged):
        return model.fingerprint
    run_id = model.metadata.run_id
    if run_id is None:
        return None
    with tracker_errors(tracker.uri):
        run = if_there(lambda: tracker.client.get_run(run_id))
    return None if run is None else run.data.tags.get("data.fingerprint")


def compare(
    models: Sequence[predict.Model | Logged],
    index: Index,
    *,
    names: Sequence[str],
    strangers: Sequence[str] = (),
    progress: bool = False,
) -> Comparison:
    """Scores the validation films with each model, through its own code and at its own threshold; those of a run that
    kept no model have their scores already.

    Args:
        strangers: those of `names` that were trained from other films than the index's.

    Raises:
        ValueError: the models, or models and films, tell other classes apart; no validation films of both classes; no
            film that all models could score.
    """
    for model, name in zip(models, names, strict=True):
        if model.classes != index.classes:
            told, there = " from ".join(model.classes), " and ".join(index.classes)
            raise ValueError(f"the model {name} tells {told}, but the films are {there}")
        if isinstance(model, Logged) and model.fingerprint != index.fingerprint:
            raise ValueError(f"the run {name} kept no model, and what it logged is of other films than {index.root}'s")
    rows = index.only("val")
    paths = [index.root / path for path in rows["path"]]
    tables = [
        model.scores(rows["path"]) if isinstance(model, Logged) else predict.predict(model, paths, progress=progress)
        for model in models
    ]
    errors = ["; ".join(filter(None, said)) for said in zip(*(table["error"] for table in tables), strict=True)]
    scored = np.array([not error for error in errors], dtype=bool)
    return assess(
        rows[scored].reset_index(drop=True),
        np.array([table["probability"].to_numpy()[scored] for table in tables]),
        names=names,
        thresholds=[model.threshold for model in models],
        classes=index.classes,
        strangers=strangers,
        logged=[name for model, name in zip(models, names, strict=True) if isinstance(model, Logged)],
        failures=[(path, error) for path, error in zip(rows["path"], errors, strict=True) if error],
    )


def compare_and_record(
    texts: Sequence[str],
    index: Index,
    *,
    home: Path,
    tracker: Tracker,
    experiment: str = "pneumonia",
    run_id: str | None = None,
    tags: dict[str, str] | None = None,
    progress: bool = False,
) -> tuple[Record, Comparison]:
    """Compares, and logs a run of its own: table, figure, page, and every model's probability of every film.

    Raises:
        ModelError: there is no such model.
        ValueError: as `named` and `compare`.
        TrackingError: the tracking store cannot be reached.
    """
    names = named(texts)
    tracker.experiment_id(experiment)
    models = [load(tracker, name) for name in names]
    record = Record.create(
        home / "records" / "compare" / str(time.time_ns()),
        Run(
            name=f"compare {len(names)} models on {index.root.name}",
            role="compare",
            experiment=experiment,
            run_id=run_id,
            tags={**data_tags(index), **(tags or {})},
            description=f"{', '.join(names)} on the validation films of {index.root.name}.",
            dataset=dataset_of(index, context="validation"),
        ),
    )
    record.add_params({"models": " ".join(names), "data": str(index.root)})
    with finished(record, tracker):
        labels = [label(tracker, name) for name in names]
        origins = [trained_from(tracker, model) for model in models]
        strangers = [name for name, origin in zip(labels, origins, strict=True) if origin != index.fingerprint]
        found = compare(models, index, names=labels, strangers=strangers, progress=progress)
        (record.artifacts / "comparison.md").write_text(found.text() + "\n", encoding="utf-8")
        record.add_json("comparison.json", found.as_dict())
        (record.artifacts / "comparison.html").write_text(html(found, index), encoding="utf-8")
        curves = dict(zip(found.numbered, found.probabilities, strict=True))
        plots.save(plots.rocs(found.rows["label"].to_numpy(), curves), record.artifacts / "figures" / "roc.png")
        table = found.rows[["path", "patient"]].copy()
        table["label"] = np.asarray(found.classes)[found.rows["label"].to_numpy()]
        for name, p in zip(found.models, found.probabilities, strict=True):
            table[name] = p
        (record.artifacts / "predictions").mkdir()
        table.to_csv(record.artifacts / "predictions" / "val.csv", index=False)
        record.summarise(_metrics(found), step=0)
    return record, found


def _metrics(found: Comparison) -> dict[str, float]:
    """`compare/2/auc_difference` and so on; models count from 1, the reference."""
    values = {
        f"compare/{number}/{name}": scores[name]
        for number, scores in enumerate(found.scores, start=1)
        for name in SCORES
    }
    for number, pair in enumerate(found.pairs, start=2):
        for name, difference in pair.differences.items():
            parts = {"": difference.value, "_low": difference.interval[0], "_high": difference.interval[1]}
            values |= {f"compare/{number}/{name}_difference{part}": value for part, value in parts.items()}
            values[f"compare/{number}/{name}_p"] = difference.p
    return values
