"""Writes every pinned version, by name, into pyproject.toml and conda.yaml, from what uv resolves.

    python .ci/pin.py      after a direct dependency of pyproject.toml was changed

A `uv.lock` would record the addresses of the registry that it was made with, so the pins are kept as constraints.
"""

import re
import subprocess
import tomllib
from pathlib import Path

PYPROJECT = Path("pyproject.toml")
OPEN, CLOSE = "constraint-dependencies = [\n", "]\n"


def export(*flags: str) -> list[str]:
    command = ["uv", "export", "--no-hashes", "--no-emit-project", "--no-annotate", "--no-header", *flags]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.strip().replace('"', "'") for line in lines if line.strip()]


def main() -> None:
    text = PYPROJECT.read_text()
    start = text.index(OPEN) + len(OPEN)
    end = text.index(CLOSE, start)
    runtime, everything = export("--no-dev"), export("--all-groups")
    direct = {re.split(r"[=;\[ ]", line)[0].lower() for line in tomllib.loads(text)["project"]["dependencies"]}
    constraints = sorted(line for line in everything if re.split(r"[=;\[ ]", line)[0] not in direct)
    PYPROJECT.write_text(text[:start] + "".join(f'    "{line}",\n' for line in constraints) + text[end:])
    Path("conda.yaml").write_text(
        "# The same pins as pyproject.toml (.ci/pin.py writes both).\n"
        "name: pneumonia\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
        + "".join(f'      - "{line}"\n' for line in sorted(runtime))
    )


if __name__ == "__main__":
    main()
