"""The commands `monitor` and `metrics`: what served versions were asked and answered, later and now."""

import os
import sys
import threading
from pathlib import Path

import click

from pneumonia.cli.context import context
from pneumonia.cli.errors import FAILED, exit_codes
from pneumonia.cli.options import as_json
from pneumonia.cli.output import report_run, say


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--model", default="models:/pneumonia@champion", show_default=True, help="model URI or folder")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    default=None,
    help="CSV of the classes that came back: label, and sha256 or path of the film; patient if it is known",
)
@click.option("--days", type=click.IntRange(min=1), default=None, help="only the last so many days of the log [all]")
@click.option(
    "--any-share", is_flag=True, help="another share of ill films than among the validation films is no change"
)
@click.option("--fail-on-drift", is_flag=True, help="exit with code 1 if films have changed, for cron and CI")
@as_json
def monitor(
    log: Path, model: str, labels: Path | None, days: int | None, any_share: bool, fail_on_drift: bool, as_json: bool
) -> None:
    """Say what a served version was asked, from the LOG that it wrote (the folder in PNEUMONIA_ANSWERS).

    A page and a run: answers and refusals by day, scores against the validation films by a test that counts days,
    unfamiliar films and, with labels, AUC, sensitivity and specificity over time.
    """
    with exit_codes():
        from pneumonia.runs.monitor import monitor_and_record
        from pneumonia.runtime.working_folder import located

        run = context()
        record, found = monitor_and_record(
            Path(located(str(log))),
            located(model),
            run,
            labels=None if labels is None else Path(located(str(labels))),
            days=days,
            any_share=any_share,
        )
        if not as_json:
            say(f"the page: {record.artifacts / 'monitor.html'}")
        report_run(record, run.tracker, found.as_dict() if as_json else found.text())
        if fail_on_drift and found.changes:
            sys.exit(FAILED)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen at")
@click.option("--port", type=click.INT, default=9090, show_default=True, help="port of /metrics; 0 takes a free one")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=None,
    help="where the scoring servers count [PROMETHEUS_MULTIPROC_DIR]",
)
@click.option("--nginx-port", type=click.INT, default=None, help="UDP port that nginx sends its statuses to [none]")
def metrics(host: str, port: int, folder: Path | None, nginx_port: int | None) -> None:
    """Serve /metrics for Prometheus, added up over all processes of the scoring servers; Ctrl-C ends it.

    The servers count where the same PROMETHEUS_MULTIPROC_DIR is set for them.
    """
    with exit_codes():
        named = os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # else this process would count there, too
        if folder is None and not named:
            raise ValueError("say where the scoring servers count: --folder, or PROMETHEUS_MULTIPROC_DIR")
        from pneumonia.serving.metrics_server import metrics_server

        with metrics_server(folder or Path(str(named)), host=host, port=port, nginx_port=nginx_port) as at:
            say(f"metrics: http://{host}:{at}/metrics")
            threading.Event().wait()
