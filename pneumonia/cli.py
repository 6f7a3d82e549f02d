"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.boundary import FAILED, boundary, cores, films, home, mlflow_defaults, say, tracking
from pneumonia.config import SearchConfig, TrainConfig
from pneumonia.options import Open, Shares, given, settings
from pneumonia.stop import leave_quickly

if TYPE_CHECKING:
    from pneumonia.data import Index
    from pneumonia.record import Record


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pneumonia")
def cli() -> None:
    """Chest X-rays to a pneumonia classifier: searched for, tracked, evaluated, registered, served.

    Runs, models and films are looked for where MLFLOW_TRACKING_URI says (default: mlflow.db in this folder).
    What the program keeps, such as decoded films and unfinished searches, stands in .pneumonia
    (PNEUMONIA_HOME moves it). For research and teaching; not a medical device.
    """


as_json = click.option("--json", "as_json", is_flag=True, help="print the result as one JSON object")
data_option = settings(SearchConfig, "data")


@cli.command()
@settings(SearchConfig)
@as_json
def search(as_json: bool, **values: Any) -> None:
    """Search learning rate, width and more; train the best in full; register it. The same command resumes."""
    with boundary(resumes=True):
        config = SearchConfig(**given(**values)).for_data(cores=cores())
        demo = config.data == "synthetic"
        if config.storage is not None:
            from pneumonia.search import check_url  # seconds, so not for those who need none

            check_url(config.storage)
        tracker, experiment, run_id = tracking()
        tracker.experiment_id(experiment)  # a server that is away is told of before anything slow

        from pneumonia import search as searching
        from pneumonia.progress import SearchBar, TrainBar, closing
        from pneumonia.tracking import source_tags

        index = films(config.data)
        bar, trainer = SearchBar(), TrainBar()
        with closing(bar), closing(trainer):
            outcome = searching.search(
                config,
                index,
                home=home(),
                tracker=tracker,
                experiment=experiment,
                run_id=run_id,
                tags=source_tags(),
                model_name="pneumonia-demo" if demo else "pneumonia",
                on_progress=bar,
                on_step=trainer.on_step,
                on_epoch=trainer.on_epoch,
                say=say,
            )
        if as_json:
            verdict = outcome.verdict
            click.echo(
                json.dumps(
                    {
                        "run_id": outcome.run_id,
                        "study": outcome.study,
                        "best": outcome.best_params,
                        "metrics": outcome.final.summary if outcome.final else {},
                        "model": None if verdict is None else f"models:/{verdict.name}/{verdict.version}",
                        "alias": None if verdict is None else verdict.alias,
                        "trials": json.loads(outcome.table.to_json(orient="records")),
                    }
                )
            )
        else:
            click.echo("\n" + outcome.table.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep="-"))
        if outcome.joined:
            say("the trials are done; the search that this one joined goes on with the final training")
        elif outcome.verdict is None:
            say("the tracking server was away: type `pneumonia sync` when it is back, to send and register the rest")
            sys.exit(FAILED)
        elif outcome.unsent:
            say(f"{outcome.unsent} runs could not be sent: type `pneumonia sync` when the tracking server is back")
            sys.exit(FAILED)
        elif not as_json:
            score = outcome.final.summary if outcome.final else {}
            say(f"validation: AUC {score['val/auc']:.4f}, log loss {score['val/log_loss']:.4f}, {len_val(index)} films")
            say(outcome.verdict.line())
            next_commands(outcome.verdict.name, demo)


