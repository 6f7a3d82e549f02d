"""What can go because the tracking store has it in full, or because better ones are there: records that were sent, and
models of trials beyond the best.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import SQLAlchemyError

from pneumonia.housekeeping.leftovers import DAY_SECONDS, readable_records
from pneumonia.housekeeping.removable import Removable, take_away
from pneumonia.housekeeping.sizes import size_of
from pneumonia.housekeeping.stores import unfinished_studies
from pneumonia.registry.versions import is_waiting
from pneumonia.runs.train import OBJECTIVE
from pneumonia.runtime.signals import identity, is_gone
from pneumonia.search.resume import is_unanswered
from pneumonia.search.storage import StudyError
from pneumonia.tracking import places, tags
from pneumonia.tracking.homes import OLD
from pneumonia.tracking.logged_models import delete_model
from pneumonia.tracking.record import Record, records
from pneumonia.tracking.store import Tracker, tracker_errors
from pneumonia.tracking.sync import active_run, remember, sent, unsent

MOST_RUNS = 50_000  # MLflow's bound on one answer
ENDED = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True)
class Searches:
    """What the store says of the searches: by study, whether the newest search of it is finished."""

    finished: dict[str, bool]

    def is_finished(self, study: str | None) -> bool:
        """Whether the records and models of a study are needed by no search that goes on with it."""
        return study is None or self.finished.get(study, False)


def searches(tracker: Tracker, storages: Sequence[str]) -> Searches:
    """Which studies are finished: by the run of the newest search, and by the study itself where it can be asked.

    Args:
        storages: databases of studies that are known here; a study that one of them holds unfinished is not finished.

    Raises:
        TrackingError: the tracking store cannot be reached.
    """
    newest: dict[str, Run] = {}
    with tracker_errors(tracker.uri):
        experiments = [one.experiment_id for one in tracker.client.search_experiments()]
        found = tracker.client.search_runs(experiments, f"tags.{tags.ROLE} = 'search'", max_results=MOST_RUNS)
        for run in sorted(found, key=lambda run: run.info.start_time):
            if (name := run.data.tags.get(tags.STUDY)) is not None:
                newest[name] = run
    finished = {name: run.info.status == "FINISHED" for name, run in newest.items()}
    for url in storages:
        for name in _unfinished(url, list(finished)):
            finished[name] = False
    return Searches(finished)


def _unfinished(url: str, names: list[str]) -> list[str]:
    """The studies of a database that are not finished; all of `names` where it does not answer."""
    try:
        return unfinished_studies(url)
    except (StudyError, SQLAlchemyError):
        return names


def storages(home: Path) -> list[str]:
    """The databases of studies that a home knows: its own, and those that its searches were given."""
    known = {f"sqlite:///{home / 'study.db'}"} if (home / "study.db").exists() else set()
    for record in readable_records(home)[0]:
        with suppress(OSError, ValueError, AttributeError):  # torn
            if record.run.role == "search" and (url := record.params.get("storage")):
                known.add(str(url))
    return sorted(known)


def sent_records(home: Path, tracker: Tracker, of: Searches, *, days: float) -> Iterator[Removable]:
    """Records that the store has in full and that nothing reads again.

    Args:
        days: after which a record of another machine's process goes, of which nobody here knows whether it lives.

    Raises:
        TrackingError: the tracking store cannot be reached.
    """
    whole, _ = readable_records(home)
    described = _described(whole)
    spare = [record for record in whole if _can_go(record, of, days) and record not in described]
    if home.name == OLD and len(spare) == len(whole):
        spare = spare[:-1]  # without any record it would no longer be known which store the home belongs to
    inside = {folder for record in whole for folder in record.folder.parents}
    for record in spare:
        if record.folder in inside or not tracker.has(record) or not _is_in_store(record, tracker):
            continue

        def still(record: Record = record) -> bool:
            return _can_go(record, of, days) and record not in _described(records(home / "records"))

        why = f"the tracking store has run {sent(record)['run_id']} in full"
        remove = partial(take_away, record, home, still)
        yield Removable("record", str(record.folder), size_of(record.folder), why, remove)


def _can_go(record: Record, of: Searches, days: float) -> bool:
    """Whether all of an ended record was taken by the store, and nothing reads it again, as far as itself tells; False
    for one that cannot be read.
    """
    try:
        return _is_spare(record, of, days) and _is_whole(record)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _is_spare(record: Record, of: Searches, days: float) -> bool:
    run, status, have = record.run, record.status, sent(record)
    if status is None or unsent(record) or have.get("deleted", False) or is_waiting(record):
        return False
    if not of.is_finished(run.tags.get(tags.STUDY)) or is_unanswered(record):
        return False
    if run.owner.get("host") == identity()["host"]:
        return is_gone(run.owner)
    return time.time() - float(status.get("time", time.time() * 1000)) / 1000 > days * DAY_SECONDS


def _is_whole(record: Record) -> bool:
    """Whether what is in the folder is what was noted as sent: parameters, lines of metrics, files and pictures."""
    have = sent(record)
    files = {path.relative_to(record.artifacts).as_posix(): path.stat().st_size
             for path in record.artifacts.rglob("*") if path.is_file() and not path.name.endswith(".part")}  # fmt: skip
    pictures = {path.relative_to(record.images).with_suffix("").as_posix() for path in record.images.rglob("*.png")}
    taken = {name: stamp[0] for name, stamp in have.get("artifacts", {}).items()}
    return (
        record.params.keys() <= set(have.get("params", []))
        and len(record.metrics) == have.get("metrics", 0)
        and files.items() <= taken.items()
        and pictures <= set(have.get("images", []))
    )


def _described(some: Sequence[Record]) -> list[Record]:
    """Evaluations of registered versions of which the newest has still to be written into the version's description:
    without it an older one would be taken for the newest.
    """
    of_version: dict[str, list[Record]] = defaultdict(list)
    for record in some:
        if record.run.role == "evaluate" and (version := record.run.tags.get(tags.VERSION)) is not None:
            of_version[version].append(record)
    return [
        record for all_of_it in of_version.values() if "described" not in sent(all_of_it[-1]) for record in all_of_it
    ]


def _is_in_store(record: Record, tracker: Tracker) -> bool:
    """Whether the run is in the store, ended, with its files where the store expects them."""
    with tracker_errors(tracker.uri):
        run = active_run(tracker.client, sent(record)["run_id"])
    if run is None or run.info.status not in ENDED:
        return False
    return not sent(record).get("artifacts") or places.missing(run.info.artifact_uri, tracker.uri) is None


def spare_models(tracker: Tracker, of: Searches, keep: int, home: Path | None) -> Iterator[Removable]:
    """Models of trials of finished studies beyond the `keep` best of each; never one that is registered, was scored on
    test films, or was adapted to another place.

    Args:
        keep: at least 1.
        home: where records of these trials may be, which then learn that their model is gone.

    Raises:
        TrackingError: the tracking store cannot be reached.
    """
    here = {} if home is None else {sent(record).get("run_id"): record for record in readable_records(home)[0]}
    with tracker_errors(tracker.uri):
        needed = _needed(tracker)
        for experiment in tracker.client.search_experiments():
            trials = tracker.client.search_runs(
                [experiment.experiment_id], f"tags.{tags.ROLE} = 'trial'", max_results=MOST_RUNS
            )
            by_study: dict[str, list[Run]] = defaultdict(list)
            for run in trials:
                by_study[run.data.tags.get(tags.STUDY, "")].append(run)
            for study, runs in sorted(by_study.items()):
                if study and of.is_finished(study):
                    for run in _beyond(runs, keep):
                        for model in _models(run, tracker):
                            if model.model_id not in needed and run.info.run_id not in needed:
                                yield _model(model, run, tracker, here.get(run.info.run_id), keep)


def _beyond(runs: Sequence[Run], keep: int) -> list[Run]:
    """The done trials after the `keep` best, as the search ranks them."""
    done = [run for run in runs if run.info.status in ENDED and OBJECTIVE in run.data.metrics]
    done = [run for run in done if run.data.tags.get(tags.TRIAL_STATE) in ("COMPLETE", "PRUNED")]

    def rank(run: Run) -> tuple[float, int]:
        return float(run.data.metrics[OBJECTIVE]), int(run.data.tags.get(tags.TRIAL_NUMBER, 0))

    return sorted(done, key=rank)[keep:]


def _models(run: Run, tracker: Tracker) -> list[LoggedModel]:
    asked = [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    return [one for one in tracker.client.search_logged_models(*asked) if one.status == LoggedModelStatus.READY]


def _needed(tracker: Tracker) -> set[str]:
    """Ids of the models, and of the runs, that something in the store refers to."""
    needed = set[str]()
    for version in tracker.client.search_model_versions(max_results=10_000):
        needed |= {version.run_id or "", version.model_id or "", (version.source or "").removeprefix("models:/")}
    experiments = [one.experiment_id for one in tracker.client.search_experiments()]
    for role in ("evaluate", "adapt"):
        for run in tracker.client.search_runs(experiments, f"tags.{tags.ROLE} = '{role}'", max_results=MOST_RUNS):
            for name in (tags.MODEL, tags.PARENT, tags.PARENT_RUN):
                uri = run.data.tags.get(name, "")
                needed |= {uri, uri.removeprefix("models:/"), uri.removeprefix("runs:/").partition("/")[0]}
    return needed - {""}


def _model(model: LoggedModel, run: Run, tracker: Tracker, record: Record | None, keep: int) -> Removable:
    def remove() -> bool:
        with tracker_errors(tracker.uri):
            if model.model_id in _needed(tracker):
                return False
            delete_model(model, tracker.client, tracker.uri)
            tracker.client.set_tag(run.info.run_id, tags.DROPPED, "deleted")
        if record is not None and record.folder.exists():
            remember(record, dropped=True)
        return True

    name = run.data.tags.get("mlflow.runName", run.info.run_id)
    why = f"{name} of study {run.data.tags[tags.STUDY]} is not among its {keep} best"
    return Removable("model", f"models:/{model.model_id}", _bytes(model, tracker), why, remove)


def _bytes(model: LoggedModel, tracker: Tracker) -> int:
    """The size of a model's files; what the store does not tell counts as nothing."""
    if (here := places.local(model.artifact_location)) is not None:
        return size_of(here)
    repository = get_artifact_repository(model.artifact_location, tracking_uri=tracker.uri)

    def below(path: str | None) -> int:
        total = 0
        for one in repository.list_artifacts(path):
            total += below(one.path) if one.is_dir else int(one.file_size or 0)
        return total

    return below(None)
