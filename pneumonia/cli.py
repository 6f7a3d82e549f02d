"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from pneumonia.config import SearchConfig, TrainConfig

if TYPE_CHECKING:
    from pneumonia.data import Index
    from pneumonia.record import Record
    from pneumonia.tracking import Tracker

F = TypeVar("F", bound=Callable[..., Any])
BAD_INPUT, FAILED = 2, 1
TYPES: dict[Any, Any] = {int: click.INT, float: click.FLOAT, str: click.STRING}


class Open(click.ParamType[Any]):
    """A value, or `auto` or `none` for one that the program decides; MLproject parameters cannot be left out."""

    def __init__(self, inner: "click.ParamType[Any]") -> None:
        self.inner, self.name = inner, inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value in (None, "auto", "none", "") else self.inner.convert(value, param, ctx)


def settings(config: type[TrainConfig] | type[SearchConfig], *names: str) -> Callable[[F], F]:
    """Options for fields of a configuration, with the help that stands there."""
    by_name = {field.name: field for field in fields(config)}

    def decorate(function: F) -> F:
        for name in reversed(names or tuple(by_name)):
            field = by_name[name]
            kind = _click_type(field.type)
            open_type = kind if isinstance(kind, click.Choice) or name == "data" else Open(kind)
            shown = (
                "" if field.default is None else f" [{field.default:g}]" if _number(field) else f" [{field.default}]"
            )
            text = field.metadata["help"] + shown
            function = click.option(f"--{name.replace('_', '-')}", name, type=open_type, default=None, help=text)(
                function
            )
        return function

    return decorate


def _number(field: Any) -> bool:
    return isinstance(field.default, (int, float))


def _click_type(annotation: Any) -> "click.ParamType[Any]":
    for kind, click_type in TYPES.items():
        if annotation in (kind, kind | None):
            return click_type  # type: ignore[no-any-return]
    return click.Choice(annotation.__args__)


def given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


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
        from pneumonia import search as searching
        from pneumonia.progress import SearchBar, TrainBar, closing

        config = SearchConfig(**given(**values)).for_data(cores=cores())
        if config.storage is not None:
            searching.check_url(config.storage)
        demo = config.data == "synthetic"
        tracker, experiment, run_id = tracking()
        tracker.experiment_id(experiment)  # a server that is away is told of before any film is drawn or read
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
        from pneumonia.tracking import finished
        from pneumonia.trial import data_tags, dataset_of, half_the_cores, run_training

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
        with finished(record, tracker), closing(bar), half_the_cores():
            decoded = cache.decode(index, size=config.size, home=home(), progress=True)
            record.add_json("data_report.json", decoded.index.report.as_dict())
            for line in decoded.unread():
                say(line)
            run_training(config, decoded, record, tracker=tracker, on_epoch=bar.on_epoch, on_step=bar.on_step)
        report_run(record, as_json)


@cli.command()
@click.option("--model", type=Open(click.STRING), help="a model URI or folder [the champion for such films]")
@data_option
@as_json
def evaluate(model: str | None, data: str | None, as_json: bool) -> None:
    """Score the test films for a model: metrics with 95% intervals, figures, predictions. Opens the test split."""
    with boundary():
        from pneumonia import evaluate as evaluating
        from pneumonia.tracking import sent

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
            progress=True,
        )
        if as_json:
            click.echo(json.dumps({"run_id": sent(record).get("run_id"), **evaluation.as_dict()}))
        else:
            click.echo(evaluation.text())
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
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away costs 5 s, not 247
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a uv.lock in this folder is not the model's
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # three files at a time are no progress
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # its INFO and WARNING lines tear the progress bars
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    cli()


@contextmanager
def boundary(*, resumes: bool = False) -> Iterator[None]:
    """Signals are caught, and errors become one sentence and an exit code; `resumes`: the command goes on where it
    was stopped when it is typed again.
    """
    from pneumonia.stop import Interrupted, Stop, follow_mlflow_run

    stop = Stop()
    stop.raise_on_signals()
    adopted = os.environ.get("MLFLOW_RUN_ID")
    if adopted is not None:
        follow_mlflow_run()
    try:
        yield
    except Interrupted as event:
        click.echo(f"stopped by {event}" + ("; the same command goes on from here" if resumes else ""), err=True)
        code = 128 + event.signum
        if adopted is not None:
            close_adopted(adopted, str(event))
    except (ValueError, FileNotFoundError) as error:  # DataError and FilmError are ValueErrors
        click.echo(f"error: {error}", err=True)
        code = BAD_INPUT
    except (RuntimeError, ArithmeticError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        code = FAILED
    else:
        return
    sys.exit(code)


def close_adopted(run_id: str, reason: str) -> None:
    """Ends the run that `mlflow run` made as KILLED, whether or not a record took it over before the stop."""
    from pneumonia.stop import end_mlflow_run
    from pneumonia.tracking import Tracker, TrackingError, close_run, default_uri, reach, tracker_errors

    tracker = Tracker(default_uri())
    with suppress(TrackingError), tracker_errors(tracker.uri):  # a server that is away gets it from the record, later
        reach(tracker.uri, seconds=1)
        close_run(tracker.client, run_id, "INTERRUPTED", reason, trial=False)
    end_mlflow_run()


def home() -> Path:
    return Path(os.environ.get("PNEUMONIA_HOME", ".pneumonia")).absolute()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(line: str) -> None:
    click.echo(line, err=True)


def source_tags() -> dict[str, str]:
    from pneumonia.tracking import source_tags as tags

    return tags()


def tracking() -> "tuple[Tracker, str, str | None]":
    """The tracker, the experiment's name, and the run to adopt when `mlflow run` made one."""
    from pneumonia.tracking import Tracker, default_uri, tracker_errors

    tracker = Tracker(default_uri())
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "pneumonia")
    if run_id is not None:
        with tracker_errors(tracker.uri):
            of = tracker.client.get_run(run_id).info.experiment_id
            experiment = tracker.client.get_experiment(of).name
    return tracker, experiment, run_id


def films(data: str, *, need: Literal["train", "test"] = "train") -> "Index":
    """The index of a folder, a manifest, or the synthetic films, which are drawn when they are not there."""
    from pneumonia import synthetic
    from pneumonia.data import require, scan

    if not data.strip():
        raise ValueError("data is empty: give a folder, a manifest, or the word synthetic")
    folder = synthetic.write(home() / "synthetic", progress=True) if data == "synthetic" else Path(data)
    index = scan(folder, progress=True)
    require(index, need)
    if need == "train":
        require(index, "val")
    for line in index.report.lines():
        say(line)
    return index


def len_val(index: "Index") -> int:
    return len(index.only("val"))


def report_run(record: "Record", as_json: bool) -> None:
    from pneumonia.tracking import sent, unsent

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
