"""Which versions of a model have been champion: since when, by whom, and why.

An alias has no history in MLflow. So whoever moves it writes a tag on the version that it goes to,
`champion.since.<milliseconds>`, which nobody writes again. Of champions before there were such tags the store may know
the time (a promotion by hand), or only that one is champion today.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pneumonia.tracking.sync import user
from pneumonia.tracking.tags import BY_HAND, CHAMPION_SINCE

How = Literal["gate", "hand", "back", "unknown"]
HOW = {"gate": "by the gate", "hand": "by hand", "back": "back, by hand", "unknown": "not known how"}


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A version that became champion."""

    version: str
    since: float | None = None  # seconds since 1970; None where that is not known
    how: How = "unknown"
    who: str = ""
    why: str = ""
    before: str | None = None  # the version that was champion until then; None where there was none, or it is not known

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "since": None if self.since is None else _written(self.since)}

    def line(self) -> str:
        when = "time not known      " if self.since is None else _written(self.since)
        who = f" ({self.who})" if self.who else ""
        return f"{when}  version {self.version:<4}{HOW[self.how]}{who}{f': {self.why}' if self.why else ''}"


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def note(client: MlflowClient, name: str, version: str, how: How, why: str, *, before: str | None) -> None:
    """Notes that `version` has become champion.

    Args:
        before: the version that was champion until now. Where that is `version` itself, as in a registration that broke
            off and is gone through again, it is noted only if that was missed.
    """
    if before == version:
        noted = _noted(_versions(client, name))
        if noted and noted[-1].version == version:
            return
        before = None
    said = {"how": how, "who": user(), "why": why, **({} if before is None else {"before": before})}
    client.set_model_version_tag(name, version, f"{CHAMPION_SINCE}{time.time() * 1000:.0f}", json.dumps(said))


def history(client: MlflowClient, name: str, champion: str | None) -> list[Champion]:
    """All that is known of a model's champions, the earliest first. Where the alias was moved by other programs, only
    that it was.

    Args:
        champion: the version that is champion now.
    """
    versions = _versions(client, name)
    noted = _noted(versions)
    by_hand = {one.version for one in noted if one.how in ("hand", "back")}
    earlier = [
        Champion(version=str(version.version), since=float(version.tags[BY_HAND].split()[1]), how="hand")
        for version in versions
        if BY_HAND in version.tags and str(version.version) not in by_hand
    ]
    found: list[Champion] = []
    for one in sorted([*noted, *earlier], key=_when):
        if one.before is not None and (not found or found[-1].version != one.before):
            found.append(Champion(version=one.before))
        found.append(one)
    if champion is not None and (not found or found[-1].version != champion):
        found.append(Champion(version=champion))
    return found


def one_before(champions: Sequence[Champion]) -> str | None:
    """The version to go back to from the last of `champions`: the one whose place it took. Going back twice leads to
    the one before that, and not to where one came from. None where none is known.
    """
    line: list[str] = []
    for champion in champions:
        if champion.how == "back" and champion.version in line:
            del line[line.index(champion.version) + 1 :]
        else:
            line = [*(version for version in line if version != champion.version), champion.version]
    return line[-2] if len(line) > 1 else None


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'", max_results=10_000))


def _noted(versions: Sequence[ModelVersion]) -> list[Champion]:
    keys = {field.name for field in fields(Champion)} - {"version", "since"}
    found = []
    for version in versions:
        for key, value in version.tags.items():
            if key.startswith(CHAMPION_SINCE):
                said = {name: text for name, text in json.loads(value).items() if name in keys}
                since = int(key.removeprefix(CHAMPION_SINCE)) / 1000
                found.append(Champion(version=str(version.version), since=since, **said))
    return sorted(found, key=_when)


def _when(champion: Champion) -> float:
    return champion.since or 0.0
