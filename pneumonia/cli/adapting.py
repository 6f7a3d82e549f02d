"""The command that takes a model to another place: `adapt`."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.context import context
from pneumonia.cli.data import films, unlabelled
from pneumonia.cli.errors import FAILED, exit_codes
from pneumonia.cli.options import Command, Open, any_dicom_option, as_json, given, settings
from pneumonia.cli.output import link, say, say_link
from pneumonia.config import SearchConfig, TrainConfig

if TYPE_CHECKING:
    from pneumonia.results.adaptation import Adaptation, Matched


@click.command(cls=Command)
@click.option("--model", type=Open(click.STRING), help="model URI or folder [models:/pneumonia@champion]")
@click.option("--data", required=True, help="a folder of films of the place, or a CSV/Parquet manifest")
@click.option("--replay", type=Open(click.STRING), help="films that the model comes from, to be mixed in [none]")
@click.option("--name", type=Open(click.STRING), help="name of the place [that of the folder]")
@settings(SearchConfig, "positive")
@settings(TrainConfig, "seed")
@click.option(
    "--labels", type=click.Choice(["given", "none"]), default="given", help="none: the films have no labels [given]"
)
@click.option("--prevalence", type=Open(click.FLOAT), help="share of ill films, where there are no labels [0.5]")
@any_dicom_option
@as_json
def adapt(data: str, labels: str, prevalence: float | None, as_json: bool, **values: Any) -> None:
    """Fine-tune and recalibrate a model on few films of another place, and register it as pneumonia-NAME.

    Says what that gained on films that were held out, by patient. It becomes the champion of pneumonia-NAME if it is
    no worse there than what it was made from, and than the champion before. Films of a split called test are left
    out: `evaluate` scores them.

    With --labels none only the threshold and the calibration move, until as many films are called ill as --prevalence
    says; films may then be any folder, or a manifest without the column label.
    """
    with exit_codes():
        from pneumonia.cli.progress_bars import Bars
        from pneumonia.registry import versions
        from pneumonia.runs.adapt import adapt_and_record, match_and_record, place_name, read_parent
        from pneumonia.runtime.working_folder import located
        from pneumonia.tracking.sync import sent, unsent

        model, replay, name, read_all = (values.pop(word) for word in ("model", "replay", "name", "any_dicom"))
        if labels == "given" and prevalence is not None:
            raise ValueError("--prevalence goes with --labels none: films with labels tell it themselves")
        positive, seed = values.pop("positive"), TrainConfig(**given(**values)).seed
        run = context()
        parent = read_parent(located(model) if model else "models:/pneumonia@champion")
        classes, read_all = parent.served.classes, bool(read_all)
        found: Adaptation | Matched
        with Bars(say) as bars:
            if labels == "none":
                index = unlabelled(data, classes, any_dicom=read_all)
                place = place_name(name or index.root.name)
                record, found = match_and_record(parent, index, run, place=place, prevalence=prevalence, listener=bars)
            else:
                index = films(data, positive=positive, like=classes, any_dicom=read_all, need="any")
                home = None if replay is None else films(replay, like=classes, any_dicom=read_all)
                place = place_name(name or index.root.name)
                record, found = adapt_and_record(parent, index, run, place=place, home=home, seed=seed, listener=bars)
        verdict = versions.enter(run.tracker, record) if versions.is_waiting(record) else None
        if as_json:
            told = {"run_id": sent(record).get("run_id"), "link": link(record, run.tracker), **found.as_dict()}
            told["model"] = None if verdict is None else f"models:/{verdict.name}/{verdict.version}"
            told["alias"] = None if verdict is None else verdict.alias
            click.echo(json.dumps(told))
        else:
            click.echo(found.text())
        if unsent(record) or verdict is None:
            say("the tracking server was away: type `pneumonia sync` when it is back, to send and register the rest")
            sys.exit(FAILED)
        if not as_json:
            say(verdict.line())
            say_link("see it", link(record, run.tracker), run.tracker)
