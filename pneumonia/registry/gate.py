"""The gate: which of the versions of a registered model is the champion.

Champion and candidate are scored on the same validation films: as they are, with the corruptions of `stress_tests`
and, where opacities tell the classes apart, normal films with a painted opacity, which count as ill. The score is the
mean log loss of the probabilities that a version serves, by film and then over films: a proper score (Good 1952) that
does not saturate where AUC does. It is kept as a tag on the version, `gate.log_loss.<films>`, where <films> identifies
the films.

The rule: of the versions scored on these films, the one with the lowest log loss is the champion, and of equal ones the
earliest. Versions that tell other classes apart do not compete. A version promoted by hand is outdone only by later
versions. A champion whose files cannot be read keeps its place until one is promoted by hand: a disk may be away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pneumonia.metrics.intervals import mean_error
from pneumonia.registry import champions, scoring
from pneumonia.tracking import places
from pneumonia.tracking.connection import reach
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import none_if_missing
from pneumonia.tracking.tags import BY_HAND, CLASSES, LOG_LOSS, UNUSABLE

CHAMPION, CHALLENGER = "champion", "challenger"
TIE = 1e-9  # log losses nearer than this are the same


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which alias a version got, and why, in one line."""

    name: str
    version: str
    alias: str
    reason: str

    def line(self) -> str:
        return f"{self.name} version {self.version} is {self.alias}: {self.reason}"


def decide(
    tracker: Tracker, name: str, version: str, films: scoring.Films, *, floor: np.ndarray | None = None
) -> Verdict:
    """Gives `version` an alias. MLflow has no compare-and-set, so {best by tag, set alias, read again} is repeated
    until it is stable: of two searches that finish at once, the later reader sees both scores.

    Args:
        floor: losses [N] of the films that a first champion must not exceed in the mean: those of the model that it was
            made from.
    """
    client, tag = tracker.client, f"{LOG_LOSS}{films.key}"
    own = _score(client, name, version, films)
    notes = []
    champion = champion_of(client, name)
    if champion is None and floor is not None and own.mean() > floor.mean() + TIE:
        _retry_on_race(client.set_model_version_tag, name, version, UNUSABLE, "true")
        _retry_on_race(client.set_registered_model_alias, name, CHALLENGER, version)
        reason = (
            f"log loss {own.mean():.4f} on {films.words} against {floor.mean():.4f} of the model that it was made from,"
            " which is to be used on"
        )
        return Verdict(name=name, version=version, alias=CHALLENGER, reason=reason)
    if champion is None and floor is not None:
        notes.append(f"the model that it was made from has {floor.mean():.4f}")
    rival: np.ndarray | None = None
    if champion is not None and champion != version:
        other = client.get_model_version(name, champion).tags.get(CLASSES)
        mine = client.get_model_version(name, version).tags.get(CLASSES)
        if other is not None and mine is not None and other != mine:
            _retry_on_race(client.set_registered_model_alias, name, CHALLENGER, version)
            reason = (
                f"it tells {mine} apart, but the champion, version {champion}, {other}: promote it by hand if that is "
                "what you want"
            )
            return Verdict(name=name, version=version, alias=CHALLENGER, reason=reason)
        try:
            rival = _score(client, name, champion, films)
        except scoring.Unreadable as error:
            reach(tracker.uri)  # a store that is away says nothing about the version
            _retry_on_race(client.set_registered_model_alias, name, CHALLENGER, version)
            reason = (
                f"the champion, version {champion}, cannot be read ({gone(tracker, name, champion) or error}), and is "
                f"not replaced automatically: `{by_hand(name, version)}` replaces it"
            )
            return Verdict(name=name, version=version, alias=CHALLENGER, reason=reason)
        except Exception as error:  # a model of another kind raises its own errors
            reach(tracker.uri)
            if scoring.is_local_fault(error):
                raise
            notes.append(f"the previous champion, version {champion}, cannot be scored ({type(error).__name__})")
            _retry_on_race(client.set_model_version_tag, name, champion, UNUSABLE, "true")
    best, moved = version, False
    for _ in range(20):
        best = _best(client, name, tag) or version
        if best not in (version, champion) and (said := gone(tracker, name, best)) is not None:
            notes.append(f"version {best}, which was better, cannot be read ({said})")
            _retry_on_race(client.set_model_version_tag, name, best, UNUSABLE, "true")
            continue
        if champion_of(client, name) != best:
            _retry_on_race(client.set_registered_model_alias, name, CHAMPION, best)
            moved = True
            continue
        if best == (_best(client, name, tag) or version):
            break
    reason = "; ".join([_reason(own, rival, films, champion, version, best), *notes])
    if moved or best == version:
        champions.note(client, name, best, "gate", reason, before=champion)
    if best == version:
        drop_challenger(client, name, version)
        return Verdict(name=name, version=version, alias=CHAMPION, reason=reason)
    _retry_on_race(client.set_registered_model_alias, name, CHALLENGER, version)
    return Verdict(name=name, version=version, alias=CHALLENGER, reason=reason)


