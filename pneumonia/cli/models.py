"""Commands for a model that is there: `evaluate`, `compare`, `predict`, `promote`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.context import context, store
from pneumonia.cli.data import films
from pneumonia.cli.errors import FAILED, exit_codes
from pneumonia.cli.options import Command, Open, Shares, any_dicom_option, as_json, data_option, given
from pneumonia.cli.output import report_run, say, say_link

if TYPE_CHECKING:
    from pneumonia.serving.film_batches import Scorer


@click.command(cls=Command)
@click.option(
    "--model",
    type=Open(click.STRING),
    help="model URI or folder [pneumonia-demo@champion for synthetic films, else pneumonia@champion]",
)
@data_option
@click.option(
    "--prevalences",
    type=Open(Shares()),
    help="prevalences for which to report PPV and NPV [0.01,0.05,0.2,0.5]",
)
@any_dicom_option
@as_json
def evaluate(
    model: str | None,
    data: str | None,
    positive: str | None,
    prevalences: tuple[float, ...] | None,
    any_dicom: bool | None,
    as_json: bool,
) -> None:
    """Score the test films for a model: metrics with 95% intervals, a report, predictions. Opens the test split."""
    with exit_codes():
        from pneumonia.runs.evaluate import evaluate_and_record
        from pneumonia.runtime.working_folder import located
        from pneumonia.serving.predict import load

        run, demo = context(), data in (None, "synthetic")
        champion = f"models:/{'pneumonia-demo' if demo else 'pneumonia'}@champion"
        loaded = load(located(model) if model else champion)
        index = films(
            "synthetic" if data is None else data,
            positive=positive,
            like=loaded.classes,
            any_dicom=any_dicom,
            need="test",
        )
        record, evaluation = evaluate_and_record(loaded, index, run, **given(prevalences=prevalences))
        report_run(record, run.tracker, evaluation.as_dict() if as_json else evaluation.text())


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True)
@data_option
@any_dicom_option
@as_json
def compare(
    models: tuple[str, ...], data: str | None, positive: str | None, any_dicom: bool | None, as_json: bool
) -> None:
    """Compare MODELS (URIs, run ids, folders; the first is the reference) on the same validation films.

    Paired tests: DeLong's for AUC, McNemar's for accuracy, both by patient. A run id of `train --seeds` stands for
    its recipe: means over seeds are compared, with intervals that cover the chance in seeds and in films. No test film
    is opened.
    """
    with exit_codes():
        from pneumonia.runs.compare import classes_of, compare_and_record, named
        from pneumonia.runtime.working_folder import located

        names = [located(name) for name in named(models)]  # before any film is read
        run = context()
        like = classes_of(run.tracker, names[0])
        index = films("synthetic" if data is None else data, positive=positive, any_dicom=any_dicom, like=like)
        record, comparison = compare_and_record(names, index, run)
        report_run(record, run.tracker, comparison.as_dict() if as_json else comparison.text())


@click.command(cls=Command)
@click.argument("inputs", nargs=-1, required=True)
@click.option("--model", type=Open(click.STRING), help="model URI or folder [models:/pneumonia@champion]")
@click.option(
    "--url", type=Open(click.STRING), help="score through a running `mlflow models serve`, such as http://host:5001"
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=None,
    help="file to write, .csv, .jsonl or .parquet; after a stop the same command goes on with it [standard output]",
)
@click.option(
    "--explain", type=Open(click.Path(path_type=Path)), help="folder for a heatmap of each film, named by its row"
)
@any_dicom_option
def predict(
    inputs: tuple[str, ...],
    model: str | None,
    url: str | None,
    output: Path | None,
    explain: Path | None,
    any_dicom: bool | None,
) -> None:
    """Score films, folders or globs: one row per film. Exit code 1 if a film failed; its row says why.

    One INPUT may hold several names with spaces or commas between them, as an MLflow parameter does.
    """
    with exit_codes(resumes=output is not None):
        from pneumonia.data.inventory import tally
        from pneumonia.runtime.names import split as split_names
        from pneumonia.runtime.working_folder import located
        from pneumonia.serving.film_list import FilmList, is_there
        from pneumonia.serving.prediction_job import Job
        from pneumonia.serving.prediction_tables import check_output

        if model is not None and url is not None:
            raise ValueError("--url scores with the model that the server has: leave --model out")
        if output is not None:
            check_output(output)
        names = split_names(inputs, lambda text: is_there(located(text, is_there)))
        films = FilmList([located(name, is_there) for name in names])
        if films.skipped:
            say(f"skipped: {tally(films.skipped)}")
        asked = {"explain": explain is not None, "any_dicom": bool(any_dicom)}
        job = Job(
            films=films,
            scorer=scorer(model, url, **asked),
            heatmaps=explain,
            progress=sys.stderr.isatty(),
        )
        if output is None:
            failed = job.to_stream(sys.stdout)[1]
        else:
            done, failed, before = job.to_file(output)
            say(f"{done} films, {failed} failed: {output}" + (f" ({before} of an earlier run)" if before else ""))
        if failed:
            sys.exit(FAILED)


def scorer(model: str | None, url: str | None, *, explain: bool, any_dicom: bool) -> "Scorer":
    """The server at `url`, or a model; the champion if both are None."""
    from pneumonia.runtime.working_folder import located

    if url is not None:
        from pneumonia.serving.scoring_client import ScoringClient

        return ScoringClient(url, explain=explain, any_dicom=any_dicom)
    from pneumonia.serving.predict import LocalScorer, load

    store()
    return LocalScorer(load(located(model or "models:/pneumonia@champion")), explain=explain, any_dicom=any_dicom)


@click.command()
@click.argument("version", required=False)
@click.option("--name", default="pneumonia", show_default=True, help="name of the registered model")
@click.option("--back", is_flag=True, help="promote the version that was champion before the present one")
@click.option("--history", is_flag=True, help="list the champions so far, the earliest first, and change nothing")
@click.option("--why", default="", help="the reason, which the history keeps")
@as_json
def promote(version: str | None, name: str, back: bool, history: bool, why: str, as_json: bool) -> None:
    """Make VERSION the champion by hand, whatever the gate said; or go back; or list the champions."""
    if [version is not None, back, history].count(True) != 1:
        raise click.UsageError("give one of VERSION, --back and --history")
    with exit_codes():
        from pneumonia.registry import versions
        from pneumonia.tracking.ui import address, version_link

        tracker = store()
        if history:
            champions = versions.history(tracker, name)
            if as_json:
                click.echo(json.dumps({"name": name, "champions": [champion.as_dict() for champion in champions]}))
            for champion in () if as_json else champions:
                click.echo(champion.line())
            if not champions:
                say(f"{name} has had no champion")
            return
        version = version or versions.before(tracker, name)
        said = versions.promote(tracker, name, version, why=why, back=back)
        link = version_link(address(tracker.uri), name, version)
        if as_json:
            click.echo(json.dumps({"name": name, "version": version, "link": link}))
            return
        say(said)
        say_link("see it", link, tracker)
