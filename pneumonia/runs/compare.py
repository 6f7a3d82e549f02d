"""Scores the same validation films with several models, and logs how they compare."""

import os
import re
from collections.abc import Sequence

import numpy as np

from pneumonia.data.classes import differ
from pneumonia.data.index import Index
from pneumonia.reports import plots
from pneumonia.reports.comparison_page import html
from pneumonia.reports.recipes_page import html as recipes_html
from pneumonia.results import recipes
from pneumonia.results.comparison import LOGGED, OTHER_FILMS, SCORES, Comparison, assess
from pneumonia.results.recipes import Recipe, Recipes
from pneumonia.runs.context import RunContext
from pneumonia.runs.logged_predictions import Logged, by_seed, classes_in, is_of_seeds, logged_by
from pneumonia.runtime.names import split as split_names
from pneumonia.serving import predict
from pneumonia.tracking.record import VAL_PREDICTIONS, Record, Run
from pneumonia.tracking.store import Tracker, finished, tracker_errors
from pneumonia.tracking.sync import none_if_missing
from pneumonia.tracking.tags import FINGERPRINT

RUN_ID = re.compile(r"[0-9a-f]{32}")


def named(texts: Sequence[str]) -> list[str]:
    """The models that texts name: each may hold several (see `split_names`).

    Raises:
        ValueError: fewer than two, or one twice.
    """
    found = split_names(texts, os.path.exists)
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


def classes_of(tracker: Tracker, name: str) -> tuple[str, str] | None:
    """The classes, negative and positive, of a model or a run of trainings; None where they are not known.

    Raises:
        ModelError: there is no such model.
        TrackingError: the tracking store cannot be reached.
    """
    if RUN_ID.fullmatch(name):
        with tracker_errors(tracker.uri):
            run = none_if_missing(lambda: tracker.client.get_run(name))
        found = () if run is None else classes_in(run.data.tags)
        return (found[0], found[1]) if len(found) == 2 else None
    return predict.load(name).classes


def trained_from(tracker: Tracker, model: predict.Model | Logged) -> str | None:
    """The fingerprint of the films that a model was trained from; None where the store does not know its run."""
    if isinstance(model, Logged):
        return model.fingerprint
    run_id = model.metadata.run_id
    if run_id is None:
        return None
    with tracker_errors(tracker.uri):
        run = none_if_missing(lambda: tracker.client.get_run(run_id))
    return None if run is None else run.data.tags.get(FINGERPRINT)


def compare(
    models: Sequence[predict.Model | Logged],
    index: Index,
    *,
    names: Sequence[str],
    of_other_films: Sequence[str] = (),
    progress: bool = False,
) -> Comparison:
    """Scores the validation films with each model, through its own code and at its own threshold; those of a run that
    kept no model have their scores already.

    Args:
        of_other_films: those of `names` that were trained from other films than the index's.

    Raises:
        ValueError: the models, or models and films, tell other classes apart; no validation films of both classes; no
            film that all models could score.
    """
    for model, name in zip(models, names, strict=True):
        others = differ(model.classes, index.classes)
        if others:
            raise ValueError(f"the model {name} {others}")
        if isinstance(model, Logged) and model.fingerprint != index.fingerprint:
            raise ValueError(f"the run {name} kept no model, and what it logged is of other films than {index.root}'s")
    rows = index.only("val")
    paths = [index.root / path for path in rows["path"]]
    tables = [
        model.scores(rows["path"])
        if isinstance(model, Logged)
        else predict.predict(model, paths, any_dicom=index.any_dicom, progress=progress)
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
        notes=[
            *(OTHER_FILMS.format(name) for name in of_other_films),
            *(LOGGED.format(name) for model, name in zip(models, names, strict=True) if isinstance(model, Logged)),
        ],
        failures=[(path, error) for path, error in zip(rows["path"], errors, strict=True) if error],
    )


def compare_seeds(
    trainings: Sequence[tuple[dict[int, Logged], dict[str, str]]], index: Index, *, names: Sequence[str]
) -> Recipes:
    """Compares recipes by what the trainings of their seeds logged of the validation films; no model is run.

    Args:
        trainings: of each recipe, as `logged_predictions.by_seed` gives them.

    Raises:
        ValueError: a recipe was trained from other films than the index's, or has fewer than two seeds; no validation
            films of both classes that all models have scored.
    """
    for (seeds, _), name in zip(trainings, names, strict=True):
        if any(logged.classes != index.classes or logged.fingerprint != index.fingerprint for logged in seeds.values()):
            raise ValueError(
                f"the run {name} is of other films than {index.root}'s, and means compare on the same ones"
            )
    rows = index.only("val")
    tables = [[logged.scores(rows["path"]) for logged in seeds.values()] for seeds, _ in trainings]
    errors = [
        "; ".join(dict.fromkeys(filter(None, said)))
        for said in zip(*(table["error"] for several in tables for table in several), strict=True)
    ]
    scored = np.array([not error for error in errors], dtype=bool)
    return recipes.assess(
        rows[scored].reset_index(drop=True),
        [
            Recipe(
                name=name,
                seeds=list(seeds),
                thresholds=[logged.threshold for logged in seeds.values()],
                probabilities=np.array([table["probability"].to_numpy()[scored] for table in several]),
                params=params,
            )
            for (seeds, params), several, name in zip(trainings, tables, names, strict=True)
        ],
        classes=index.classes,
        failures=[(path, error) for path, error in zip(rows["path"], errors, strict=True) if error],
    )


