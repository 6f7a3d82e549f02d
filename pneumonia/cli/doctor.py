"""The command `doctor`: what is wrong here, and what mends it."""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from pneumonia.cli.context import known_home, store
from pneumonia.cli.errors import FAILED, exit_codes
from pneumonia.cli.output import by_uv, say

if TYPE_CHECKING:
    from pneumonia.housekeeping.checks import Place
    from pneumonia.housekeeping.checkup import Check

COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "error": "red"}
STATE_LETTERS, NAME_LETTERS = 9, 17


@click.command()
@click.option("--storage", default=None, help="database of the study, if it is not the one in the home")
@click.option("--json", "as_json", is_flag=True, help="print a list of objects: name, state, sentence, command")
def doctor(storage: str | None, as_json: bool) -> None:
    """Say what is wrong here, and the command that mends it; changes nothing.

    Looks at versions, cores, memory, GPU, disks, home, tracking store, champions, runs, caches and study. The exit code
    is 0 if nothing is an error, else 1.
    """
    with exit_codes():
        found = []
        for check in checks(storage):
            found.append(check)
            if not as_json:
                show(check)
        if as_json:
            click.echo(json.dumps([asdict(check) for check in found], indent=1))
        errors, warnings = (sum(check.state == state for check in found) for state in ("error", "warning"))
        say(f"errors: {errors}, warnings: {warnings}" if errors or warnings else "nothing is wrong")
        if errors:
            sys.exit(FAILED)


def checks(storage: str | None) -> "Iterator[Check]":
    """Every check, with its command as it is typed here."""
    from pneumonia.housekeeping.checks import every_check

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "pneumonia"
    for check in every_check(dict(os.environ), place, storage=storage, experiment=experiment):
        yield replace(check, command=typed(check.command))


def place() -> "Place":
    from pneumonia.housekeeping.checks import Place

    tracker = store()
    return Place(tracker.uri, *known_home())


def show(check: "Check") -> None:
    """One line, and below it the command that mends it."""
    state = click.style(check.state.ljust(STATE_LETTERS), fg=COLOURS[check.state])
    click.echo(f"{state}{check.name:{NAME_LETTERS}}{check.sentence}")
    if check.command:
        click.echo(f"{'':{STATE_LETTERS + NAME_LETTERS}}$ {check.command}")


def typed(command: str) -> str:
    """A command as it is typed here: by uv in the project's folder, whose environment has no pip."""
    if not by_uv():
        return command
    command = re.sub(r"^pip ", "uv pip ", command)
    return re.sub(r"^((?:\w+=\S+ )?)(pneumonia|mlflow|optuna) ", r"\1uv run \2 ", command)