def set_aside(tracker: Tracker, name: str, version: str) -> Verdict:
    """Makes a version challenger that nothing can be said of: its films have no labels."""
    _retry_on_race(tracker.client.set_registered_model_alias, name, CHALLENGER, version)
    reason = f"without labels nobody can tell whether it is better: `{by_hand(name, version)}` makes it champion"
    return Verdict(name=name, version=version, alias=CHALLENGER, reason=reason)


def gone(tracker: Tracker, name: str, version: str) -> str | None:
    """Which of a version's files are missing, and how to mend it; None where all are there, or where the store, and so
    perhaps the files, is on another machine.
    """
    location = none_if_missing(lambda: tracker.client.get_model_version_download_uri(name, version))
    if location is None:
        return "the store no longer knows where its files are"
    said = places.missing(location, tracker.uri) if places.on_this_machine(tracker.uri) else None
    return said if said is None or location in said else f"its files were put in {location}, and {said}"


def by_hand(name: str, version: str) -> str:
    """The command that makes a version the champion."""
    return f"pneumonia promote {version}" + ("" if name == "pneumonia" else f" --name {name}")


def drop_challenger(client: MlflowClient, name: str, version: str) -> None:
    """Removes the challenger alias from a version that is now champion."""
    challenger = client.get_registered_model(name).aliases.get(CHALLENGER)
    if challenger is not None and str(challenger) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def _reason(
    own: np.ndarray, rival: np.ndarray | None, films: scoring.Films, champion: str | None, version: str, best: str
) -> str:
    score = f"log loss {own.mean():.4f} on {films.words}"
    if rival is None or champion is None:
        other = "" if best == version else f"; version {best} is better"
        return f"{score}, no champion to beat{other}" if best == version else f"{score}{other}"
    difference = own - rival
    spread = mean_error(difference, films.patients)
    return (
        f"{score} against {rival.mean():.4f} of version {champion} (difference {difference.mean():+.4f} ± {spread:.4f})"
    )


def _score(client: MlflowClient, name: str, version: str, films: scoring.Films) -> np.ndarray:
    values = films.losses(f"models:/{name}/{version}")
    _retry_on_race(client.set_model_version_tag, name, version, f"{LOG_LOSS}{films.key}", repr(float(values.mean())))
    return values


def _retry_on_race(call: Callable[..., None], *arguments: str) -> None:
    """MLflow looks up a tag or alias, then inserts it: of two gates at once the database refuses one, whose second call
    finds it.
    """
    try:
        call(*arguments)
    except MlflowException:
        call(*arguments)


def champion_of(client: MlflowClient, name: str) -> str | None:
    try:
        return str(
            client.get_model_version_by_alias(name, CHAMPION).version
        )  # a number from sqlite, text from a server
    except MlflowException as error:  # no such alias, or it names a version that was deleted
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            raise
        return None


def _best(client: MlflowClient, name: str, tag: str) -> str | None:
    """The version that should be champion, by the tags alone, so that every reader comes to the same one."""
    versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    by_hand = [v for v in versions if BY_HAND in v.tags]
    floor, chosen = 0, None
    if by_hand:
        latest = max(by_hand, key=lambda v: float(v.tags[BY_HAND].split()[1]))
        floor, chosen = int(latest.tags[BY_HAND].split()[0]), str(latest.version)
    scored = [
        v
        for v in versions
        if tag in v.tags and UNUSABLE not in v.tags and (int(v.version) > floor or str(v.version) == chosen)
    ]
    if not scored:
        return None
    lowest = min(float(v.tags[tag]) for v in scored)
    tied = [v for v in scored if float(v.tags[tag]) <= lowest + TIE]
    return str(min(tied, key=lambda v: int(v.version)).version)