def all_of_seeds(tracker: Tracker, names: Sequence[str]) -> bool:
    """Whether the names are runs of `train --seeds`.

    Raises:
        ValueError: some are, and others are not.
        TrackingError: the tracking store cannot be reached.
    """
    several = [name for name in names if RUN_ID.fullmatch(name) and is_of_seeds(tracker, name)]
    alone = [name for name in names if name not in several]
    if several and alone:
        raise ValueError(
            f"{several[0]} is a run of several seeds and {alone[0]} is not, so that the latter's "
            "spread over seeds is not known: compare it with one of the seeds' runs, or train it with --seeds too"
        )
    return bool(several)


def compare_and_record(texts: Sequence[str], index: Index, context: RunContext) -> tuple[Record, Comparison | Recipes]:
    """Compares models, or recipes where the names are runs of `train --seeds`, and logs a run of its own: table,
    figure, page, and every model's probability of every film.

    Raises:
        ModelError: there is no such model.
        ValueError: as `named`, `all_of_seeds`, `compare` and `compare_seeds`.
        TrackingError: the tracking store cannot be reached.
    """
    names, tracker = named(texts), context.tracker
    tracker.experiment_id(context.experiment)
    several = all_of_seeds(tracker, names)
    models = [] if several else [load(tracker, name) for name in names]
    record = context.begin(
        Run(
            name=f"compare {len(names)} {'recipes' if several else 'models'} on {index.root.name}",
            role="compare",
            description=f"{', '.join(names)} on the validation films of {index.root.name}.",
        ),
        index,
    )
    record.add_params({"models": " ".join(names), "data": str(index.root)})
    with finished(record, tracker):
        labels = [label(tracker, name) for name in names]
        if several:
            recipes_found = compare_seeds([by_seed(tracker, name) for name in names], index, names=labels)
            _write_recipes(record, recipes_found, index)
            return record, recipes_found
        origins = [trained_from(tracker, model) for model in models]
        of_other_films = [name for name, origin in zip(labels, origins, strict=True) if origin != index.fingerprint]
        found = compare(models, index, names=labels, of_other_films=of_other_films, progress=context.progress)
        _write_models(record, found, index)
    return record, found


def _write_models(record: Record, found: Comparison, index: Index) -> None:
    curves = dict(zip(found.numbered, found.probabilities, strict=True))
    drawn = record.artifacts / "figures" / "roc.png"
    plots.save(plots.rocs(found.rows["label"].to_numpy(), curves), drawn)
    page = html(found, index, curves=drawn.read_bytes())
    (record.artifacts / "comparison.html").write_text(page, encoding="utf-8")
    _write(record, found, dict(zip(found.models, found.probabilities, strict=True)), _metrics(found))


def _write_recipes(record: Record, found: Recipes, index: Index) -> None:
    drawn = record.artifacts / "figures" / "seeds.png"
    plots.save(plots.seeds(found.by_name()), drawn)
    page = recipes_html(found, index, seeds=drawn.read_bytes())
    (record.artifacts / "comparison.html").write_text(page, encoding="utf-8")
    columns = {
        f"{recipe.name} seed {seed}": p
        for recipe in found.recipes
        for seed, p in zip(recipe.seeds, recipe.probabilities, strict=True)
    }
    _write(record, found, columns, found.metrics())


def _write(
    record: Record, found: Comparison | Recipes, columns: dict[str, np.ndarray], values: dict[str, float]
) -> None:
    """The text, the JSON, the metrics, and every film's probabilities, a column a model."""
    (record.artifacts / "comparison.md").write_text(found.text() + "\n", encoding="utf-8")
    record.add_json("comparison.json", found.as_dict())
    table = found.rows[["path", "patient"]].copy()
    table["label"] = np.asarray(found.classes)[found.rows["label"].to_numpy()]
    for name, p in columns.items():
        table[name] = p
    (record.artifacts / VAL_PREDICTIONS).parent.mkdir()
    table.to_csv(record.artifacts / VAL_PREDICTIONS, index=False)
    record.summarise(values, step=0)


def _metrics(found: Comparison) -> dict[str, float]:
    """`compare/2/auc_difference` and so on; models count from 1, the reference."""
    values = {
        f"compare/{number}/{name}": scores[name]
        for number, scores in enumerate(found.scores, start=1)
        for name in SCORES
    }
    for number, pair in enumerate(found.pairs, start=2):
        for name, difference in pair.differences.items():
            values |= difference.metrics(f"compare/{number}/{name}")
    return values
