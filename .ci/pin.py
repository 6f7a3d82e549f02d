"""Writes every pinned version, by name, into pyproject.toml and conda.yaml, from what uv resolves.

    python .ci/pin.py                  after a requirement in pyproject.toml was added, taken out or changed
    python .ci/pin.py torch triton     takes the newest of these that the requirements allow
    python .ci/pin.py --all            takes the newest of all

A `uv.lock` would record the addresses of the registry that it was made with, so the pins are kept as constraints.
"""

import re
import subprocess
import sys
from pathlib import Path

PYPROJECT = Path("pyproject.toml")
OPEN, CLOSE = "constraint-dependencies = [\n", "]\n"


def name(requirement: str) -> str:
    return re.split(r"[=<>!~;\[ ]", requirement.strip().strip('",'))[0].lower()


def export(*flags: str) -> list[str]:
    command = ["uv", "export", "--no-hashes", "--no-emit-project", "--no-annotate", "--no-header", *flags]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [line.strip().replace('"', "'") for line in lines if line.strip()]


def main(words: list[str]) -> None:
    before = PYPROJECT.read_text()
    start = before.index(OPEN) + len(OPEN)
    end = before.index(CLOSE, start)
    lines = before[start:end].splitlines(keepends=True)
    newest = {name(line) for line in lines} if words == ["--all"] else {word.lower() for word in words}
    # A direct requirement of a group is pinned where it stands; its constraint would forbid to change it there.
    stated = {name(found) for found in re.findall(r'^    ("[^"]+==[^"]+")', before[:start], re.MULTILINE)}
    PYPROJECT.write_text(
        before[:start] + "".join(line for line in lines if name(line) not in newest | stated) + before[end:]
    )
    upgrade = [word for one in sorted(newest) for word in ("--upgrade-package", one)]
    try:
        everything, runtime = export("--all-groups", *upgrade), export("--no-default-groups")
    except subprocess.CalledProcessError as error:  # uv has said why
        PYPROJECT.write_text(before)
        sys.exit(error.returncode)
    PYPROJECT.write_text(before[:start] + "".join(f'    "{line}",\n' for line in sorted(everything)) + before[end:])
    Path("conda.yaml").write_text(
        "# The same pins as pyproject.toml (.ci/pin.py writes both).\n"
        "name: pneumonia\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
        + "".join(f'      - "{line}"\n' for line in sorted(runtime))
    )


if __name__ == "__main__":
    main(sys.argv[1:])
