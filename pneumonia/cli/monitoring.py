"""The command `monitor`: what a served version was asked and answered."""

import sys
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
