"""The tracking store, which may be unreachable: records that it misses are sent later, and sending twice changes
nothing.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from pneumonia.runtime.disk import is_full
from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.secrets import masked, without_secrets
from pneumonia.runtime.signals import delay_signals
from pneumonia.tracking import sync
from pneumonia.tracking.connection import (
    TrackingError,  # also for callers of this module
    reach,
)
from pneumonia.tracking.logged_models import delete_model
from pneumonia.tracking.places import address
from pneumonia.tracking.record import Record, State, records
from pneumonia.tracking.sync import (
    TRAININGS,
    active_run,
    close_run,
    get_or_create_experiment,
    none_if_missing,
    remember,
    sent,
    sent_to,
    unsent,
)
from pneumonia.tracking.system_metrics import Meters
from pneumonia.tracking.tags import DROPPED, RESUMED_BY

LOCK_SECONDS = 60.0  # how long to wait for another process that sends the same record
SAID_LETTERS = 600
RETRY_SECONDS = 20.0  # how long a tracker that did not answer is not asked again
PATIENCE_SECONDS = 60.0  # how long one may be away at a moment when a search cannot go on without it

T = TypeVar("T")


@contextmanager
def tracker_errors(uri: str) -> Iterator[None]:
    """Turns what MLflow raises about its store into a TrackingError of one sentence."""
    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError) as error:
        if is_full(error):
            raise  # this machine's disk, not the store's
        said = shortened(without_secrets(first_line(error)), SAID_LETTERS)
        raise TrackingError(f"MLflow's tracking store {masked(uri)} failed: {said}") from error


@dataclass
class Tracker:
    """A tracking store, and until when it is not asked again after it did not answer."""

    uri: str
    _silent_until: float = 0.0
    _patient: bool = True
    _client: MlflowClient | None = field(default=None, repr=False)
    _meters: Meters = field(default_factory=Meters, repr=False)

    def __reduce__(self) -> tuple[type["Tracker"], tuple[str]]:
        return Tracker, (self.uri,)  # the state of the connection belongs to this process

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            self._client = MlflowClient(self.uri)
        return self._client

    def experiment_id(self, name: str) -> str:
        """The id of the experiment called `name`, made when it is not there.

        Raises:
            TrackingError: the store cannot be reached, or the experiment was deleted.
        """
        reach(self.uri)
        with tracker_errors(self.uri):
            experiment = get_or_create_experiment(self.client, name)
            if experiment.lifecycle_stage != "active":
                raise TrackingError(f"the experiment {name!r} was deleted: restore it, or use another name")
            return str(experiment.experiment_id)

    def experiment_name(self, experiment_id: str) -> str | None:
        """The name of the experiment with this id; None where there is none.

        Raises:
            TrackingError: the store cannot be reached.
        """
        reach(self.uri)
        with tracker_errors(self.uri):
            found = none_if_missing(lambda: self.client.get_experiment(experiment_id))
        return None if found is None else str(found.name)

    def has(self, record: Record) -> bool:
        """Whether a record was sent to this store, also under an earlier address, before its folder was moved."""
        there = sent_to(record)
        return there is not None and (there == masked(self.uri) or address(there) == address(self.uri))

    def send(self, record: Record) -> str:
        """Sends the record to its MLflow run, and returns the run's id.

        Raises:
            TrackingError: the store did not take all of it; the next call sends the rest.
        """
        with tracker_errors(self.uri), FileLock(record.folder / "send.lock", timeout=LOCK_SECONDS):
            if sent_to(record) is not None and not self.has(record):
                raise TrackingError(f"{record.folder} belongs to the tracking store {sent_to(record)}")
            self._measure(record)
            with nullcontext() if self.uri.startswith("http") else delay_signals():
                run_id = sync.send(record, self.client, self.uri)
            self._measure(record)
            return run_id

    def patiently(self, call: Callable[[], T], *, seconds: float = PATIENCE_SECONDS) -> T:
        """Repeats a call, which must be safe to repeat, until the store answers. Who waited in vain does not wait again
        until it has answered.

        Raises:
            TrackingError: it has not for so many seconds.
        """
        end = time.monotonic() + (seconds if self._patient else 0.0)
        while True:
            try:
                reach(self.uri)  # MLflow's client would try for longer
                answer = call()
            except TrackingError:
                if time.monotonic() >= end:
                    self._patient = False
                    raise
                time.sleep(1)
            else:
                self._patient = True
                return answer

    def _measure(self, record: Record) -> None:
        """System metrics, if they are switched on, from a run's first sending until before its last."""
        if "run_id" not in (have := sent(record)):
            return
        if record.status is None:
            self._meters.start(have["run_id"], self.uri)
        else:
            self._meters.stop(have["run_id"])

    def try_send(self, record: Record, *, force: bool = False, seconds: float = 5.0) -> bool:
        """Sends unless the store is away; training goes on either way. True when the run is up to date."""
        if record.status is not None:
            self._measure(record)
        if not force and time.monotonic() < self._silent_until:
            return False
        try:
            reach(self.uri, seconds=seconds)
            self.send(record)
        except TrackingError:
            self._silent_until = time.monotonic() + RETRY_SECONDS
            return False
        return True

    def end(self, record: Record, state: State, reason: str, *, seconds: float = 5.0) -> bool:
        """Ends a run and sends it, as `try_send`. Where the disk is full, the store alone learns the end, and False is
        returned: the record may be open still, and is not wholly sent.
        """
        try:
            record.finish(state, reason)
            self.try_send(record, seconds=seconds)
        except OSError as error:  # DiskFullError, or as it is where the store's files are on this machine
            if not is_full(error):
                raise
            if (run_id := sent(record).get("run_id")) is not None:
                with suppress(TrackingError, OSError), tracker_errors(self.uri):
                    reach(self.uri, seconds=seconds)
                    close_run(self.client, run_id, state, reason, trial=record.run.role in TRAININGS)
            return False
        return True

    def waiting(self, home: Path) -> list[Record]:
        """The records under `home` that have something for this store."""
        return [r for r in records(home / "records") if unsent(r) and (sent_to(r) is None or self.has(r))]

    def sync(self, home: Path) -> tuple[list[Record], list[Record]]:
        """Sends every record under `home` that is not wholly sent: those sent, and those still to be sent."""
        waiting = self.waiting(home)
        done: list[Record] = []
        try:
            if waiting:
                reach(self.uri)
        except TrackingError:
            return [], waiting
        for record in waiting:
            with suppress(TrackingError):
                self.send(record)
                done.append(record)
        return done, [record for record in waiting if record not in done]

    def hand_over(self, experiment_id: str, old: str, new: str) -> None:
        """Tags the run `old` with `resumed_by`, from when on what is sent under it comes under `new` (see `sync.heir`),
        and then moves the runs that are there.
        """
        with tracker_errors(self.uri):
            if (run := active_run(self.client, old)) is not None:
                if run.data.tags.get(RESUMED_BY) is None:
                    self.client.set_tag(old, RESUMED_BY, new)
                if run.info.status != "KILLED":
                    self.client.set_terminated(old, "KILLED")
            for child in self.children(experiment_id, old):
                self.client.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, new)

    def children(self, experiment_id: str, parent: str, *, running: bool = False) -> list[MlflowRun]:
        """The runs under a run, or those of them that have not ended.

        Raises:
            TrackingError: the store cannot be reached.
        """
        words = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"
        words += " and attributes.status = 'RUNNING'" if running else ""
        with tracker_errors(self.uri):
            return list(self.client.search_runs([experiment_id], words, max_results=50_000))

    def save_view(self, experiment_id: str, key: str, value: str) -> None:
        """Adds a saved view to the experiment (see `views`), if the store takes it."""
        with suppress(TrackingError), tracker_errors(self.uri):
            self.client.set_experiment_tag(experiment_id, key, value)

    def known_model(self, model_id: str | None) -> str | None:
        """`model_id`, if this store has such a logged model: metrics can be tied to no other.

        Raises:
            TrackingError: the store cannot be reached.
        """
        if model_id is None:
            return None
        with tracker_errors(self.uri):
            return None if none_if_missing(lambda: self.client.get_logged_model(model_id)) is None else model_id

    def has_model(self, run_id: str) -> bool:
        """Whether a run logged a model that is still there.

        Raises:
            TrackingError: the store cannot be reached.
        """
        with tracker_errors(self.uri):
            run = none_if_missing(lambda: self.client.get_run(run_id))
            if run is None:
                return False
            models = self.client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
            return any(model.status == LoggedModelStatus.READY for model in models)

    def fetch_model(self, run_id: str | None, folder: Path) -> Path | None:
        """Brings the model that a run logged into `folder`; None where the store has none, or is away."""
        if run_id is None:
            return None
        with suppress(TrackingError), tracker_errors(self.uri):
            reach(self.uri)
            if self.has_model(run_id):
                uri = f"runs:/{run_id}/model"
                return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=self.uri))
        return None

    def text_of(self, run_id: str | None, path: str) -> str | None:
        """A run's artifact that is text; None where the store has no such run or file.

        Raises:
            TrackingError: the store cannot be reached.
        """
        if run_id is None:
            return None
        with tracker_errors(self.uri), tempfile.TemporaryDirectory(prefix="pneumonia-artifact-") as scratch:
            there = none_if_missing(lambda: self.client.list_artifacts(run_id, path.rpartition("/")[0] or None))
            if path not in {artifact.path for artifact in there or ()}:
                return None
            return Path(self.client.download_artifacts(run_id, path, scratch)).read_text(encoding="utf-8")

    def drop_model(self, record: Record) -> None:
        """Deletes the record's logged model with its files, so that the disk gets smaller (MLflow only hides it)."""
        have = sent(record)
        if have.get("dropped", True):
            return
        if (model_id := self.known_model(have["model_id"])) is not None:
            with tracker_errors(self.uri):
                delete_model(self.client.get_logged_model(model_id), self.client, self.uri)
                self.client.set_tag(have["run_id"], DROPPED, "deleted")
        remember(record, dropped=True)


