"""Where a command's runs go, by the environment and the folder that it is typed in."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli.output import say

if TYPE_CHECKING:
    from pneumonia.runs.context import RunContext
    from pneumonia.tracking.store import Tracker


def home() -> Path:
    """PNEUMONIA_HOME, or the folder for the tracking store among the user's data (see `tracking.homes`)."""
    from pneumonia.runtime.working_folder import located
    from pneumonia.tracking import homes
    from pneumonia.tracking.store import default_uri

    given = os.environ.get("PNEUMONIA_HOME")
    return Path(located(given)).absolute() if given else homes.of(default_uri())


def known_home() -> tuple[Path | None, Path]:
    """The home if there is one, which is not made, and where it is or would be."""
    from pneumonia.runtime.working_folder import located
    from pneumonia.tracking import homes
    from pneumonia.tracking.store import default_uri

    if given := os.environ.get("PNEUMONIA_HOME"):
        folder = Path(located(given)).absolute()
        return (folder if folder.is_dir() else None), folder
    there = homes.find(default_uri())
    return there, there or homes.data_folder()


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

    MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names the experiment; that both name different ones is an error.

    Args:
        files: whether the experiment's files are needed; then they must be where MLflow expects them (see
            `tracking.places`).

    Raises:
        TrackingError: they are not, or the store cannot be reached.
        ValueError: the environment names no experiment of the store, or two.
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
