"""All checks in the order in which they are of use: what the later ones need, the earlier ones look at.

The modules of the checks are imported when their turn comes: they load what `libraries` has tried.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pneumonia.housekeeping import installation, machine
from pneumonia.housekeeping.checkup import Check, Look, bounded, examine
from pneumonia.runtime.messages import first_line
from pneumonia.runtime.secrets import masked

PLACE_SECONDS = 20.0  # for finding the home, which asks the tracking store's database when it was made


@dataclass(frozen=True)
class Place:
    """Where a command's runs go: the tracking store, and its home if there is one; else it is made in `otherwise`."""

    uri: str
    home: Path | None
    otherwise: Path


def every_check(
    variables: Mapping[str, str], place: Callable[[], Place], *, storage: str | None, experiment: str
) -> Iterator[Check]:
    """The checks of this machine, then those of its stores if the packages for them can be loaded.

    Args:
        variables: the environment.
        place: finds the stores; called when MLflow can be loaded.
        storage: the study's database, where it is not the one in the home.
        experiment: the one whose files are looked for.
    """
    yield from _of_machine(variables)
    loaded = list(examine([Look("libraries", installation.libraries, installation.LOAD_SECONDS)]))
    yield from loaded
    if any(check.state == "error" for check in loaded):
        yield Check("tracking store", "error", "is not looked at, nor GPU, nginx, home and study, before these load")
        return
    yield from examine([Look("gpu", machine.gpu), Look("nginx", installation.nginx)])
    try:
        where = bounded(place, PLACE_SECONDS)
    except Exception as error:  # whatever MLflow raises of a setting; the checks so far are told in any case
        yield Check("tracking store", "error", f"it cannot be told which it is: {masked(first_line(error))}")
        return
    yield from _of_stores(where, storage, experiment)


def _of_machine(variables: Mapping[str, str]) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield from examine(
        [
            Look("python", lambda: installation.python(installation.supported(), version)),
            Look("packages", lambda: installation.packages(installation.supported())),
            Look("environment", partial(machine.environment, variables)),
            Look("cores", machine.cores),
            Look("memory", machine.memory),
        ]
    )


def _of_stores(place: Place, storage: str | None, experiment: str) -> Iterator[Check]:
    try:
        from pneumonia.housekeeping import leftovers, stores
        from pneumonia.tracking import places
        from pneumonia.tracking.ui import is_served
    except ImportError as error:  # a smaller package
        yield Check("tracking store", "error", f"is not looked at, since a package cannot be loaded: {error}")
        return

    uri, home = place.uri, place.home
    written = {"state and caches": home or place.otherwise}
    if (database := places.on_this_machine(uri)) is not None:
        written["tracking store"] = database.absolute().parent
    yield from examine(
        [
            Look("disk", partial(machine.disks, written)),
            Look("home", partial(leftovers.home, home, place.otherwise)),
        ]
    )
    found = list(
        examine(
            [
                Look("tracking store", lambda: stores.tracking_store(uri, installation.range_of("mlflow"))),
                Look("tracking schema", partial(stores.tracking_schema, uri)),
            ]
        )
    )
    yield from found
    looks = []
    # MLflow makes a database, or its tables, where there are none, and refuses an old schema.
    if not any(check.state == "error" for check in found) and (is_served(uri) or found[-1].name == "tracking schema"):
        looks += [
            Look("run files", partial(stores.files, uri, experiment)),
            Look("champion", partial(stores.champions, uri)),
            Look("other runs", partial(leftovers.open_elsewhere, home, uri)),
        ]
    if home is not None:
        looks += [
            Look("stale runs", partial(leftovers.stale_runs, home)),
            Look("unsent", partial(leftovers.unsent_records, home, uri)),
            Look("caches", partial(leftovers.caches, home)),
        ]
    if storage is not None or home is not None:
        looks.append(Look("study database", partial(stores.study, storage or f"sqlite:///{home}/study.db")))
    yield from examine(looks)
