"""The registered model: its versions, their descriptions, and promotion by hand."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from pneumonia.registry import champions, gate
from pneumonia.registry.champions import Champion
from pneumonia.registry.gate import (
    CHALLENGER,
    CHAMPION,
    Verdict,
    by_hand,
    champion_of,
    drop_challenger,
    gone,
)
from pneumonia.registry.held_out import HeldOut, held_out
from pneumonia.registry.scoring import FilmGone, Films, validation
from pneumonia.reports import model_card
from pneumonia.tracking.fetched_record import complete_runs
from pneumonia.tracking.record import CARD, HELD_OUT_PREDICTIONS, Record, records
from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.sync import active_run, close_run, none_if_missing, remember, sent, unsent
from pneumonia.tracking.tags import BEST_TRIAL, BEST_TRIALS, BY_HAND, RECORD, ROLE, STUDY_KEY, UNUSABLE, VERSION

SUPERSEDED = "another machine trained the final model of this search, and registered it"


class RegistryError(RuntimeError):
    """A version cannot be found or promoted; the sentence says why."""


def enter(tracker: Tracker, record: Record) -> Verdict:
    """Registers the record's model, unless an earlier call did, and takes it through the gate.

    A search has one version, whatever machines it ran on. Where another machine registered another final training of
    it, the verdict is of that version, this model is not registered, and its run is KILLED.

    Raises:
        TrackingError: the store did not answer; the same call goes on from where this one stopped.
        FilmGone: a validation film is no longer there or cannot be read; nothing was registered, or, where it went
            while models were scored, a version whose alias the same call decides later.
    """
    name, have = record.run.register, sent(record)
    assert name is not None
    local: HeldOut | None = None
    films: Films | None = None
    if record.run.role != "adapt":
        films = validation(record)
    elif (record.artifacts / HELD_OUT_PREDICTIONS).exists():
        local = films = held_out(tracker, record)
    if (other := supersede(tracker, record)) is not None:
        with tracker_errors(tracker.uri):
            alias = CHAMPION if champion_of(tracker.client, name) == other else CHALLENGER
        return Verdict(name=name, version=other, alias=alias, reason=SUPERSEDED)
    with tracker_errors(tracker.uri):
        version = have.get("version") or _register(tracker.client, name, record)
        link = json.dumps([{"name": name, "version": version}])  # on the model's page in the UI
        tracker.client.set_logged_model_tags(have["model_id"], {MLFLOW_MODEL_VERSIONS: link})
        remember(record, version=version)
        _end_others(tracker, record)
        if films is None:
            verdict = gate.set_aside(tracker, name, version)
        else:
            verdict = gate.decide(tracker, name, version, films, floor=None if local is None else local.floor)
        remember(record, verdict=asdict(verdict))
    return verdict


def supersede(tracker: Tracker, record: Record) -> str | None:
    """The version that another final training of the same search became, whose run is then the one that is FINISHED:
    the record's ends as KILLED.

    Raises:
        TrackingError: the store did not answer.
    """
    name = record.run.register
    assert name is not None
    with tracker_errors(tracker.uri):
        if (other := _of_same_search(tracker.client, name, record)) is not None:
            if active_run(tracker.client, run_id := sent(record)["run_id"]) is not None:
                close_run(tracker.client, run_id, "INTERRUPTED", SUPERSEDED)
            remember(record, superseded=other)
    return other


def catch_up(tracker: Tracker, home: Path) -> tuple[list[Verdict], list[str]]:
    """Registers the models under `home` that wait for it since the tracker was away, and adds test scores to
    descriptions that lack them.

    Returns a verdict for each model, and a line for each that cannot be registered.
    """
    here = [r for r in records(home / "records") if tracker.has(r)]
    waiting = [r for r in here if is_waiting(r)]
    verdicts, missed = [], []
    for record in waiting:
        try:
            verdicts.append(enter(tracker, record))
        except FilmGone as error:  # the others can still be registered
            missed.append(f"{record.folder}: {error}")
    ended = [r for r in here if r.run.role == "evaluate" and not unsent(r)]
    newest = {record.run.tags.get(VERSION): record for record in ended}  # of each version
    for record in newest.values():
        if "described" not in sent(record):
            describe(tracker, record)
    return verdicts, missed


def is_waiting(record: Record) -> bool:
    """Whether the record's model is to be registered, can be, and has not been."""
    have, status = sent(record), record.status
    complete = status is not None and status["state"] == "COMPLETE"
    decided = "verdict" in have or "superseded" in have
    return complete and record.run.register is not None and "model_id" in have and not decided