@cli.command()
@data_option
@settings(TrainConfig)
@as_json
def train(as_json: bool, data: str | None, **values: Any) -> None:
    """One training run, tracked, without a search and without registration."""
    with boundary():
        import time
        from dataclasses import asdict

        from pneumonia import cache
        from pneumonia.progress import TrainBar, closing
        from pneumonia.record import Record, Run, close_dead
        from pneumonia.tracking import finished, source_tags
        from pneumonia.trial import data_tags, dataset_of, run_training

        data = "synthetic" if data is None else data
        config = TrainConfig(**given(**values))
        tracker, experiment, run_id = tracking()
        tracker.experiment_id(experiment)
        close_dead(home())
        index = films(data)
        record = Record.create(
            home() / "records" / "train" / f"{time.time_ns()}",
            Run(
                name=f"train {index.root.name} {config.size}px w{config.width} seed {config.seed}",
                role="train",
                experiment=experiment,
                run_id=run_id,
                tags={**data_tags(index), **source_tags()},
                description=f"One training of {config.epochs} epochs at {config.size} px, width {config.width}.",
                dataset=dataset_of(index),
            ),
        )
        record.add_params({"data": data, **asdict(config)})
        tracker.send(record)
        bar = TrainBar()
        with finished(record, tracker), closing(bar):
            decoded = cache.decode(index.keep("train", "val"), size=config.size, home=home(), progress=True)
            record.add_json("data_report.json", index.without(decoded.failures).report.as_dict())
            for line in decoded.unread():
                say(line)
            run_training(config, decoded, record, tracker=tracker, on_epoch=bar.on_epoch, on_step=bar.on_step)
        report_run(record, as_json)


@cli.command()
@click.option("--model", type=Open(click.STRING), help="a model URI or folder [the champion for such films]")
@data_option
@click.option(
    "--prevalences",
    type=Open(Shares()),
    help="shares of ill ones for which to tell PPV and NPV, such as 0.01,0.2 [0.01,0.05,0.2,0.5]",
)
@as_json
def evaluate(model: str | None, data: str | None, prevalences: tuple[float, ...] | None, as_json: bool) -> None:
    """Score the test films for a model: metrics with 95% intervals, a report, predictions. Opens the test split."""
    with boundary():
        from pneumonia import evaluate as evaluating
        from pneumonia.sending import sent
        from pneumonia.tracking import source_tags

        tracker, experiment, run_id = tracking()
        index = films("synthetic" if data is None else data, need="test")
        record, evaluation = evaluating.evaluate_and_record(
            model or f"models:/{'pneumonia-demo' if data in (None, 'synthetic') else 'pneumonia'}@champion",
            index,
            home=home(),
            tracker=tracker,
            experiment=experiment,
            run_id=run_id,
            tags=source_tags(),
            **given(prevalences=prevalences),
            progress=True,
        )
        if as_json:
            click.echo(json.dumps({"run_id": sent(record).get("run_id"), **evaluation.as_dict()}))
        else:
            click.echo(evaluation.text())
            report_run(record, as_json)


@cli.command()
@click.argument("models", nargs=-1, required=True)
@data_option
@as_json
def compare(models: tuple[str, ...], data: str | None, as_json: bool) -> None:
    """Compare MODELS (URIs, run ids, folders; the first is the reference) on the same validation films.

    Paired tests: DeLong's for AUC, McNemar's for accuracy, both by patient. No test film is opened.
    """
    with boundary():
        from pneumonia import compare as comparing
        from pneumonia.comparison import NOTE
        from pneumonia.sending import sent
        from pneumonia.tracking import source_tags

        comparing.named(models)  # before any film is read
        tracker, experiment, run_id = tracking()
        record, comparison = comparing.compare_and_record(
            models,
            films("synthetic" if data is None else data),
            home=home(),
            tracker=tracker,
            experiment=experiment,
            run_id=run_id,
            tags=source_tags(),
            progress=True,
        )
        if as_json:
            click.echo(json.dumps({"run_id": sent(record).get("run_id"), **comparison.as_dict()}))
        else:
            click.echo(comparison.table().set_index("model").T.to_string())
            for line in ("", *comparison.sentences(), NOTE):
                click.echo(line)
            report_run(record, as_json)


