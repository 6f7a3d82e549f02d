"""Where a command was typed. `mlflow run` starts the program in the project's folder, which for a git address is
temporary; relative paths are meant from the user's folder.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from pneumonia.runtime.signals import is_mlflow_run

PROJECT = Path(__file__).parents[2]


@cache
def typed_in() -> Path | None:
    """The folder where `mlflow run`, or a program that calls `mlflow.projects.run`, started this process, if that is
    another one than the project's; None without either. Call it before the process changes its folder.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None or not _is_here(PROJECT):  # the user may have set the run's id alone
        return None
    try:
        for ancestor in psutil.Process().parents():
            # MLflow gives the run's id to what it starts; between it and us there may be shells.
            if is_mlflow_run(ancestor.cmdline()) or ancestor.environ().get("MLFLOW_RUN_ID") != run_id:
                folder = Path(ancestor.cwd())
                return None if _is_here(folder) else folder
    except psutil.Error:  # somebody else's process
        return None
    return None


def go_there() -> None:
    """Goes to the folder where the command was typed, so that relative paths are meant from there."""
    if (folder := typed_in()) is not None:
        with suppress(OSError):  # it is gone meanwhile
            os.chdir(folder)


def is_checkout() -> bool:
    """Whether the program runs from its project's folder, and not from a package that was installed."""
    return (PROJECT / "pyproject.toml").exists()


def install_extra(name: str) -> str:
    """The command that brings an optional part of the program, as `pyproject.toml` names it."""
    return f"uv sync --inexact --extra {name}" if is_checkout() else f"pip install 'pneumonia[{name}]'"


def located(text: str, is_there: Callable[[str], bool] = os.path.exists) -> str:
    """The path that a user means: from the folder where it was typed or, if nothing of that name is there, from the
    project's folder, if `mlflow run` went there. Any other text, such as a URI, comes back as it is.

    Args:
        is_there: whether a path, or a pattern, names something.
    """
    path = os.path.expanduser(text)
    if typed_in() is not None and not is_there(path) and is_there(in_project := os.path.join(PROJECT, path)):
        return in_project
    return path


def looked_in(text: str) -> str:
    """Where `located` looked, for an error message."""
    here, in_project = os.path.abspath(os.path.expanduser(text)), os.path.join(PROJECT, text)
    return here if typed_in() is None or here == in_project else f"{here}, nor at {in_project}"


def _is_here(folder: Path) -> bool:
    try:
        return os.path.samefile(folder, os.curdir)
    except OSError:
        return False
