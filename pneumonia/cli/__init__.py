"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

import gc

import click

from pneumonia.cli import films, models, runs, ui
from pneumonia.runtime.environment import mlflow_defaults, quiet
from pneumonia.runtime.signals import leave_quickly


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pneumonia")
def cli() -> None:
    """Chest X-rays to a pneumonia classifier: searched for, tracked, evaluated, registered, served.

    Runs and models are looked for where MLFLOW_TRACKING_URI says (default: mlflow.db in this folder).
    What the program keeps, such as decoded films and unfinished searches, stands in a folder for each
    such store among your data, on Linux in ~/.local/share/pneumonia (PNEUMONIA_HOME names another), or in
    the .pneumonia of an earlier version in this folder. For research and teaching; not a medical device.
    """


for command in (
    runs.search,
    runs.train,
    models.evaluate,
    models.compare,
    films.eda,
    models.predict,
    films.download,
    models.promote,
    runs.sync,
    ui.ui,
):
    cli.add_command(command)


def main() -> None:
    """The console script."""
    gc.set_threshold(50_000)  # from 700: what is imported is no garbage, and looking costs a third of the time
    leave_quickly()
    quiet()
    mlflow_defaults()
    cli()
