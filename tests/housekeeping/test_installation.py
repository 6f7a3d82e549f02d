"""Versions against the ranges of the package, each state for real: packages are made as pip leaves them."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pneumonia.housekeeping import installation
from pneumonia.housekeeping.installation import Supported, libraries, nginx, packages, python, supported
from pneumonia.runtime import working_folder
from pneumonia.serving.nginx_process import NginxError, look


@pytest.fixture
def needs() -> Supported:
    wanted = [Requirement(text) for text in ("lungfilm>=2,<3", "tqdm>=4")]
    return Supported("0.2.0", SpecifierSet(">=3.11"), tuple(wanted))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a package without a file of code: `install("lungfilm", "2.1")`."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, version: str) -> None:
        about = tmp_path / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return make


def test_what_is_supported_is_said_alike_by_the_project_and_by_what_is_installed(monkeypatch, tmp_path: Path) -> None:
    here = supported()
    monkeypatch.setattr(working_folder, "PROJECT", tmp_path)
    monkeypatch.setattr(installation, "is_checkout", lambda: False)
    there = supported()
    assert (here.version, here.python) == (there.version, there.python)
    assert {str(one) for one in here.packages} == {str(one) for one in there.packages}
    assert "torch" in {one.name for one in here.packages}


def test_this_installation_is_one_that_is_supported() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    assert [python(supported(), version).state, packages(supported()).state] == ["ok", "ok"]


def test_an_old_python(needs: Supported) -> None:
    check = python(needs, "3.10.4")
    assert check.state == "error"
    assert "3.10.4" in check.sentence
    assert "--python 3.11" in check.command


@pytest.mark.parametrize(
    ("version", "state", "said"),
    [
        ("2.1", "ok", "2 packages"),
        ("2.1.dev1", "ok", "2 packages"),
        ("1.9", "error", "lungfilm 1.9 is not in <3,>=2"),
        ("3.0", "warning", "lungfilm 3.0 is not in <3,>=2"),
        (None, "error", "lungfilm is missing"),
    ],
)
@pytest.mark.parametrize("checkout", [True, False])
def test_a_package_of_another_version(
    version: str | None, state: str, said: str, checkout: bool, needs: Supported, install, monkeypatch
) -> None:
    monkeypatch.setattr(installation, "is_checkout", lambda: checkout)
    if version is not None:
        install("lungfilm", version)
    check = packages(needs)
    assert check.state == state
    assert said in check.sentence
    if state == "ok":
        assert not check.command
    else:
        assert check.command == ("uv sync" if checkout else "pip install 'lungfilm<3,>=2'")


def test_a_package_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brokenfilm.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    check = libraries(("json", "brokenfilm"))
    assert check.state == "error"
    assert check.sentence == "brokenfilm cannot be loaded: libGL.so.1: cannot open shared object file"
    assert "brokenfilm" in check.command
    assert libraries().state == "ok"


def test_nginx_is_wanted_by_serve_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        look()
        assert nginx().state == "ok"
    except NginxError:
        assert nginx().state == "note"
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    check = nginx()
    assert check.state == "note"
    assert check.sentence.startswith("nginx is not installed here; ")
    assert check.command == "apt-get install nginx-light libnginx-mod-http-js"