def _register(client: MlflowClient, name: str, record: Record) -> str:
    have, tags = sent(record), record.run.tags
    try:
        client.create_registered_model(name, description="Pneumonia on chest X-rays. Research, not a medical device.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if there := _made_of(client, name, record):
        return there[0]
    made = client.create_model_version(
        name,
        source=f"models:/{have['model_id']}",
        run_id=have["run_id"],
        model_id=have["model_id"],
        description=_describe(record),
        tags={**tags, RECORD: record.run.key, ROLE: record.run.role},
    )
    first = _made_of(client, name, record)[0]
    if first != str(made.version):  # two machines went on with it at once: the registry refuses no second version
        client.delete_model_version(name, str(made.version))
    return first


def _made_of(client: MlflowClient, name: str, record: Record) -> list[str]:
    """The versions that were made of a record, the first one first."""
    versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return sorted((str(v.version) for v in versions if v.tags.get(RECORD) == record.run.key), key=int)


def _search_of(record: Record) -> dict[str, str]:
    """The tags that final trainings of the same best trials share."""
    tags = record.run.tags
    return {name: tags[name] for name in (STUDY_KEY, BEST_TRIAL, BEST_TRIALS) if name in tags}


def _end_others(tracker: Tracker, record: Record) -> None:
    """Ends the runs of other final trainings of the same search as KILLED, now that the record's has a version."""
    same = _search_of(record)
    if STUDY_KEY not in same:
        return
    for run in complete_runs(tracker, record.run.experiment, record.run.role, same[STUDY_KEY]):
        if run.info.run_id != sent(record)["run_id"] and same.items() <= run.data.tags.items():
            close_run(tracker.client, run.info.run_id, "INTERRUPTED", SUPERSEDED)


def _of_same_search(client: MlflowClient, name: str, record: Record) -> str | None:
    """The version, if there is one, that another final training of the same best trials became."""
    same = _search_of(record)
    if STUDY_KEY not in same or _made_of(client, name, record):
        return None
    versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    others = [str(v.version) for v in versions if same.items() <= v.tags.items()]
    return min(others, key=int, default=None)


def _describe(record: Record) -> str:
    whole = record.artifacts / CARD
    if not whole.exists():
        return record.run.description[: model_card.DESCRIPTION_LENGTH]
    more = f"{CARD} among the artifacts of run {sent(record)['run_id']}"
    return model_card.summary(whole.read_text(encoding="utf-8"), more=more)


def describe(tracker: Tracker, record: Record) -> None:
    """Adds the test scores of an evaluation to the description of the version that it evaluated, if any."""
    version = record.run.tags.get(VERSION)
    if version is None or not (record.artifacts / CARD).exists():
        return
    name, _, number = version.rpartition("/")
    with tracker_errors(tracker.uri):
        # None if the version was deleted.
        none_if_missing(lambda: tracker.client.update_model_version(name, number, _describe(record)))
    remember(record, described=True)


def version_of(tracker: Tracker, uri: str, model_id: str | None) -> ModelVersion | None:
    """The registered version that a model is; None where it is none."""
    client, (name, _, alias) = tracker.client, uri.removeprefix("models:/").partition("@")
    with tracker_errors(tracker.uri):
        if uri.startswith("models:/") and alias:
            return client.get_model_version_by_alias(name, alias)
        name, _, number = name.partition("/")
        if uri.startswith("models:/") and number.isdigit():
            return client.get_model_version(name, number)
        versions = client.search_model_versions(max_results=10_000) if model_id else []
        return next((v for v in versions if v.source == f"models:/{model_id}"), None)  # v.model_id is None from sqlite


def champion_gone(tracker: Tracker, name: str) -> str | None:
    """A sentence on a champion whose files are missing, and what that means; None where all is well."""
    with tracker_errors(tracker.uri):
        champion = champion_of(tracker.client, name)
        said = None if champion is None else gone(tracker, name, champion)
    if said is None:
        return None
    return (
        f"the champion, {name} version {champion}, cannot be read: {said}. A model that is registered meanwhile "
        f"becomes challenger, not champion, unless you promote it (`{by_hand(name, 'VERSION')}`)"
    )


def promote(tracker: Tracker, name: str, version: str, *, why: str = "", back: bool = False) -> str:
    """Makes `version` the champion whatever its score; only later versions can outdo it. Returns what was done.

    Args:
        why: the reason, for the history.
        back: whether it was champion before (see `before`).

    Raises:
        RegistryError: there is no such model or version, or its files are gone.
    """
    client = tracker.client
    with tracker_errors(tracker.uri):
        try:
            tags = client.get_model_version(name, version).tags
        except MlflowException as error:
            there = [str(v.version) for v in client.search_model_versions(f"name = '{name}'")]
            listed = ", ".join(sorted(there, key=int)) or "none"
            raise RegistryError(f"{name} has no version {version}; versions there: {listed}") from error
        if (said := gone(tracker, name, version)) is not None:
            raise RegistryError(f"{name} version {version} cannot be promoted: {said}")
        was = champion_of(client, name)
        newest = max(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
        client.set_model_version_tag(name, version, BY_HAND, f"{newest} {time.time():.3f}")
        if UNUSABLE in tags:
            client.delete_model_version_tag(name, version, UNUSABLE)
        client.set_registered_model_alias(name, CHAMPION, version)
        taken_from = None if was == version else was
        champions.note(client, name, version, "back" if back else "hand", why, before=taken_from)
        drop_challenger(client, name, version)
    words = "there was none" if was is None else f"it was version {was}"
    return f"{name} version {version} is champion by hand ({words})"


def history(tracker: Tracker, name: str) -> list[Champion]:
    """The champions of a model, the earliest first (see `champions.history`).

    Raises:
        RegistryError: there is no such model.
        TrackingError: the store cannot be reached.
    """
    with tracker_errors(tracker.uri):
        if none_if_missing(lambda: tracker.client.get_registered_model(name)) is None:
            raise RegistryError(f"there is no registered model {name}")
        return champions.history(tracker.client, name, champion_of(tracker.client, name))


def before(tracker: Tracker, name: str) -> str:
    """The version that was champion before the present one, and is still there.

    Raises:
        RegistryError: there is no such model, or no such version is known.
        TrackingError: the store cannot be reached.
    """
    known = history(tracker, name)
    with tracker_errors(tracker.uri):
        there = {str(v.version) for v in tracker.client.search_model_versions(f"name = '{name}'", max_results=10_000)}
    version = champions.one_before([champion for champion in known if champion.version in there])
    if version is None:
        now = f"before version {known[-1].version}" if known else "at all"
        raise RegistryError(f"no champion of {name} {now} is known: `{by_hand(name, 'VERSION')}` names one")
    return version
