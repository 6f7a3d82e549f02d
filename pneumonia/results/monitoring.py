"""What a served version was asked and answered, beside the validation films that it was chosen by."""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.metrics.drift import MIN_DAYS, Drift, Reference, drift, excess, mean_of_days
from pneumonia.metrics.intervals import Interval, in_words, intervals
from pneumonia.metrics.logistic import logit, sigmoid
from pneumonia.metrics.scores import number, score
from pneumonia.results.evaluation import score_dict
from pneumonia.served import FAMILIAR

ALPHA = 0.01  # of each of the tests that say that films have changed: a cron job asks often
LABELLED = ("auc", "sensitivity", "specificity")
WEEKLY = 50  # labelled films of a usual week from which on scores are by weeks, else by months


@dataclass(frozen=True)
class Period:
    """The labelled films of one week or month, with scores NaN where a class is missing."""

    name: str
    films: int
    positive: int
    scores: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Version:
    """What answers are looked at against.

    Attributes:
        model: as it is called.
        val: the validation predictions (path, patient, label, probability) of its run; None where it has none.
    """

    model: str
    classes: tuple[str, str]
    threshold: float
    val: pd.DataFrame | None


@dataclass(frozen=True)
class Monitoring:
    """The answers of one version.

    Attributes:
        model: as it is called.
        answers: rows of `serving.answers.Answers.table` of this version.
        days: a row a day (index: datetime64, UTC) with `answers`, `refused`, and of the scored films `positive`,
            `unfamiliar` (shares, NaN where not said) and `mean_logit`.
        others: how many answers of other versions the log holds.
        unread: lines that are no answers.
        val: the validation films' logits, labels and patients; None where its run has none.
        drift: None without `val`, or where no film was scored.
        labelled: of all labelled films; None where there are none. `periods` has the same by weeks or months.
        any_share: another share of positives is no change.
    """

    model: str
    classes: tuple[str, str]
    threshold: float
    answers: pd.DataFrame
    days: pd.DataFrame
    others: dict[str, int]
    unread: int
    val: Reference | None
    drift: Drift | None
    labelled: Period | None
    periods: list[Period]
    any_share: bool = False

    @cached_property
    def scored(self) -> pd.DataFrame:
        return self.answers[self.answers["error"] == ""]

    @cached_property
    def refusals(self) -> dict[str, int]:
        """How many records or requests were refused, by kind, the commonest first."""
        return dict(Counter(self.answers["error"][self.answers["error"] != ""]).most_common())

    @cached_property
    def positive(self) -> tuple[float, Interval]:
        """The share of scored films that were called positive."""
        return _mean(self.scored["label"] == self.classes[1], self.scored)

    @cached_property
    def unfamiliar(self) -> tuple[float, Interval]:
        """The share of films that were not familiar, of those of which the model says; (NaN, ...) if of none."""
        known = self.scored[self.scored["familiar"].notna()]
        return _mean(1 - known["familiar"], known)

    @cached_property
    def val_auc(self) -> tuple[float, Interval]:
        """The AUC on the validation films."""
        if self.val is None:
            return math.nan, (math.nan, math.nan)
        of_val = _period(
            "val", self.val.labels, sigmoid(self.val.logits), np.asarray(self.val.patients), self.threshold
        )
        return of_val.scores["auc"], of_val.intervals["auc"]

    @cached_property
    def changes(self) -> list[str]:
        """In what the films have changed, a clause each; empty where no test says that they have."""
        found = []
        if self.drift is not None:
            p = self.drift.rest_p if self.any_share else self.drift.p
            if p < ALPHA:
                explained = (
                    f"{self.drift.share:.0%} of {self.classes[1]} would explain it"
                    if self.drift.rest_p >= ALPHA
                    else f"no share of {self.classes[1]} explains it"
                )
                direction = "higher" if self.drift.shift > 0 else "lower"
                found.append(
                    f"scores are {direction} or spread otherwise than on the validation films (distance "
                    f"{self.drift.distance:.2f}, p {_p(self.drift.p)} by {self.drift.days} days; {explained})"
                )
        share, (low, high) = self.unfamiliar
        known = self.scored[self.scored["familiar"].notna()]
        if len(known) and excess(1 - known["familiar"], _days(known), FAMILIAR) < ALPHA:
            found.append(f"{share:.1%} of the films are unfamiliar ({low:.1%} to {high:.1%}; {FAMILIAR:.0%} were)")
        if self.labelled is not None:
            auc, (_, high) = self.labelled.scores["auc"], self.labelled.intervals["auc"]
            before, (least, _) = self.val_auc
            if high < least:
                found.append(f"AUC is {auc:.3f} on {self.labelled.films:,} labelled films (it was {before:.3f})")
        return found

    def sentence(self) -> str:
        """What has changed, in one sentence."""
        days = len(self.days)
        if self.changes:
            return f"{self.model} is asked about other films than it was validated on: {'; '.join(self.changes)}"
        if len(np.unique(_days(self.scored))) < MIN_DAYS:
            return f"{self.model} has answered on {days} days, too few to tell whether its films have changed"
        if self.drift is None:
            return (
                f"{self.model} has no validation films to compare with; nothing else says that its films have changed"
            )
        return f"nothing says that the films of {self.model} have changed ({len(self.answers):,} answers, {days} days)"

    def named(self) -> dict[str, float]:
        """As metrics of a run; what has no meaning is left out."""
        named = {
            "served/answers": float(len(self.answers)),
            "served/refused": float(len(self.answers) - len(self.scored)),
            "served/days": float(len(self.days)),
            "served/changes": float(len(self.changes)),
            **_named("served/positive", *self.positive),
            **_named("served/unfamiliar", *self.unfamiliar),
        }
        if self.drift is not None:
            named |= {
                "served/score_distance": self.drift.distance,
                "served/score_p": self.drift.p,
                **_named("served/score_shift", self.drift.shift, self.drift.shift_interval),
                "served/share_that_fits": self.drift.share,
                "served/score_distance_at_that_share": self.drift.rest,
                "served/score_p_at_that_share": self.drift.rest_p,
            }
        if self.labelled is not None:
            named["served/labelled"] = float(self.labelled.films)
            for name in LABELLED:
                named |= _named(f"served/{name}", self.labelled.scores[name], self.labelled.intervals[name])
        return {name: value for name, value in named.items() if math.isfinite(value)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "changed": bool(self.changes),
            "sentence": self.sentence(),
            "answers": len(self.answers),
            "of_other_versions": self.others,
            "lines_unread": self.unread,
            "refusals": self.refusals,
            "threshold": self.threshold,
            "classes": list(self.classes),
            "positive": score_dict(*self.positive),
            "unfamiliar": score_dict(*self.unfamiliar),
            "drift": None
            if self.drift is None
            else {
                "days": self.drift.days,
                "distance": self.drift.distance,
                "p": number(self.drift.p),
                "shift_of_the_mean_logit": score_dict(self.drift.shift, self.drift.shift_interval),
                "share_that_fits": self.drift.share,
                "distance_at_that_share": self.drift.rest,
                "p_at_that_share": number(self.drift.rest_p),
            },
            "labelled": None if self.labelled is None else _period_dict(self.labelled),
            "periods": [_period_dict(period) for period in self.periods],
            "days": [
                {"day": f"{day:%Y-%m-%d}", **{name: number(value) for name, value in row.items()}}
                for day, row in self.days.to_dict(orient="index").items()
            ],
        }

    def text(self) -> str:
        """For a terminal."""
        lines = [self.sentence() + ".", ""]
        rows: list[tuple[str, str]] = [
            ("answers", f"{len(self.answers):,} on {len(self.days)} days"),
            ("refused", ", ".join(f"{kind} {count:,}" for kind, count in self.refusals.items()) or "none"),
            (f"called {self.classes[1]}", _share(*self.positive)),
            ("unfamiliar", _share(*self.unfamiliar)),
        ]
        if self.drift is not None:
            rows += [
                ("scores against val", f"distance {self.drift.distance:.3f}, p {_p(self.drift.p)}"),
                (
                    "  at the share that fits",
                    f"{self.drift.share:.0%} {self.classes[1]}: distance {self.drift.rest:.3f}, "
                    f"p {_p(self.drift.rest_p)}",
                ),
            ]
        if self.labelled is not None:
            rows += [
                (
                    name if name != "auc" else "AUC",
                    in_words(self.labelled.scores[name], self.labelled.intervals[name]),
                )
                for name in LABELLED
            ]
            rows.append(("of labelled films", f"{self.labelled.films:,}, {self.labelled.positive:,} {self.classes[1]}"))
        if self.others:
            rows.append(("of other versions", ", ".join(f"{name} {count:,}" for name, count in self.others.items())))
        if self.unread:
            rows.append(("lines that are no answers", f"{self.unread:,}"))
        return "\n".join(lines + [f"{name:<26}{said}" for name, said in rows])


