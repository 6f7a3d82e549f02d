"""The command `clean`: what can go, and with --yes it goes."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.context import known_home, store
from pneumonia.cli.errors import FAILED, exit_codes
from pneumonia.cli.options import as_json
from pneumonia.cli.output import say

if TYPE_CHECKING:
    from pneumonia.housekeeping.removable import Removable

KIND_LETTERS, SIZE_LETTERS = 11, 9


@click.command()
@click.option("--yes", is_flag=True, help="remove what is listed; without it nothing is removed")
@click.option(
    "--older",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="caches and checkpoints go that nobody used for so many days",
)
@click.option(
    "--keep-models",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="of each finished search, models of trials beyond the N best go too [all stay]",
)
@as_json
def clean(yes: bool, older: float, keep_models: int | None, as_json: bool) -> None:
    """List what can go, with its size; with --yes it goes.

    Caches that nobody opens, what killed processes left half-written, checkpoints that nobody goes on with, and records
    that the tracking store has in full. What was not sent stays, as do the records of an unfinished study.
    """
    with exit_codes():
        from pneumonia.housekeeping.sizes import readable
        from pneumonia.tracking.connection import TrackingError

        found, shown, failed = list(removable(older, keep_models)), list[dict[str, Any]](), 0
        for one in found:
            state = "can go"
            if yes:
                try:
                    state = "removed" if one.remove() else "stays: it is in use again"
                except (OSError, TrackingError) as error:
                    state, failed = f"stays: {error}", failed + 1
            shown.append({"kind": one.kind, "what": one.what, "bytes": one.size, "why": one.why, "state": state})
            if not as_json:
                told = one.why if state in ("can go", "removed") else state
                click.echo(f"{one.kind:{KIND_LETTERS}}{readable(one.size):>{SIZE_LETTERS}}  {one.what}  ({told})")
        gone = [one for one in shown if one["state"] == "removed"]
        total = sum(one["bytes"] for one in (gone if yes else shown))
        if as_json:
            click.echo(json.dumps({"removed": yes, "bytes": total, "items": shown}, indent=1))
        if not found:
            say("nothing can go")
        elif yes:
            say(f"{len(gone)} of {len(shown)} removed, {readable(total)} freed")
        else:
            say(f"{len(shown)} can go, {readable(total)}; nothing was removed: --yes removes them")
        if failed:
            sys.exit(FAILED)


def removable(older: float, keep_models: int | None) -> "Iterator[Removable]":
    """All that can go, each thing once."""
    from pneumonia.housekeeping import removable as files
    from pneumonia.housekeeping import stores, tracked
    from pneumonia.tracking.connection import TrackingError, reach
    from pneumonia.tracking.store import tracker_errors

    tracker, (home, _) = store(), known_home()
    seen = set[str]()

    def each(some: "Iterator[Removable]") -> "Iterator[Removable]":
        for one in some:
            if one.what not in seen:
                seen.add(one.what)
                yield one

    yield from each(files.temporary_files())
    if home is not None:
        for of_home in (partial(files.caches, days=older), files.half_written, partial(files.checkpoints, days=older)):
            yield from each(of_home(home))
    try:
        reach(tracker.uri)
        with tracker_errors(tracker.uri):
            if not stores.has_tables(tracker.uri):
                return
        of = tracked.searches(tracker, [] if home is None else tracked.storages(home))
        if home is not None:
            yield from each(tracked.sent_records(home, tracker, of, days=older))
        if keep_models is not None:
            yield from each(tracked.spare_models(tracker, of, keep_models, home))
    except TrackingError as error:
        say(f"{error}: records and models are not looked at, and stay")
