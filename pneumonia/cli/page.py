"""The command `page`: a page to try a model in the browser."""

import ipaddress
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.context import store
from pneumonia.cli.errors import exit_codes
from pneumonia.cli.output import say

if TYPE_CHECKING:
    from pneumonia.serving.about import About
    from pneumonia.serving.predict import Model
    from pneumonia.tracking.store import Tracker


@click.command()
@click.option("--model", default="models:/pneumonia@champion", show_default=True, help="model URI or folder")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="address to listen at; 0.0.0.0 lets other machines connect"
)
@click.option("--port", type=click.INT, default=5002, show_default=True, help="port to listen at; 0 takes a free one")
def page(model: str, host: str, port: int) -> None:
    """Start a page to try a model: drop films on it, see what the model says of each; Ctrl-C ends it.

    POST /invocations answers there too, as `mlflow models serve` does, and takes films as files.
    """
    with exit_codes():
        from pneumonia.runtime.working_folder import located
        from pneumonia.serving import page_server
        from pneumonia.serving.predict import load
        from pneumonia.tracking.ui import address

        with page_server.listen(host, port) as at:  # before the model is loaded, which takes seconds
            tracker = store()
            loaded = load(located(model))
            names = () if _is_loopback(host) else (host, socket.gethostname())
            app = page_server.app(loaded.pyfunc, about(tracker, loaded), names=names)
            if names:
                say("warning: whoever reaches this address may send films, without a login; nginx in front has both")
            click.echo(f"page    {address('', host=host, port=at.getsockname()[1])}/    {loaded.uri}")
            say("Ctrl-C ends it")
            page_server.serve(app, at)


def about(tracker: "Tracker", model: "Model") -> "About":
    """The registered version that a model is, with the link to it in MLflow's UI; else what the model was called by."""
    from pneumonia.registry.versions import version_of
    from pneumonia.serving.about import About
    from pneumonia.tracking.ui import address, version_link

    if not model.uri.startswith(("models:", "runs:")):
        return About(name=Path(model.uri).name)
    version = version_of(tracker, model.uri, model.metadata.model_id)
    if version is None:
        return About(name=model.uri)
    number = str(version.version)
    return About(version.name, number, version_link(address(tracker.uri), version.name, number))


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
