"""Commands for films before any model: `eda` and `download`."""

from pathlib import Path

import click

from pneumonia.cli.context import context
from pneumonia.cli.data import films
from pneumonia.cli.errors import exit_codes
from pneumonia.cli.options import Command, any_dicom_option, as_json, data_option
from pneumonia.cli.output import by_uv, report_run, say


@click.command(cls=Command)
@data_option
@any_dicom_option
@as_json
def eda(data: str | None, positive: str | None, any_dicom: bool | None, as_json: bool) -> None:
    """Describe the films before any model: classes, patients, sizes, grey levels, copies, shortcuts, batches."""
    with exit_codes():
        from pneumonia.runs.explore import explore_and_record

        run = context()
        index = films("synthetic" if data is None else data, positive=positive, any_dicom=any_dicom)
        record, explored = explore_and_record(index, run)
        if not as_json:
            click.echo(explored.text())
            unread = explored.index.report.corrupt
            if unread:
                say(f"{len(unread)} films cannot be read; the first: {': '.join(unread[0])}; the report lists them all")
            say(f"the report: {record.artifacts / 'eda.html'}")
        report_run(record, run.tracker, explored.as_dict() if as_json else None)


@click.command()
@click.option(
    "--dest",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="folder to put the films in",
)
def download(dest: Path) -> None:
    """Download the public dataset (Kermany 2018, CC BY 4.0, 1.2 GB); resumes an interrupted download."""
    with exit_codes(resumes=True):
        from pneumonia.data.download import download as fetch

        folder = fetch(dest)
        say(f"the films are in {folder}; next: {by_uv()}pneumonia search --data {folder}")
