"""What a command prints: sentences on stderr, results on stdout."""

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.errors import FAILED
from pneumonia.runtime.secrets import without_secrets

if TYPE_CHECKING:
    from pneumonia.tracking.record import Record
    from pneumonia.tracking.store import Tracker


def say(line: str) -> None:
    """Prints a sentence on stderr, without the secrets that an error or another program's output in it may tell."""
    click.echo(without_secrets(line), err=True)


def by_uv() -> str:
    """What stands before a command that is shown: `uv run ` in the project's folder and where uv started this one, ""
    where the package was installed.
    """
    from pneumonia.runtime.working_folder import is_checkout

    return "uv run " if is_checkout() or "UV" in os.environ else ""  # which `uv run` sets


def link(record: "Record", tracker: "Tracker") -> str | None:
    """The page of a record's run in MLflow's UI; None while the store has no such run."""
    from pneumonia.tracking.sync import sent
    from pneumonia.tracking.ui import address, run_link

    have = sent(record)
    return run_link(address(tracker.uri), have["experiment_id"], have["run_id"]) if "experiment_id" in have else None


def say_link(what: str, link: str | None, tracker: "Tracker") -> None:
    """Prints the link to `what` in the UI and, where the store has no server, the command that starts the UI."""
    from pneumonia.runtime.working_folder import typed_in
    from pneumonia.tracking.ui import is_served

    if link is not None:
        ui = f"{by_uv()}pneumonia ui" if typed_in() is None else "mlflow ui"
        say(f"{what}: {link}" + ("" if is_served(tracker.uri) else f"    (start `{ui}` first)"))


def report_run(record: "Record", tracker: "Tracker", result: Mapping[str, Any] | str | None = None) -> None:
    """Prints a command's result, its run and model, and the link to them; exits with code 1 if they could not be sent.

    Args:
        result: a mapping for --json, printed with the run's id and link; a text; or None for the run alone.
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
