"""The project's files agree with each other."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pneumonia.cli import cli
from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


def names_and_versions(lines):
    """{name: version} of requirement lines; every one must be pinned exactly."""
    pins = {}
    for line in lines:
        match = re.match(r"^([A-Za-z0-9._-]+)==([^ ;]+)( ?;.*)?$", line)
        assert match, f"not pinned by name and version: {line}"
        pins[match[1].lower()] = match[2]
    return pins


def test_pins_are_those_of_conda_yaml_and_lie_in_the_ranges_of_the_package():
    pins = names_and_versions(PYPROJECT["tool"]["uv"]["constraint-dependencies"])
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    pip = names_and_versions(next(d["pip"] for d in conda["dependencies"] if isinstance(d, dict)))
    assert pip.items() <= pins.items()
    for requirement in map(Requirement, PYPROJECT["project"]["dependencies"]):
        assert sorted(one.operator for one in requirement.specifier) == ["<", ">="], requirement
        assert requirement.specifier.contains(pip[requirement.name]), requirement
    groups = PYPROJECT["dependency-groups"]
    # Installed, so that what they need is known here; but for half a gigabyte of Spark, whose group says all of it.
    assert PYPROJECT["tool"]["uv"]["default-groups"] == [name for name in groups if name != "spark"]
    development = names_and_versions([line for group in groups.values() for line in group])
    assert development.items() <= pins.items()
    assert set(pins) - set(pip) - needed_by(set(development)) == set()


def test_the_questions_of_the_contributing_guide_have_answers_that_are_there():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    questions = re.findall(r"^(\d+)\. Where .+\?$", guide, re.MULTILINE)
    answers = re.findall(r"^\| (\d+) \| `([\w./]+)` \| `(\w+)` \|$", guide, re.MULTILINE)
    assert questions == [number for number, _, _ in answers] == [str(number) for number in range(1, len(answers) + 1)]
    for _, path, name in answers:
        assert re.search(rf"^\s*(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (path, name)


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first[1] == PYPROJECT["project"]["version"]


def needed_by(names: set[str]) -> set[str]:
    """These packages and all that they need, whatever the platform, as far as it is installed here."""
    needed: set[str] = set()
    while names:
        name = names.pop()
        needed.add(name)
        try:
            wanted = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # of another platform
            continue
        plain = {canonicalize_name(one.name) for one in wanted if "extra ==" not in str(one.marker)}
        names |= plain - needed
    return needed


def test_no_file_records_a_registry_address():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert "uv.lock" not in tracked
    for name in ("pyproject.toml", "conda.yaml"):
        assert "://" not in (ROOT / name).read_text()


def test_every_mlproject_parameter_reaches_its_command():
    for name, entry in MLPROJECT["entry_points"].items():
        words = entry["command"].split()
        assert words[:3] == ["python", "-m", "pneumonia"]
        command = cli.commands[words[3]]
        options = {option for p in command.params if isinstance(p, click.Option) for option in p.opts}
        used = set(re.findall(r"\{(\w+)\}", entry["command"]))
        assert used == set(entry["parameters"]), name
        for flag in re.findall(r"(--[\w-]+) \{", entry["command"]):
            assert flag in options, f"{name}: {flag}"


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = ("torch", "mlflow", "optuna", "cv2", "pandas")
    code = f"import sys, pneumonia.cli; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.slow
def test_what_scores_nothing_does_not_wait_for_scikit_learn():
    modules = "pneumonia.training, pneumonia.serving.predict, pneumonia.tracking.sync"
    code = f"import sys, {modules}; print('sklearn' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.slow
def test_importing_any_module_prints_nothing_and_writes_nothing(tmp_path):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "pneumonia").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_imports_run_downward_and_training_knows_neither_optuna_nor_mlflow():
    """By the contracts in pyproject.toml; a folder that none of them names fails too."""
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("status", "found", "code"), [("000", 1, 0), ("503", 1, 0), ("200", 1, 1), ("200", 0, 0)])
def test_the_audit_fails_for_a_known_fault_and_says_where_it_was_skipped(tmp_path, status, found, code):
    programs = {"curl": f"echo {status}", "uv": f'case "$*" in run*) echo "$*"; exit {found};; *) echo a==1;; esac'}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run([ROOT / ".ci" / "audit"], env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("the audit was skipped" in done.stdout) == (status != "200")
    if status == "200":  # the real one takes these words; no package is asked about
        words = done.stdout.split()[1:]
        (tmp_path / "none.txt").write_text("")
        words[words.index("--requirement") + 1] = str(tmp_path / "none.txt")
        program = Path(sys.executable).with_name(words[0])
        assert subprocess.run([program, *words[1:]], capture_output=True).returncode == 0
