"""What is installed: Python, the packages, and the programs that are of use."""

import importlib
import platform
import tomllib
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pneumonia.housekeeping.checkup import Check
from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.working_folder import PROJECT, is_checkout

LOADED = ("numpy", "cv2", "torch", "torchvision", "onnxruntime", "mlflow", "optuna")  # the compiled, and the largest
LOAD_SECONDS = 300.0  # from a cold disk, on a busy machine


@dataclass(frozen=True)
class Supported:
    """What the program says that it works with."""

    version: str
    python: SpecifierSet
    packages: tuple[Requirement, ...]


def supported() -> Supported:
    """From pyproject.toml in the project's folder, else from what is installed."""
    if is_checkout():
        project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        version, python, lines = project["version"], project["requires-python"], project["dependencies"]
    else:
        about: Any = metadata.metadata("pneumonia")
        version, python, lines = about["Version"], about["Requires-Python"], metadata.requires("pneumonia") or []
    needed = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate({"extra": ""})]
    return Supported(str(version), SpecifierSet(python), tuple(needed))


def range_of(package: str) -> Requirement | None:
    """The supported versions of a package; None where that is not known."""
    try:
        return next((one for one in supported().packages if one.name == package), None)
    except (metadata.PackageNotFoundError, OSError):
        return None


def python(needs: Supported, version: str) -> Check:
    """Args:
    version: of the Python that runs.
    """
    if needs.python.contains(version, prereleases=True):
        return Check("python", "ok", f"Python {version}, pneumonia {needs.version}")
    lowest = min((one.version for one in needs.python if one.operator in (">=", "~=", "==")), default="")
    said = f"this is Python {version}, and pneumonia {needs.version} needs {needs.python}"
    return Check("python", "error", said, f"uv venv --clear --python {lowest} && uv sync" if lowest else "")


def packages(needs: Supported) -> Check:
    """The installed versions against their ranges: one that is older or missing is an error, a newer one a warning."""
    missing, old, new = list[Requirement](), list[Requirement](), list[Requirement]()
    for one in needs.packages:
        try:
            there = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            missing.append(one)
            continue
        if not one.specifier.contains(there, prereleases=True):
            (new if _is_newer(there, one.specifier) else old).append(one)
    if not (missing or old or new):
        return Check("packages", "ok", f"{len(needs.packages)} packages, each of a supported version")
    told = [f"{one.name} is missing" for one in missing]
    told += [f"{one.name} {metadata.version(one.name)} is not in {one.specifier}" for one in (*old, *new)]
    wrong = " ".join(f"'{one.name}{one.specifier}'" for one in (*missing, *old, *new))
    command = "uv sync" if is_checkout() else f"pip install {wrong}"
    return Check("packages", "error" if missing or old else "warning", "; ".join(told), command)


def _is_newer(there: str, specifier: SpecifierSet) -> bool:
    highest = [Version(one.version) for one in specifier if one.operator in ("<", "<=")]
    return bool(highest) and Version(there) >= min(highest)


def libraries(modules: tuple[str, ...] = LOADED) -> Check:
    """Whether the large packages can be loaded: a compiled one may lack a library of the system, or not fit another."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken package may raise anything
            said = shortened(first_line(error), 300)
            package = {"cv2": "opencv-python-headless"}.get(name, name)
            command = f"uv sync --reinstall-package {package}" if is_checkout() else f"pip install -I {package}"
            return Check("libraries", "error", f"{name} cannot be loaded: {said}", command)
    return Check("libraries", "ok", f"{', '.join(modules)} can be loaded ({platform.machine()})")


def nginx() -> Check:
    """What `serve` needs to change the version that it serves without a gap."""
    from pneumonia.serving.nginx_process import NginxError, look

    try:
        where = look()
    except NginxError as error:
        said, _, rest = str(error).partition(": `")
        return Check("nginx", "note", f"{said}; only `serve` wants it", rest.partition("`")[0])
    return Check("nginx", "ok", f"{where}, with its JavaScript module")