@contextmanager
def finished(record: Record, tracker: Tracker) -> Iterator[None]:
    """Sends the record, so that the run is visible while it lasts, ends it when the block ends, and sends it again:
    COMPLETE, INTERRUPTED, or FAIL with the reason.
    """
    try:
        tracker.try_send(record)
        yield
    except KeyboardInterrupt as event:  # Interrupted, or a notebook's stop button
        tracker.end(record, "INTERRUPTED", str(event) or "SIGINT", seconds=1)
        raise
    except Exception as error:
        tracker.end(record, "FAIL", reason_of(error))
        raise
    record.finish("COMPLETE")
    tracker.try_send(record, force=True)


def reason_of(error: Exception) -> str:
    """An error in one line: its kind and what it says, without secrets."""
    return without_secrets(f"{type(error).__name__}: {error}") if str(error) else type(error).__name__


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or MLflow's default store in this folder."""
    return str(mlflow.get_tracking_uri())


def has_old_runs(folder: Path) -> bool:
    """Whether a folder holds experiments of MLflow's file store, which MLflow 3.13 has given up: a folder each, named
    by a number, with a meta.yaml.
    """
    return any(path.parent.name.isdigit() for path in folder.glob("*/meta.yaml"))


def source_tags() -> dict[str, str]:
    """The git commit of this program, when it runs from a checkout of its own."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", here.name
        )  # installed into an environment inside another's checkout it fails
        return {MLFLOW_GIT_COMMIT: git("rev-parse", "HEAD")}
    except (OSError, subprocess.SubprocessError):
        return {}
