"""Where the command line meets the world: signals, errors, the environment, and the films that `data` names.

Everything heavy is imported by the function that needs it.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from pneumonia.data.index import Index
    from pneumonia.runs.context import RunContext
    from pneumonia.tracking.record import Record
    from pneumonia.tracking.store import Tracker

BAD_INPUT, FAILED = 2, 1  # exit codes


@contextmanager
def boundary(*, resumes: bool = False) -> Iterator[None]:
    """Signals are caught, and errors become one sentence and an exit code; `resumes`: the command goes on where it
    was stopped when it is typed again.
    """
    from pneumonia.runtime.stop import Interrupted, Stop, follow_mlflow_run
    from pneumonia.runtime.working_folder import go_there

    stop = Stop()
    stop.raise_on_signals()
    adopted = os.environ.get("MLFLOW_RUN_ID")
    if adopted is not None:
        follow_mlflow_run()
        go_there()
    try:
        yield
    except Interrupted as event:
        click.echo(f"stopped by {event}" + ("; the same command goes on from here" if resumes else ""), err=True)
        code = 128 + event.signum
        if adopted is not None:
            close_adopted(adopted, str(event))
    except (ValueError, FileNotFoundError) as error:  # DataError and FilmError are ValueErrors
        click.echo(f"error: {error}", err=True)
        code = BAD_INPUT
    except (RuntimeError, ArithmeticError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        code = FAILED
    else:
        return
    sys.exit(code)


def close_adopted(run_id: str, reason: str) -> None:
    """Ends the run that `mlflow run` made as KILLED, whether or not a record took it over before the stop."""
    from pneumonia.runtime.stop import end_mlflow_run
    from pneumonia.tracking.connection import TrackingError, reach
    from pneumonia.tracking.store import Tracker, default_uri, tracker_errors
    from pneumonia.tracking.sync import close_run

    tracker = Tracker(default_uri())
    with suppress(TrackingError), tracker_errors(tracker.uri):  # a server that is away gets it from the record, later
        reach(tracker.uri, seconds=1)
        close_run(tracker.client, run_id, "INTERRUPTED", reason, trial=False)
    end_mlflow_run()


def quiet() -> None:
    """Libraries' warnings, which name files and lines of theirs, are kept from who types a command; -W and
    PYTHONWARNINGS have the last word, and the environment takes it to the processes that this one starts.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what it makes of a file is said by who asked it


def mlflow_defaults() -> None:
    """How MLflow should behave in a process of ours, unless the environment says otherwise."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away costs 5 s, not 247
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a uv.lock in this folder is not the model's
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # three files at a time are no progress
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # its INFO and WARNING lines tear the progress bars
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


def home() -> Path:
    """PNEUMONIA_HOME, or the folder for the tracking store among the user's data (see `homes`)."""
    from pneumonia.runtime.working_folder import located
    from pneumonia.tracking import homes
    from pneumonia.tracking.store import default_uri

    given = os.environ.get("PNEUMONIA_HOME")
    return Path(located(given)).absolute() if given else homes.of(default_uri())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(line: str) -> None:
    click.echo(line, err=True)


def store() -> "Tracker":
    """The tracking store that MLFLOW_TRACKING_URI names, or MLflow's default in this folder."""
    from pneumonia.tracking.store import Tracker, default_uri, has_old_runs

    if has_old_runs(Path("mlruns")) and not _names_a_store():
        # For the old runs MLflow takes the folder as its default store, and then refuses it.
        database = Path("mlflow.db").absolute()
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}"
        if not database.exists():
            say(
                "mlruns holds runs of MLflow's old file store, which are not shown: new ones go to mlflow.db. To see "
                "the old ones: `mlflow migrate-filestore --source . --target sqlite:///old.db`, then "
                "MLFLOW_TRACKING_URI=sqlite:///old.db. For MLflow's own commands in this folder: "
                "MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
            )
    return Tracker(default_uri())


def _names_a_store() -> bool:
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    return allowed or bool(os.environ.get("MLFLOW_TRACKING_URI"))


def context() -> "RunContext":
    """Where this command's runs go: the tracking store, its home, the experiment, and the run to adopt.

    Raises:
        TrackingError: as `tracking`, before anything slow.
    """
    from pneumonia.runs.context import RunContext
    from pneumonia.tracking.store import source_tags

    tracker, experiment, run_id = tracking()
    tracker.experiment_id(experiment)
    return RunContext(
        home=home(), tracker=tracker, experiment=experiment, run_id=run_id, tags=source_tags(), progress=True
    )


