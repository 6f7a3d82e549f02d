"""The files of a package: `package.json` holds the SHA-256 of each, so that what is loaded is what was written."""

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "package.json"
SUMS = "sha256"  # its key for {file: hexadecimal}; packages of before have none
MANIFEST_BYTES = 16 << 20
COMPILED = "__pycache__"  # Python puts it there when it loads the package's code


def with_sums(settings: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    """The settings of a package with the SHA-256 of its files, and of these settings themselves."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**settings, SUMS: {**sums, MANIFEST: _sum_of(settings)}}


def read_manifest(folder: Path) -> dict[str, Any]:
    """What package.json holds; nothing is checked yet.

    Raises:
        ValueError: it is too large, or no JSON object.
        OSError: it is missing.
    """
    path = folder / MANIFEST
    if path.stat().st_size > MANIFEST_BYTES:
        raise ValueError(f"the package's {MANIFEST} is larger than {MANIFEST_BYTES >> 20} MiB")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise ValueError(_damaged(MANIFEST))
    return manifest


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Checks that a package holds the files that were written, and no others: for 4 MB in some 5 ms. Packages of
    versions that noted no sums pass.

    Raises:
        ValueError: a file was changed, is missing, or was added; the sentence names it.
        OSError: one cannot be read.
    """
    sums = manifest.get(SUMS)
    if sums is None:
        return
    if not isinstance(sums, dict) or sums.get(MANIFEST) != _sum_of(manifest):
        raise ValueError(_damaged(MANIFEST))
    there = {path.name: path for path in folder.iterdir() if path.name != COMPILED}
    for name in sorted(sums.keys() - there.keys()):
        raise ValueError(f"the package's {name} is missing: fetch the model anew")
    for name, path in sorted(there.items()):
        if name not in sums:
            raise ValueError(f"the package holds {name}, which was not written with it: take it out, after a look")
        if name != MANIFEST:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sums[name]:
                    raise ValueError(_damaged(name))


def _sum_of(manifest: dict[str, Any]) -> str:
    settings = {name: value for name, value in manifest.items() if name != SUMS}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _damaged(name: str) -> str:
    return f"the package's {name} is not the one that was written (its SHA-256 is another): fetch the model anew"