@cli.command()
@data_option
@as_json
def eda(data: str | None, as_json: bool) -> None:
    """Describe the films before any model: classes, patients, sizes, grey levels, copies, shortcuts, batches."""
    with boundary():
        from pneumonia import eda as exploring
        from pneumonia.sending import sent
        from pneumonia.tracking import source_tags

        tracker, experiment, run_id = tracking()
        tracker.experiment_id(experiment)  # a server that is away is told of before anything slow
        record, explored = exploring.explore_and_record(
            films("synthetic" if data is None else data),
            home=home(),
            tracker=tracker,
            experiment=experiment,
            run_id=run_id,
            tags=source_tags(),
            progress=True,
        )
        if as_json:
            click.echo(json.dumps({"run_id": sent(record).get("run_id"), **explored.as_dict()}))
        else:
            click.echo(explored.text())
            say(f"the report: {record.artifacts / 'eda.html'}")
            report_run(record, as_json)


@cli.command()
@click.argument("inputs", nargs=-1, required=True)
@click.option("--model", default="models:/pneumonia@champion", show_default=True, help="a model URI or folder")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=None, help=".csv or .jsonl [standard output]")
def predict(inputs: tuple[str, ...], model: str, output: Path | None) -> None:
    """A row a film for films, folders or globs; exit code 1 if any film failed (its error stands in the row)."""
    with boundary():
        from pneumonia import predict as predicting

        tracking()
        if output is not None:
            predicting.check_output(output)
        paths = predicting.films(inputs)
        table = predicting.predict(predicting.load(model), paths, progress=sys.stderr.isatty())
        predicting.write(table, output)
        failed = int((table["error"] != "").sum())
        if output is not None:
            say(f"{len(table)} films, {failed} failed: {output}")
        if failed:
            sys.exit(FAILED)


@cli.command()
@click.option("--dest", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="folder")
def download(dest: Path) -> None:
    """Fetch the public dataset (Kermany 2018, CC BY 4.0, 1.2 GB); goes on where it was broken off."""
    with boundary(resumes=True):
        from pneumonia.download import download as fetch

        folder = fetch(dest)
        say(f"the films stand in {folder}; next: uv run pneumonia search --data {folder}")


@cli.command()
@click.argument("version")
@click.option("--name", default="pneumonia", show_default=True, help="registered model")
def promote(version: str, name: str) -> None:
    """Make VERSION the champion by hand, whatever the gate said."""
    with boundary():
        from pneumonia.registry import promote as promoting

        say(promoting(tracking()[0], name, version))


@cli.command()
def sync() -> None:
    """Send to MLflow what could not be sent, and register what was to be registered."""
    with boundary(resumes=True):
        from pneumonia import registry
        from pneumonia.record import close_dead

        tracker = tracking()[0]
        close_dead(home())
        sent, left = tracker.sync(home())
        say(f"{len(sent)} runs sent, {len(left)} still to be sent")
        verdicts, missed = registry.catch_up(tracker, home())
        for line in [*(verdict.line() for verdict in verdicts), *missed]:
            say(line)
        if left or missed:
            sys.exit(FAILED)


def main() -> None:
    """The console script."""
    gc.set_threshold(50_000)  # from 700: what is imported is no garbage, and looking costs a third of the time
    leave_quickly()
    mlflow_defaults()
    cli()


def len_val(index: "Index") -> int:
    return len(index.only("val"))


def report_run(record: "Record", as_json: bool) -> None:
    from pneumonia.sending import sent, unsent

    have = sent(record)
    if as_json:
        click.echo(json.dumps({"run_id": have.get("run_id"), "model_id": have.get("model_id"), **record.summary}))
    else:
        say(f"run {have.get('run_id')}" + (f", model models:/{have['model_id']}" if "model_id" in have else ""))
    if unsent(record):
        say("the tracking server was away: type `pneumonia sync` when it is back")
        sys.exit(FAILED)


def next_commands(name: str, demo: bool) -> None:
    say("\nNext:")
    say("  uv run mlflow ui                       # compare the runs at http://127.0.0.1:5000")
    say(f"  uv run mlflow models serve -m models:/{name}@champion --env-manager local -p 5001")
    if demo:
        say("  uv run mlflow run . --env-manager local --experiment-name pneumonia -P data=PATH/TO/chest_xray")
    else:
        say(f"  uv run pneumonia evaluate --model models:/{name}@champion --data PATH/TO/chest_xray")
