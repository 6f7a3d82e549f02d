"""The command `ui`: MLflow's own UI on the store that runs are logged to."""

import click

from pneumonia.cli.context import home, tracking
from pneumonia.cli.errors import exit_codes
from pneumonia.cli.output import say
from pneumonia.tracking.ui import HOST, PORT, address, ended, free_port, is_served, server, view_link


@click.command()
@click.option(
    "--host", default=HOST, show_default=True, help="address to listen at; 0.0.0.0 lets other machines connect"
)
@click.option("--port", type=click.INT, default=PORT, show_default=True, help="port to listen at; 0 takes a free one")
def ui(host: str, port: int) -> None:
    """Start MLflow's UI on the tracking store, with one worker and no background jobs; Ctrl-C ends it.

    If MLFLOW_TRACKING_URI names a server, only print the address of the UI there.
    """
    with exit_codes():
        from pneumonia.tracking import places

        tracker, experiment, _ = tracking(files=False)
        if not (served := is_served(tracker.uri)):
            port = free_port(host, port)
        # Made before the server starts: the server would give a new experiment another artifact folder.
        experiment_id = tracker.experiment_id(experiment)
        if (said := places.left_behind(tracker.client, tracker.uri, experiment)) is not None:
            say(f"warning: {said}")
        at = address(tracker.uri, host=host, port=port)
        if served:
            say("MLFLOW_TRACKING_URI names a server, which has the UI already:")
            links(at, experiment_id)
            return
        say("MLflow's UI starts ...")
        log = home() / "ui.log"
        with server(tracker.uri, host=host, port=port, log=log) as process:
            links(at, experiment_id)
            say("Ctrl-C ends it")
            process.wait()
        raise ended(log)


def links(at: str, experiment_id: str) -> None:
    for view, shows in (
        ("trials", "every training: its state, objective and parameters"),
        ("curves", "their curves"),
        ("films", "the same films in every run"),
    ):
        click.echo(f"{view:7} {view_link(at, experiment_id, view)}    {shows}")
