"""The films that `--data` names."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pneumonia.cli.context import home
from pneumonia.cli.output import say

if TYPE_CHECKING:
    from pneumonia.data.index import Index


def films(
    data: str,
    *,
    positive: str | None = None,
    like: tuple[str, str] | None = None,
    any_dicom: bool | None = None,
    need: Literal["train", "test", "any"] = "train",
) -> "Index":
    """The index of a folder, a manifest, or the synthetic films, which are drawn if need be. Prints what was found,
    also before an error; `positive` and `like` as for `scan`. The split that is needed must hold both classes.
    """
    from pneumonia import synthetic
    from pneumonia.data.index import DataError, require, scan
    from pneumonia.runtime.working_folder import located, looked_in

    if not data.strip():
        raise ValueError("data is empty: give a folder, a manifest, or the word synthetic")
    folder = synthetic.write(home() / "synthetic", progress=True) if data == "synthetic" else Path(located(data))
    if not os.path.exists(folder):
        raise ValueError(f"looked for a folder of films or a manifest, and there is nothing at {looked_in(data)}")
    try:
        index = scan(
            folder,
            positive=positive,
            like=like,
            any_dicom=bool(any_dicom),
            one_split=need == "any",
            fetch_to=home() / "films",
            progress=True,
        )
    except DataError as error:
        for line in error.report:
            say(line)
        raise
    for line in index.report.lines():
        say(line)
    if need != "any":
        require(index, need)
    if need == "train":
        require(index, "val")
    return index


def unlabelled(data: str, classes: tuple[str, str], *, any_dicom: bool = False) -> "Index":
    """The index of the films of a folder, with all below it, or of a manifest, whose labels are not looked at."""
    from pneumonia.data import manifest, remote
    from pneumonia.data.index import scan_unlabelled
    from pneumonia.data.inventory import tally
    from pneumonia.runtime.working_folder import located, looked_in
    from pneumonia.serving import film_list

    place = Path(located(data))
    if not os.path.exists(place):
        raise ValueError(f"looked for a folder of films or a manifest, and there is nothing at {looked_in(data)}")
    if place.is_dir():
        paths, passed = film_list.films([str(place)])
        if passed:
            say(f"skipped: {tally(passed)}")
        root = place
    else:
        root, named = place.parent, manifest.read(place, labels=False).films
        addresses = [film.cells["path"] for film in named if remote.is_address(film.cells["path"])]
        fetched = remote.fetch(addresses, home() / "films", progress=True)
        for address, why in fetched.items():
            if isinstance(why, str):
                say(f"{address}: {why}")
        places = [fetched.get(film.cells["path"]) or film.located(root)[0] for film in named]
        paths = [path for path in places if isinstance(path, Path)]
    index = scan_unlabelled(paths, root, classes, any_dicom=any_dicom)
    for line in index.report.lines():
        say(line)
    return index
