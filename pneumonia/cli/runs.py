"""Commands that train: `search`, `train`, and `sync`, which sends their runs later if MLflow was away."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pneumonia.cli.context import check_files, context, home, store
from pneumonia.cli.data import films
from pneumonia.cli.errors import FAILED, exit_codes
from pneumonia.cli.options import Command, Open, any_dicom_option, as_json, data_option, gallery_option, given, settings
from pneumonia.cli.output import by_uv, link, report_run, say, say_link
from pneumonia.config import SearchConfig, TrainConfig
from pneumonia.runtime.environment import cores
from pneumonia.tracking.ui import is_served

if TYPE_CHECKING:
    from pneumonia.search.run import Outcome
    from pneumonia.tracking.store import Tracker

C = TypeVar("C", SearchConfig, TrainConfig)


@click.command(cls=Command)
@settings(SearchConfig)
@as_json
def search(as_json: bool, **values: Any) -> None:
    """Search for good settings, train the best in full and register the model. The same command resumes."""
    with exit_codes(resumes=True):
        config = SearchConfig(**given(**values))
        demo = config.data == "synthetic"
        if config.storage is not None:
            config = replace(config, storage=checked_storage(config.storage, config.study))
        config = with_weights(config)
        run = context()
        tracker, model_name = run.tracker, "pneumonia-demo" if demo else "pneumonia"
        experiment_id = tracker.experiment_id(run.experiment)  # the link needs it, and the server may go away

        from pneumonia.cli.progress_bars import Bars
        from pneumonia.registry import versions
        from pneumonia.search import search as run_search
        from pneumonia.tracking.ui import address, view_link

        if (said := versions.champion_gone(tracker, model_name)) is not None:
            say(said)
        index = films(config.data, positive=config.positive, any_dicom=config.any_dicom)
        config = config.for_data(cores=cores(), films=len(index.only("train")))
        check_network(config.recipe())
        with Bars(say) as bars:
            outcome = run_search(config, index, run, model_name=model_name, listener=bars)
        where = view_link(address(tracker.uri), experiment_id, outcome.run_id)
        if as_json:
            click.echo(json.dumps(outcome_as_dict(outcome, where)))
        else:
            click.echo("\n" + outcome.table.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep="-"))
        if outcome.verdict is None and not outcome.joined and not outcome.done:
            say("the tracking server was away: type `pneumonia sync` when it is back, to send and register the rest")
            sys.exit(FAILED)
        if outcome.unsent:
            say(f"{outcome.unsent} runs could not be sent: type `pneumonia sync` when the tracking server is back")
            sys.exit(FAILED)
        if outcome.done:
            say(f"{champion_words(tracker, model_name)}; the same command with --new starts the next study")
            say_link("its trials side by side", where, tracker)
        elif outcome.joined:
            say("the trials are done; the search that leads this study goes on with the final training")
            say_link("its trials side by side", where, tracker)
        elif outcome.verdict is not None and not as_json:
            score = outcome.final.summary if outcome.final else {}
            films_scored = len(index.only("val"))
            say(f"validation: AUC {score['val/auc']:.4f}, log loss {score['val/log_loss']:.4f}, {films_scored} films")
            say(outcome.verdict.line())
            say_link("its trials side by side", where, tracker)
            next_commands(outcome.verdict.name, tracker, demo)


def champion_words(tracker: "Tracker", name: str) -> str:
    """Which version of a model is served."""
    from pneumonia.registry.gate import champion_of
    from pneumonia.tracking.store import tracker_errors

    with tracker_errors(tracker.uri):
        version = champion_of(tracker.client, name)
    return f"{name} has no champion" if version is None else f"the champion is {name} version {version}"


def with_weights(config: C) -> C:
    """`config` with its file of weights by its place in the folder that the command was typed in."""
    from pneumonia.runtime.working_folder import located

    return config if config.weights in (None, "none", "default") else replace(config, weights=located(config.weights))


def check_network(config: TrainConfig) -> None:
    """Downloads the weights that a training starts from, if it starts from such.

    Raises:
        BackboneError: there is no such network, it takes no films of that size, or its weights cannot be had.
    """
    if (config.network, config.weights) != ("cnn", "none"):
        from pneumonia.training import backbones

        backbones.start(config)


def checked_storage(storage: str, study: str | None) -> str:
    """The study's database, a sqlite file by its place in the folder that the command was typed in.

    Raises:
        StudyError: a search could not keep its study there.
    """
    from pneumonia.runtime.working_folder import located
    from pneumonia.search import check  # takes seconds to import

    driver, slashes, path = storage.partition(":///")
    if driver.startswith("sqlite") and path and (there := located(path)) != path:
        storage = f"{driver}{slashes}{there}"
        say(f"the study is in {there}")
    check(storage, study)
    return storage


def outcome_as_dict(outcome: "Outcome", link: str) -> dict[str, Any]:
    """What `search --json` prints."""
    verdict = outcome.verdict
    return {
        "run_id": outcome.run_id,
        "link": link,
        "study": outcome.study,
        "best": outcome.best_params,
        "metrics": outcome.final.summary if outcome.final else {},
        "model": None if verdict is None else f"models:/{verdict.name}/{verdict.version}",
        "alias": None if verdict is None else verdict.alias,
        "done": outcome.done,
        "trials": json.loads(outcome.table.to_json(orient="records")),
    }


@click.command(cls=Command)
@data_option
@settings(TrainConfig)
@click.option(
    "--seeds",
    type=Open(click.INT),
    help="how many seeds to train with, counting up from --seed; logs means and spreads [1]",
)
@click.option(
    "--new",
    type=Open(click.BOOL),
    help="begin anew, where the same training was stopped before its end; else it goes on there [false]",
)
@gallery_option
@any_dicom_option
@as_json
def train(
    as_json: bool,
    data: str | None,
    positive: str | None,
    seeds: int | None,
    new: bool | None,
    gallery: bool | None,
    any_dicom: bool | None,
    **values: Any,
) -> None:
    """Train once and log the run; searches nothing and registers nothing. The same command resumes.

    With --seeds N it trains once for each of N seeds, under a run with the mean and spread of their scores.
    """
    with exit_codes(resumes=True):
        from pneumonia.cli.progress_bars import Bars
        from pneumonia.runs.seeds import seeds_from
        from pneumonia.runs.seeds import train_and_record as train_seeds
        from pneumonia.runs.train import suited, train_and_record
        from pneumonia.tracking.record import close_dead
        from pneumonia.tracking.sync import sent
        from pneumonia.tracking.ui import address, view_link

        data = "synthetic" if data is None else data
        config = with_weights(TrainConfig(**given(**values)))
        check_network(config)
        several = seeds_from(config.seed, 1 if seeds is None else seeds)
        run = replace(context(), pictures=SearchConfig.gallery if gallery is None else gallery, resume=not new)
        for dead in close_dead(run.home):
            run.tracker.try_send(dead)  # else its run would stand there as RUNNING
        index = films(data, positive=positive, any_dicom=any_dicom)
        with Bars(say, several) as bars:
            config = suited(config, index, listener=bars)
            if len(several) > 1:
                found = train_seeds(config, several, index, run, data=data, listener=bars)
            else:
                record = train_and_record(config, index, run, data=data, listener=bars)
        if len(several) == 1:
            model = {"model_id": sent(record).get("model_id"), **record.summary}
            report_run(record, run.tracker, model if as_json else None)
            return
        if as_json:
            click.echo(json.dumps({"link": link(found.record, run.tracker), **found.as_dict()}))
        else:
            click.echo("\n" + found.text())
        if found.failed:
            say(found.sentence())
        if found.unsent:
            say(f"{found.unsent} runs could not be sent: type `pneumonia sync` when the tracking server is back")
        if not as_json and not found.unsent:
            have = sent(found.record)
            where = view_link(address(run.tracker.uri), have["experiment_id"], have["run_id"])
            say_link("the seeds side by side", where, run.tracker)
            report_run(found.record, run.tracker)
        if found.failed or found.unsent:
            sys.exit(FAILED)


@click.command()
def sync() -> None:
    """Send MLflow the runs that it missed while it was away, and register their models."""
    with exit_codes(resumes=True):
        from pneumonia.registry import versions
        from pneumonia.tracking import kept_models
        from pneumonia.tracking.record import close_dead

        tracker = store()
        close_dead(home())
        for experiment in sorted({record.run.experiment for record in tracker.waiting(home())}):
            check_files(tracker, experiment)
        sent, left = kept_models.sync(tracker, home())
        say(f"{len(sent)} runs sent, {len(left)} still to be sent")
        for record in sent[-1:]:
            say_link("the last", link(record, tracker), tracker)
        verdicts, missed = versions.catch_up(tracker, home())
        for line in [*(verdict.line() for verdict in verdicts), *missed]:
            say(line)
        if left or missed:
            sys.exit(FAILED)


def next_commands(name: str, tracker: "Tracker", demo: bool) -> None:
    from pneumonia.runtime.working_folder import is_checkout, typed_in
    from pneumonia.tracking.store import has_old_runs

    say("\nNext:")
    if typed_in() is not None:  # `uv run` does not find the project there
        if not is_served(tracker.uri):
            say("  mlflow ui                                          # compare runs in MLflow's UI")
        say(f"  mlflow models serve -m models:/{name}@champion --env-manager local -p 5001")
        if demo:
            say("  mlflow run PROJECT --env-manager local --experiment-name pneumonia -P data=PATH/TO/chest_xray")
        else:
            say(f"  mlflow run PROJECT -e evaluate -P model=models:/{name}@champion -P data=PATH/TO/chest_xray")
        return
    uv = by_uv()
    if not is_served(tracker.uri):
        say(f"  {uv}pneumonia ui".ljust(52) + " # compare runs in MLflow's UI")
    # MLflow's own commands would take the folder of old runs for their store.
    ours = tracker.uri.startswith("sqlite") and has_old_runs(Path("mlruns"))
    where = f"MLFLOW_TRACKING_URI={tracker.uri} " if ours else ""
    say(f"  {where}{uv}mlflow models serve -m models:/{name}@champion --env-manager local -p 5001")
    if not demo:
        say(f"  {uv}pneumonia evaluate --model models:/{name}@champion --data PATH/TO/chest_xray")
    elif is_checkout():
        say(f"  {where}{uv}mlflow run . --env-manager local --experiment-name pneumonia -P data=PATH/TO/chest_xray")
    else:
        say(f"  {uv}pneumonia search --data PATH/TO/chest_xray")
