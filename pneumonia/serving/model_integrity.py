"""Whether the files of an MLflow model are those that were logged, before any of them is loaded or run."""

from pathlib import Path

from pneumonia.served.package_files import MANIFEST, SUMS, check_files, read_manifest
from pneumonia.serving import bundle


def check_model(folder: Path) -> None:
    """Checks the package in an MLflow model, and the copy of its code that MLflow runs. Nothing is asked of models that
    hold no package, or one without sums, as versions before 0.2 wrote them.

    Raises:
        ValueError: a file was changed, added or taken away; the sentence names it.
        OSError: one cannot be read.
    """
    package, code = folder / "artifacts" / "package", folder / bundle.FILE
    if not (package / MANIFEST).is_file():
        return
    manifest = read_manifest(package)
    check_files(package, manifest)
    if SUMS in manifest and (not code.is_file() or code.read_bytes() != (package / bundle.FILE).read_bytes()):
        raise ValueError(f"the model's {bundle.FILE} is not the one of its package: fetch the model anew")
