"""Where a tracking store on this machine keeps its files, and messages for files that are missing.

MLflow's database holds absolute paths of files, so moving a project folder breaks them.
"""

import shlex
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from pneumonia.runtime.secrets import masked


def local(location: str) -> Path | None:
    """The path of a place that MLflow writes as a path or a `file:` URI; None for any other."""
    try:
        if not is_local_uri(location, False):  # type: ignore[no-untyped-call]
            return None
    except MlflowException:  # a file on another machine
        return None
    return Path(local_file_uri_to_path(location))  # type: ignore[no-untyped-call]


def database(uri: str) -> Path | None:
    """The file of a tracking store that is a sqlite database; None for any other."""
    if not uri.startswith("sqlite"):
        return None
    with suppress(sqlalchemy.exc.ArgumentError):
        name = sqlalchemy.make_url(uri).database
        return None if name in (None, "", ":memory:") else Path(name)
    return None


def on_this_machine(uri: str) -> Path | None:
    """The file or folder of a tracking store that is one on this machine; None for a server or its like."""
    return database(uri) or local(uri)


def address(uri: str) -> str:
    """A tracking store's address in one normal form, without user and password."""
    if (here := on_this_machine(uri)) is not None:
        return str(here.resolve())
    if uri.startswith(("http://", "https://")):
        parts = urlsplit(uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}{parts.path.rstrip('/')}"
    try:
        url = sqlalchemy.make_url(uri)
    except sqlalchemy.exc.ArgumentError:  # databricks and the like
        return masked(uri)
    return f"{url.get_backend_name()}://{(url.host or '').lower()}:{url.port or ''}/{url.database or ''}"


def missing(location: str, uri: str) -> str | None:
    """Which folder of the store `uri` is missing, and how to mend it; None where the files are there, or on another
    machine.
    """
    path = local(location)
    if path is None or not path.is_absolute() or path.exists():
        return None
    if (moved := _moved(path, uri)) is not None:
        gone, there = moved
        return f"{gone} is not there, but {there} is: move it back, or type `{_link(there, gone)}`"
    gone = next(folder for folder in (*reversed(path.parents), path) if not folder.exists())
    return f"{gone} is not there: move it back, or link to where it is now (`ln -s WHERE {shlex.quote(str(gone))}`)"


def left_behind(client: MlflowClient, uri: str, name: str, *, adopted: str | None = None) -> str | None:
    """A sentence on an experiment whose folder was moved: new runs would make the old folder again, and old runs would
    not be found. None where all is well, or where the store is on another machine.

    Args:
        adopted: a run that has only just been made, by `mlflow run`.
    """
    store = on_this_machine(uri)
    if store is None or not store.exists() or (experiment := client.get_experiment_by_name(name)) is None:
        return None
    said, path = missing(experiment.artifact_location, uri), local(experiment.artifact_location)
    if said is None or path is None:
        return None
    if _moved(path, uri) is None:
        project = path.parents[min(1, len(path.parents) - 1)]
        if project.exists():  # nothing has been logged yet, or it was deleted
            return None
        runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=2)
        if all(
            run.info.run_id == adopted for run in runs
        ):  # a folder that the user named, which MLflow makes when needed
            return None
        said += f"; where the files are lost for good, `mkdir -p {shlex.quote(str(project))}`"
    return f"MLflow keeps the files of the experiment {name} in {path}, and {said}"


def _moved(path: Path, uri: str) -> tuple[Path, Path] | None:
    """For a missing path with a counterpart beside the store's own file: what is missing, and the counterpart."""
    if (store := on_this_machine(uri)) is None:
        return None
    beside, parts = store.absolute().parent, path.parts
    for start in range(1, len(parts) - 1):
        if not beside.joinpath(*parts[start:]).exists():
            continue
        for end in range(start, len(parts) + 1):
            gone = Path(*parts[:end])
            if not gone.exists():
                return gone, beside.joinpath(*parts[start:end])
    return None


def _link(there: Path, gone: Path) -> str:
    flags = "-sfn" if gone.is_symlink() else "-s"  # a link to where it was before
    link = f"ln {flags} {shlex.quote(str(there))} {shlex.quote(str(gone))}"
    return link if gone.parent.exists() else f"mkdir -p {shlex.quote(str(gone.parent))} && {link}"


def model_files(model_uri: str, client: MlflowClient) -> str | None:
    """Where the files of `models:/...` or `runs:/...` are; None for any other URI.

    Raises:
        MlflowException: the store has no such model or run, or does not answer.
    """
    kind, _, name = model_uri.partition(":/")
    if kind == "models":
        return str(ModelsArtifactRepository.get_underlying_uri(model_uri))  # type: ignore[no-untyped-call]
    if kind == "runs":
        run = client.get_run(name.strip("/").partition("/")[0]).info
        models = client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'", max_results=1)
        return str(models[0].artifact_location if models else run.artifact_uri)
    return None
