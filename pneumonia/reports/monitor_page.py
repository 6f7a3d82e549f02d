"""What a served version was asked and answered, as one HTML page."""

import math
from collections.abc import Mapping

from markupsafe import Markup

from pneumonia.metrics.drift import MIN_DAYS
from pneumonia.metrics.intervals import Interval
from pneumonia.reports.page import Section, page, picture, table, text
from pneumonia.results.monitoring import ALPHA, LABELLED, Monitoring, Period
from pneumonia.served import FAMILIAR


def html(m: Monitoring, pictures: Mapping[str, bytes]) -> str:
    """The page: what has changed, answers, scores, shares, and scores on labelled films.

    Args:
        pictures: PNGs of the figures `answers`, `scores`, `shares` and, with labelled films, `labelled`.
    """
    first, last = m.days.index[0], m.days.index[-1]
    intro = text(
        f"{m.sentence()}.",
        f"{len(m.answers):,} answers from {first:%Y-%m-%d} to {last:%Y-%m-%d} (UTC).",
    )
    sections = [
        Section("Answers", _answers(m, pictures)),
        Section("Scores", _scores(m, pictures)),
        Section("Shares of films", [picture(pictures["shares"], alt="shares by day"), _shares(m)]),
        Section("Scores on labelled films", _labelled(m, pictures)),
        Section("How this is decided", [_how()]),
    ]
    footer = "For research and teaching; not a medical device. The same figures are in monitor.json and in the run."
    return page(f"What {m.model} was asked", sections, intro=intro, footer=footer)


def _answers(m: Monitoring, pictures: Mapping[str, bytes]) -> list[Markup]:
    rows = [("scored", len(m.scored)), *((f"refused: {kind}", count) for kind, count in m.refusals.items())]
    rows += [(f"of {name or 'an unknown version'}, left out here", count) for name, count in m.others.items()]
    if m.unread:
        rows.append(("lines that are no answers", m.unread))
    return [picture(pictures["answers"], alt="answers by day"), table(["answers", "number"], rows)]


def _scores(m: Monitoring, pictures: Mapping[str, bytes]) -> list[Markup]:
    parts = [picture(pictures["scores"], alt="distribution functions of the scores")]
    if m.drift is None:
        return [*parts, text("There are no predictions of validation films to compare with.")]
    d = m.drift
    rows = [
        ("as they are", _value(d.distance), _p(d.p)),
        (f"with {d.share:.0%} {m.classes[1]} among the validation films", _value(d.rest), _p(d.rest_p)),
    ]
    parts.append(table(["against the validation films", "largest difference", "p"], rows))
    parts.append(
        text(
            f"The mean logit is {d.shift:+.2f} from the validation films' ({_interval(d.shift_interval, 2)}). The "
            f"second line takes the share of {m.classes[1]} that fits best: what is left no other share explains."
        )
    )
    return parts


def _shares(m: Monitoring) -> Markup:
    rows = [
        (f"called {m.classes[1]}", *_share(*m.positive)),
        ("unfamiliar", *_share(*m.unfamiliar)),
    ]
    return table(["of the scored films", "share", "95% interval"], rows, caption="Intervals by t, counting days")


def _labelled(m: Monitoring, pictures: Mapping[str, bytes]) -> list[Markup]:
    if m.labelled is None:
        return [text("No classes have come back for these films (--labels takes them).")]
    rows = [_period(m, period) for period in [*m.periods, m.labelled]]
    header = ["period", "films", m.classes[1], "AUC", "sensitivity", "specificity"]
    before, interval = m.val_auc
    told = "" if math.isnan(before) else f" The AUC on the validation films is {before:.3f} ({_interval(interval)})."
    return [
        picture(pictures["labelled"], alt="scores by week or month"),
        table(header, rows, caption="A film counts once, by its first answer. 95% intervals that count patients"),
        text(f"Threshold {m.threshold:.3f}.{told} Films whose classes come back may be other films than the rest."),
    ]


def _period(m: Monitoring, period: Period) -> tuple[object, ...]:
    scores = (f"{_value(period.scores[name])} ({_interval(period.intervals[name])})" for name in LABELLED)
    return period.name, period.films, period.positive, *scores


def _how() -> Markup:
    return text(
        f"Each of three tests may say that films have changed, at p < {ALPHA:g}: the scores' distribution against the "
        "validation films' (Kolmogorov-Smirnov, by a multiplier bootstrap over days and patients), the share of "
        f"unfamiliar films against {FAMILIAR:.0%} (t), and the AUC, where its interval lies below that of the "
        "validation films.",
        "Films of one day are not independent, so a day counts once, however many films it had; fewer than "
        f"{MIN_DAYS} days say nothing, and few days little. Who looks every day looks often: then one look in "
        "some months finds something that is chance.",
        "Another share of ill films changes the scores, too, though films and model are as they were.",
    )


def _value(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "none"


def _interval(interval: Interval, digits: int = 3) -> str:
    low, high = interval
    return f"{low:.{digits}f} to {high:.{digits}f}" if math.isfinite(low) else "none"


def _share(share: float, interval: Interval) -> tuple[str, str]:
    low, high = interval
    return (
        "none" if math.isnan(share) else f"{share:.1%}",
        "none" if math.isnan(low) else f"{low:.1%} to {high:.1%}",
    )


def _p(p: float) -> str:
    return "none" if math.isnan(p) else f"{p:.4f}"