def tracking(*, files: bool = True) -> "tuple[Tracker, str, str | None]":
    """The tracker, the experiment's name, and the run to adopt when `mlflow run` made one.

    MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID name the experiment; where they name two, neither is taken.

    Args:
        files: whether the experiment's files are needed; then they must be where MLflow has them (see `places`).

    Raises:
        TrackingError: they are not, or the store cannot be reached.
    """
    tracker = store()
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    experiment = _experiment(tracker, run_id)
    if files:
        check_files(tracker, experiment, adopted=run_id)
    return tracker, experiment, run_id


def check_files(tracker: "Tracker", experiment: str, *, adopted: str | None = None) -> None:
    """Raises:
    TrackingError: the files of the experiment were left behind when the project's folder was moved.
    """
    from pneumonia.tracking import places
    from pneumonia.tracking.connection import TrackingError
    from pneumonia.tracking.store import tracker_errors

    with tracker_errors(tracker.uri):
        said = places.left_behind(tracker.client, tracker.uri, experiment, adopted=adopted)
    if said is not None:
        raise TrackingError(f"{said}. Nothing was written")


def _experiment(tracker: "Tracker", run_id: str | None) -> str:
    from pneumonia.tracking.store import tracker_errors

    if run_id is not None:
        with tracker_errors(tracker.uri):
            return str(tracker.client.get_experiment(tracker.client.get_run(run_id).info.experiment_id).name)
    name, number = (os.environ.get(f"MLFLOW_EXPERIMENT_{what}") for what in ("NAME", "ID"))
    if not number:
        return name or "pneumonia"
    found = tracker.experiment_name(number)
    if found is None:
        raise ValueError(f"MLFLOW_EXPERIMENT_ID is {number}, and the tracking store has no such experiment")
    if name and name != found:
        raise ValueError(
            f"MLFLOW_EXPERIMENT_ID is {number}, which is {found!r}, but MLFLOW_EXPERIMENT_NAME is {name!r}: "
            "unset one of them"
        )
    return found


def films(
    data: str,
    *,
    positive: str | None = None,
    like: tuple[str, str] | None = None,
    any_dicom: bool | None = None,
    need: Literal["train", "test"] = "train",
) -> "Index":
    """The index of a folder, a manifest, or the synthetic films, which are drawn when they are not there. What was
    found is said, before what refuses it; `positive` and `like` as for `scan`.
    """
    from pneumonia.data.index import DataError, require, scan
    from pneumonia.runtime.working_folder import located, looked_in
    from pneumonia.synthetic import dataset as synthetic

    if not data.strip():
        raise ValueError("data is empty: give a folder, a manifest, or the word synthetic")
    folder = synthetic.write(home() / "synthetic", progress=True) if data == "synthetic" else Path(located(data))
    if not os.path.exists(folder):
        raise ValueError(f"looked for a folder of films or a manifest, and there is nothing at {looked_in(data)}")
    try:
        index = scan(folder, positive=positive, like=like, any_dicom=bool(any_dicom), progress=True)
    except DataError as error:
        for line in error.report:
            say(line)
        raise
    for line in index.report.lines():
        say(line)
    require(index, need)
    if need == "train":
        require(index, "val")
    return index


def link(record: "Record", tracker: "Tracker") -> str | None:
    """The page of a record's run in MLflow's UI; None while the store has no such run."""
    from pneumonia.tracking.sync import sent
    from pneumonia.tracking.ui import address, run_link

    have = sent(record)
    return run_link(address(tracker.uri), have["experiment_id"], have["run_id"]) if "experiment_id" in have else None


def say_link(what: str, link: str | None, tracker: "Tracker") -> None:
    """Says where the UI shows `what`, and, where the store has no server, which command makes it do so."""
    from pneumonia.runtime.working_folder import typed_in
    from pneumonia.tracking.ui import is_served

    if link is not None:
        ui = "uv run pneumonia ui" if typed_in() is None else "mlflow ui"
        say(f"{what}: {link}" + ("" if is_served(tracker.uri) else f"    once `{ui}` runs"))


def report_run(record: "Record", tracker: "Tracker", result: Mapping[str, Any] | str | None = None) -> None:
    """Says what came of a command, which run and model hold it, and where they are seen; exit code 1 if they are still
    to be sent.

    Args:
        result: a mapping for --json, printed with the run's id and link; a text; or nothing but the run.
    """
    from pneumonia.tracking.sync import sent, unsent

    have = sent(record)
    if isinstance(result, str):
        click.echo(result)
    if isinstance(result, Mapping):
        click.echo(json.dumps({"run_id": have.get("run_id"), "link": link(record, tracker), **result}))
    else:
        say(f"run {have.get('run_id')}" + (f", model models:/{have['model_id']}" if "model_id" in have else ""))
        say_link("see it", link(record, tracker), tracker)
    if unsent(record):
        say("the tracking server was away: type `pneumonia sync` when it is back")
        sys.exit(FAILED)
