"""Writes docs/deploy/LICENCES.md: the licence of every package that a served model needs, and of its weights.

    uv run python .ci/licences.py

The packages are those of docs/deploy/serving/requirements.txt, with what they need in turn, and the licences what their
metadata says, on the platform of this machine.
"""

from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DEPLOY = Path(__file__).resolve().parents[1] / "docs" / "deploy"
FILE = DEPLOY / "LICENCES.md"
HEAD = """# Licences of what is served

Written by `.ci/licences.py` from what the packages' metadata says, on Linux with Python 3.11.

## The weights

| what | licence |
|---|---|
| the code of a package, `served.py`, and its graph | MIT, as this project |
| weights that were trained from random ones, which is the default | whoever trained them says; \
they are made of the films, and no weights are given out with this project |
| the public films (Kermany, Zhang, Goldbaum 2018, doi 10.17632/rscbjbr9sj.2), where it was trained \
on them | CC BY 4.0: name the authors |
| weights that a training began with (`--weights`), of torchvision or timm | \
those of their authors: `weights` in `package.json` and the model card name them, \
and their licence where the library states one |

Other programs of [the compose file](compose.yaml): PostgreSQL (PostgreSQL licence), nginx and its JavaScript module \
(BSD-2-Clause), Python (PSF-2.0), Debian's packages (each its own, in `/usr/share/doc`).

## The packages of a served model

`*` stands at those that a model names itself; the others are needed by these. The wheel of opencv-python-headless \
brings FFmpeg (LGPL-2.1) and other libraries, whose texts are in its `LICENSE-3RD-PARTY.txt`.

| package | version | licence |
|---|---|---|
"""


def required() -> list[str]:
    lines = (DEPLOY / "serving" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [canonicalize_name(Requirement(line).name) for line in lines]


def needed() -> dict[str, Distribution]:
    """What a served model needs, by name: its requirements, and what these need here, without extras."""
    found: dict[str, Distribution] = {}
    names = required()
    while names:
        name = canonicalize_name(names.pop())
        if name in found:
            continue
        found[name] = distribution(name)
        wanted = [Requirement(line) for line in found[name].requires or []]
        names += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """As the metadata says: its expression, its classifiers, or the first line of its text.

    Raises:
        ValueError: it says nothing.
    """
    about: Any = package.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    if named := [line.split(" :: ")[-1] for line in classifiers if line != "License :: OSI Approved"]:
        return ", ".join(named)
    if text := (about.get("License") or "").strip():
        return str(text.splitlines()[0][:80])
    raise ValueError(f"{package.name} does not say its licence")


def page() -> str:
    own = required()
    rows = [
        f"| {name}{' *' if name in own else ''} | {package.version} | {licence(package)} |"
        for name, package in needed().items()
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
