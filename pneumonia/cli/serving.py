"""The command `serve`: MLflow's server for the version that an alias names."""

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click

from pneumonia.cli.context import store
from pneumonia.cli.errors import exit_codes
from pneumonia.cli.output import say

TICK_SECONDS = 0.2


@click.command()
@click.option(
    "--model",
    default="models:/pneumonia@champion",
    show_default=True,
    help="what to serve; an alias is followed when it moves",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen at; 0.0.0.0 for other machines")
@click.option(
    "--port", type=click.INT, default=8080, show_default=True, help="port to listen at; the next two are used too"
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="processes that score films")
@click.option("--every", type=click.FloatRange(0.1), default=10.0, show_default=True, help="seconds between two looks")
@click.option(
    "--env-manager",
    type=click.Choice(["local", "uv", "virtualenv", "conda"]),
    default="local",
    show_default=True,
    help="where a version's packages come from, as for mlflow models serve",
)
@click.option("--no-nginx", is_flag=True, help="no nginx in front; each change of the version is a gap of seconds")
def serve(model: str, host: str, port: int, workers: int, every: float, env_manager: str, no_nginx: bool) -> None:
    """Serve the champion with MLflow's own server behind nginx, and follow it when it moves; Ctrl-C ends it.

    A new champion is started beside the old one and takes its place when it answers its own example rightly. One that
    does not is not switched to.
    """
    with exit_codes():
        from pneumonia.runtime.signals import identity
        from pneumonia.serving.about import About
        from pneumonia.serving.follow import Follower
        from pneumonia.serving.model_uri import ModelUri
        from pneumonia.serving.nginx_process import Nginx
        from pneumonia.serving.scoring_server import Options, ScoringServer, free_ports
        from pneumonia.tracking.record import write_json
        from pneumonia.tracking.ui import address, version_link

        uri, tracker = ModelUri.of(model), store()
        port, first, second = free_ports(host, port)
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="pneumonia-serve-"))
            write_json(folder / "owner.json", identity())  # for `clean`, if nobody is left who removes it
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.chmod(0o755)  # for nginx's workers, who are nobody where root starts nginx
            versions = folder / "versions"
            versions.mkdir(mode=0o700)
            options = Options(host if no_nginx else "127.0.0.1", workers, env_manager)
            nginx = None if no_nginx else Nginx(folder / "nginx", host=host, port=port, backends=(first, second))

            def bring(version: str, at: int) -> ScoringServer:
                files = uri.fetch(tracker, version, versions)
                if nginx is not None:
                    link = version_link(address(tracker.uri), uri.name, version)
                    nginx.tell(at, About(uri.name, version, link))
                return ScoringServer(uri.name, version, files, at, options, say)

            ports = (port, first) if nginx is None else nginx.backends
            follower = Follower(lambda: uri.version(tracker), bring, nginx, ports, say, every=every)
            stack.callback(follower.stop)
            say(f"{model} is looked up, and started ...")
            while True:
                waiting = follower.current is None
                follower.tick()
                if waiting and follower.current is not None:
                    if nginx is not None:
                        stack.callback(nginx.stop)
                        nginx.start()
                    say(f"films go to {address('', host=host, port=port)}/invocations; Ctrl-C ends it")
                time.sleep(TICK_SECONDS)
