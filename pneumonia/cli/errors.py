"""Errors as one sentence and an exit code, and signals as a stop that can be resumed.

Everything heavy is imported by the function that needs it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

BAD_INPUT, FAILED = 2, 1  # exit codes


@contextmanager
def exit_codes(*, resumes: bool = False) -> Iterator[None]:
    """Catches signals and turns errors into one sentence and an exit code.

    Args:
        resumes: whether the same command, typed again, continues where it was stopped.
    """
    from pneumonia.runtime.disk import is_full
    from pneumonia.runtime.secrets import without_secrets
    from pneumonia.runtime.signals import Interrupted, Stop, follow_mlflow_run
    from pneumonia.runtime.working_folder import go_there

    stop = Stop()
    stop.raise_on_signals()
    adopted = os.environ.get("MLFLOW_RUN_ID")
    if adopted is not None:
        follow_mlflow_run()
        go_there()
    try:
        yield
    except Interrupted as event:
        click.echo(f"stopped by {event}" + ("; the same command resumes from here" if resumes else ""), err=True)
        code = 128 + event.signum
        if adopted is not None:
            close_adopted(adopted, str(event))
    except (ValueError, FileNotFoundError) as error:  # DataError and FilmError are ValueErrors
        click.echo(f"error: {without_secrets(str(error))}", err=True)
        code = BAD_INPUT
    except (RuntimeError, ArithmeticError, OSError) as error:
        goes_on = "; with more room, the same command resumes from here" if resumes and is_full(error) else ""
        click.echo(f"error: {without_secrets(str(error))}{goes_on}", err=True)
        code = FAILED
    else:
        return
    sys.exit(code)


def close_adopted(run_id: str, reason: str) -> None:
    """Ends the run that `mlflow run` made as KILLED, whether or not a record took it over before the stop."""
    from pneumonia.runtime.signals import end_mlflow_run
    from pneumonia.tracking.connection import TrackingError, reach
    from pneumonia.tracking.store import Tracker, default_uri, tracker_errors
    from pneumonia.tracking.sync import close_run

    tracker = Tracker(default_uri())
    with suppress(TrackingError), tracker_errors(tracker.uri):  # a server that is away learns it from the record, later
        reach(tracker.uri, seconds=1)
        close_run(tracker.client, run_id, "INTERRUPTED", reason, trial=False)
    end_mlflow_run()