def monitor(
    answers: pd.DataFrame,
    version: Version,
    *,
    labels: pd.DataFrame | None = None,
    others: dict[str, int] | None = None,
    unread: int = 0,
    any_share: bool = False,
) -> Monitoring:
    """Looks at the answers of one version.

    Args:
        answers: rows of `serving.answers.Answers.table`, at least one.
        labels: as `serving.answers.labels` returns it.
    """
    scored = answers[answers["error"] == ""]
    reference = None
    val, positive = version.val, version.classes[1]
    if val is not None and val["label"].nunique() == 2:
        is_ill = (val["label"] == positive).to_numpy().astype(int)
        reference = Reference(logit(val["probability"].to_numpy()), is_ill, val["patient"].to_numpy())
    found = (
        drift(logit(scored["probability"].to_numpy()), _days(scored), reference)
        if reference is not None and len(scored)
        else None
    )
    whole, periods = _labelled(scored, labels, version.threshold)
    return Monitoring(
        model=version.model,
        classes=version.classes,
        threshold=version.threshold,
        answers=answers,
        days=_by_day(answers, positive),
        others=others or {},
        unread=unread,
        val=reference,
        drift=found,
        labelled=whole,
        periods=periods,
        any_share=any_share,
    )


def _by_day(answers: pd.DataFrame, positive: str) -> pd.DataFrame:
    scored = answers["error"] == ""
    with np.errstate(invalid="ignore"):
        told = pd.DataFrame(
            {
                "day": answers["time"].dt.floor("D"),
                "refused": ~scored,
                "positive": (answers["label"] == positive).astype(float).where(scored),
                "unfamiliar": 1 - answers["familiar"],
                "mean_logit": logit(answers["probability"].to_numpy()),
            }
        )
    grouped = told.groupby("day")
    counts = pd.DataFrame({"answers": grouped.size(), "refused": grouped["refused"].sum().astype(int)})
    return counts.join(grouped[["positive", "unfamiliar", "mean_logit"]].mean())


