"""The evaluation as one HTML page."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from pneumonia.data.index import Index
from pneumonia.metrics.intervals import BOOTSTRAPPED, COMBINED, WILSON, Interval
from pneumonia.metrics.reliability import Line, Reliability
from pneumonia.reports import plots
from pneumonia.reports.page import Section, bullets, figure, page, picture, row, table, text
from pneumonia.results.evaluation import NAMES, UNIQUE, Evaluation
from pneumonia.served import FAMILIAR

# From experiments/interval_coverage.py
COVERAGE = (
    "In simulations of 624 films the intervals of AUC (DeLong), sensitivity, specificity, accuracy and, at a given "
    "prevalence, PPV and NPV cover the truth 94 to 97 times in 100 (97.2 at most: Wilson's moves in steps "
    "near 1); precision's and F1's more often (up to always) where sensitivity and specificity lie far apart, since "
    "they allow for other shares of the classes; ECE's 91 to 92 times, since resampling adds to it; balanced "
    "accuracy's 93 to 96, the other bootstrapped ones' 91 to 97 times. Where no film is called wrong, a bootstrap "
    "has no interval; where few are, AUC's is too narrow."
)


def html(
    evaluation: Evaluation,
    index: Index,
    *,
    model: str,
    openings: int,
    pictures: Mapping[str, bytes],
    calibrations: Sequence[tuple[str, Reliability, Reliability]],
    heatmaps: Sequence[bytes],
) -> str:
    """The page: counts, scores with intervals, curves, calibration, operating point, subgroups, wrong films.

    Args:
        model: what the model is called.
        openings: how often the test split has been opened for it, this time included.
        pictures: PNGs of the figures `confusion_matrix`, `roc`, `precision_recall` and `histograms`.
        calibrations: of each set of films its name, before the calibration and after it.
        heatmaps: PNGs of the first films of `evaluation.wrong()`.
    """
    e = evaluation
    positive, films = int(e.rows["label"].sum()), len(e.rows)
    intro = text(
        f"{model} on {films:,} {e.split} films of {e.rows['patient'].nunique():,} patients in {index.root.name}: "
        f"{positive:,} {e.classes[1]}, {films - positive:,} {e.classes[0]}. The threshold {e.threshold:.3f} was chosen "
        "on validation films before any of these was opened.",
        f"This is opening number {openings} of the test films for this model. Only the first one is a test: after a "
        "look and a change, the films are validation films.",
    )
    if e.warnings:
        intro += bullets(e.warnings)
    sections = [
        Section("Scores", [_scores(e)]),
        Section("Films", _films(e, index)),
        Section("Telling the classes apart", [_curves(pictures)]),
        Section("Calibration", _calibration(e, calibrations)),
        Section("Operating point", _operating_point(e)),
        Section("Subgroups and copies", _subgroups(e)),
        Section("Films that the model does not know", _strange(e)),
        Section("Films that are called wrong", _wrong(e, heatmaps)),
    ]
    footer = (
        "For research and teaching; not a medical device. The same figures are in evaluation.json, and the main ones "
        "are metrics of the run."
    )
    return page(f"Evaluation of {model}", sections, intro=intro, footer=footer)


def _scores(e: Evaluation) -> Markup:
    rows = [
        (NAMES.get(name, name.replace("_", " ")), _value(value), _interval(e.intervals[name]), _method(name))
        for name, value in e.scores.items()
    ]
    rows.insert(1, ("AUC", rows[0][1], _interval(e.auc_bootstrap), "bootstrap over patients"))
    return table(
        ["score", "value", "95% interval", "interval by"],
        rows,
        caption="Intervals count patients, not films: films of one patient are not independent. Precision is PPV, "
        "sensitivity recall. ECE: 15 equal bins. Log loss in nats, the mean of the two classes'. " + COVERAGE,
    )


def _method(name: str) -> str:
    if name in WILSON:
        return "Wilson, with the design effect of patients"
    if name in COMBINED:
        return "MOVER, from those of sensitivity and specificity"
    return "bootstrap over patients" if name in BOOTSTRAPPED else "DeLong, by patient, on the logit scale, t"


def _films(e: Evaluation, index: Index) -> list[Markup]:
    report = index.report
    flow = [
        *report.flow(),
        (f"of these in {e.split}", len(e.rows) + len(e.failures)),
        (f"{e.split} films that the model could not score", len(e.failures)),
        (f"scored {e.split} films", len(e.rows)),
    ]
    counts = [
        (count["split"], str(count["class"]), count["subtype"] or "-", count["films"], count["patients"])
        for count in report.counts
    ]
    parts = [
        row(
            table(["films", "number"], flow, caption="From the folder to the scores"),
            table(["split", "class", "subtype", "films", "patients"], counts, caption="Films in use"),
        )
    ]
    if e.failures or report.corrupt:
        bad = [f"{path}: {reason}" for path, reason in [*e.failures, *report.corrupt]]
        parts.append(bullets(bad[:50]))
    return parts


def _curves(pictures: Mapping[str, bytes]) -> Markup:
    return row(
        picture(pictures["confusion_matrix"], alt="confusion matrix"),
        picture(pictures["roc"], alt="ROC curve"),
        picture(pictures["precision_recall"], alt="precision-recall curve"),
        picture(pictures["histograms"], alt="histograms of the probabilities"),
    )


def _calibration(e: Evaluation, calibrations: Sequence[tuple[str, Reliability, Reliability]]) -> list[Markup]:
    rows = [
        (
            name,
            when,
            r.labels.size,
            _value(r.brier),
            _value(r.ece),
            _value(r.log_loss),
            _slope(r.line),
            _intercept(r.line),
        )
        for name, before, after in calibrations
        for when, r in (("before", before), ("after", after))
    ]
    return [
        text(
            "The network's logit becomes the probability that is served by a line that was fitted to validation films "
            "(Platt 1999). A slope of 1 and an intercept of 0 mean that probabilities can be taken at their word; a "
            "slope below 1, that they are too extreme; an intercept below 0, that they are too high."
        ),
        table(
            ["films", "calibration", "n", "Brier", "ECE", "log loss", "slope", "intercept"],
            rows,
            caption="Before and after the calibration. It was fitted on val and, unless disturb is 0, on corrupted "
            "copies of val: the line of val is no test of it",
        ),
        row(
            *(
                figure(
                    plots.reliability(
                        r.labels,
                        r.probabilities,
                        e.threshold if when == "after" else None,
                        ece=r.ece,
                        of=f"{name} {when}",
                    ),
                    alt=f"reliability diagram of {name} {when} the calibration",
                )
                for name, before, after in calibrations
                for when, r in (("before", before), ("after", after))
            )
        ),
    ]


def _operating_point(e: Evaluation) -> list[Markup]:
    parts = [
        text(
            f"At the threshold {e.threshold:.3f} the accuracy is {e.scores['accuracy']:.3f}. The best one that any "
            f"threshold could have had on these films is {e.best_accuracy:.3f}: the difference can only be had by "
            "choosing the threshold on these films, which would be no test."
        )
    ]
    if e.predictive:
        parts.append(
            table(
                ["prevalence", "PPV", "95% interval", "NPV", "95% interval"],
                [
                    (
                        f"{at.prevalence:.1%}",
                        _value(at.ppv, 4),
                        _interval(at.ppv_interval, 4),
                        _value(at.npv, 4),
                        _interval(at.npv_interval, 4),
                    )
                    for at in e.predictive
                ],
                caption="Predictive values at other prevalences than that of these films: Bayes' rule on "
                "sensitivity and specificity, intervals from those of the two (MOVER-R), which count patients",
            )
        )
    return parts


def _subgroups(e: Evaluation) -> list[Markup]:
    parts = [
        table(
            ["class", "subtype", "films", "patients", "called right", "95% interval"],
            [
                (
                    e.classes[group.label],
                    group.subtype or "-",
                    group.films,
                    group.patients,
                    group.right,
                    _interval(group.interval),
                )
                for group in e.subgroups
            ],
            caption=f"Sensitivity for {e.classes[1]}, specificity for {e.classes[0]}; Wilson, with the design effect "
            "of patients",
        )
    ]
    if e.unique is None:
        return [*parts, text("No film is a copy of another one.")]
    sets = {"all films, as others count them": e, "without copies of the same file": e.unique}
    return [*parts, _main_scores(sets, caption="Some files are there twice. With 95% intervals")]


def _main_scores(sets: Mapping[str, Evaluation], *, caption: str) -> Markup:
    return table(
        ["films", "n", *(NAMES.get(name, name.replace("_", " ")) for name in UNIQUE)],
        [
            (words, len(one.rows), *(f"{_value(one.scores[n])} ({_interval(one.intervals[n])})" for n in UNIQUE))
            for words, one in sets.items()
        ],
        caption=caption,
    )


def _strange(e: Evaluation) -> list[Markup]:
    if not e.by_familiarity:
        return [text("This model was made before models said which films they know.")]
    share, interval = e.unfamiliar
    return [
        text(
            f"{share:.1%} of the films (as a share {_interval(interval)}) are unfamiliar: farther from the training "
            "films than 95 in 100 validation films. Where that is much more than 5%, these are other films than the "
            "model learned from, and its scores on its own films say little of them. A familiar film may be called "
            "wrong all the same."
        ),
        _main_scores(e.by_familiarity, caption="Scores of both apart, with 95% intervals"),
    ]


def _wrong(e: Evaluation, heatmaps: Sequence[bytes]) -> list[Markup]:
    wrong = e.wrong()
    if not wrong:
        return [text("None.")]
    shown = [
        picture(
            png,
            alt=f"heatmap over {film.path}",
            caption=f"{film.path.rsplit('/', 1)[-1]}: {e.name(film.label, film.subtype)}, "
            f"probability {film.probability:.3f}" + (", unfamiliar" if film.familiarity < FAMILIAR else ""),
        )
        for film, png in zip(wrong, heatmaps, strict=False)
    ]
    rows = [
        (film.path, film.patient, e.name(film.label, film.subtype), film.probability, _value(film.familiarity))
        for film in wrong
    ]
    return [
        text(
            f"{len(wrong):,} of {len(e.rows):,}, the surest first. Colour shows where darkening a place "
            f"on the film takes away from its odds of {e.classes[1]}, on the same scale in every picture (models made "
            "before 0.2: the class activation map). It shows where the network looks, not whether it is right to."
        ),
        row(*shown),
        table(["film", "patient", "is", f"probability of {e.classes[1]}", "familiarity"], rows),
    ]


def _value(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "none"


def _interval(interval: Interval, digits: int = 3) -> str:
    low, high = interval
    return f"{low:.{digits}f} to {high:.{digits}f}" if math.isfinite(low) else "none"


def _slope(line: Line) -> str:
    return f"{_value(line.slope)} ({_interval(line.slope_interval)})"


def _intercept(line: Line) -> str:
    return f"{_value(line.intercept)} ({_interval(line.intercept_interval)})"
