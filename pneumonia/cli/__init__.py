"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

import gc

import click

from pneumonia.cli import adapting, clean, doctor, films, models, monitoring, page, runs, serving, ui
from pneumonia.runtime.environment import mlflow_defaults, quiet
from pneumonia.runtime.secrets import hide_in_tracebacks
from pneumonia.runtime.signals import leave_quickly


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pneumonia")
def cli() -> None:
    """Train a pneumonia classifier on chest X-rays: search, track, evaluate, register, serve.

    Runs and models are in the store that MLFLOW_TRACKING_URI names (default: mlflow.db in this folder).
    Decoded films and unfinished searches are in a folder of their own for each store, on Linux in
    ~/.local/share/pneumonia (PNEUMONIA_HOME names another); a .pneumonia that an earlier version made in
    this folder is still used. For research and teaching; not a medical device.
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
    serving.serve,
    monitoring.monitor,
    monitoring.metrics,
    adapting.adapt,
    runs.sync,
    ui.ui,
    page.page,
    doctor.doctor,
    clean.clean,
):
    cli.add_command(command)


def main() -> None:
    """The console script."""
    gc.set_threshold(50_000)  # from 700: imported modules are no garbage, and collecting costs a third of the time
    leave_quickly()
    quiet()
    hide_in_tracebacks()
    mlflow_defaults()
    cli()