def _labelled(
    scored: pd.DataFrame, labels: pd.DataFrame | None, threshold: float
) -> tuple[Period | None, list[Period]]:
    """The labelled films, each by its first answer, in all and by weeks or months."""
    if labels is None:
        return None, []
    first = scored.drop_duplicates("sha256").drop(columns="label").merge(labels, on="sha256")
    if first.empty:
        return None, []
    local = first["time"].dt.tz_localize(None)
    weeks = local.dt.strftime("%G-W%V")
    names = weeks if weeks.value_counts().median() >= WEEKLY else local.dt.strftime("%Y-%m")

    def of(name: str, part: pd.DataFrame) -> Period:
        label, p, patient = (part[column].to_numpy() for column in ("label", "probability", "patient"))
        return _period(name, label, p, patient, threshold)

    return of("all", first), [of(str(name), part) for name, part in first.groupby(names)]


def _period(name: str, labels: np.ndarray, p: np.ndarray, patients: np.ndarray, threshold: float) -> Period:
    scores = score(labels, p, threshold)
    bounds = intervals(labels, p, threshold, patients=patients, draws=2)  # none of these is bootstrapped
    return Period(
        name,
        len(labels),
        int(labels.sum()),
        {key: scores[key] for key in LABELLED},
        {key: bounds[key] for key in LABELLED},
    )


def _days(table: pd.DataFrame) -> np.ndarray:
    return np.asarray(table["time"].dt.strftime("%Y-%m-%d"))


def _mean(values: pd.Series, table: pd.DataFrame) -> tuple[float, Interval]:
    if table.empty:
        return math.nan, (math.nan, math.nan)
    share, (low, high) = mean_of_days(values.to_numpy(dtype=float), _days(table))
    return share, (float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1)))


def _named(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _period_dict(period: Period) -> dict[str, Any]:
    scores = {name: score_dict(period.scores[name], period.intervals[name]) for name in LABELLED}
    return {"period": period.name, "films": period.films, "positive": period.positive, **scores}


def _p(p: float) -> str:
    return "unknown" if math.isnan(p) else "below 0.001" if p < 0.001 else f"{p:.3f}"


def _share(share: float, interval: Interval) -> str:
    low, high = interval
    if math.isnan(share):
        return "not said"
    return f"{share:.1%}" + ("" if math.isnan(low) else f" ({low:.1%} to {high:.1%})")
