"""Commands for films before any model: `eda` and `download`."""

import json
from pathlib import Path

import click

from pneumonia.boundary import boundary, films, home, link, report_run, say, tracking
from pneumonia.options import Command, any_dicom_option, as_json, data_option


@click.command(cls=Command)
@data_option
@any_dicom_option
@as_json
def eda(data: str | None, positive: str | None, any_dicom: bool | None, as_json: bool) -> None:
    """Describe the films before any model: classes, patients, sizes, grey levels, copies, shortcuts, batches."""
    with boundary():
        from pneumonia import eda as exploring
        from pneumonia.sending import sent
        from pneumonia.tracking import source_tags

        tracker, experiment, run_id = tracking()
        tracker.experiment_id(experiment)  # a server that is away is told of before anything slow
        record, explored = exploring.explore_and_record(
            films("synthetic" if data is None else data, positive=positive, any_dicom=any_dicom),
            home=home(),
            tracker=tracker,
            experiment=experiment,
            run_id=run_id,
            tags=source_tags(),
            progress=True,
        )
        if as_json:
            click.echo(
                json.dumps({"run_id": sent(record).get("run_id"), "link": link(record, tracker), **explored.as_dict()})
            )
        else:
            click.echo(explored.text())
            unread = explored.index.report.corrupt
            if unread:
                say(f"{len(unread)} films cannot be read; the first: {': '.join(unread[0])}; all stand in the report")
            say(f"the report: {record.artifacts / 'eda.html'}")
            report_run(record, tracker, as_json)


@click.command()
@click.option("--dest", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="folder")
def download(dest: Path) -> None:
    """Fetch the public dataset (Kermany 2018, CC BY 4.0, 1.2 GB); goes on where it was broken off."""
    with boundary(resumes=True):
        from pneumonia.download import download as fetch

        folder = fetch(dest)
        say(f"the films stand in {folder}; next: uv run pneumonia search --data {folder}")
