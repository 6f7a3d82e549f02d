"""docs/deploy: its files are valid, name what is there, and install what the models ask for."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_project import PYPROJECT, names_and_versions

DEPLOY = ROOT / "docs" / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
DOCKERFILES = sorted(DEPLOY.rglob("Dockerfile"))


def validate(*words: str) -> None:
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run([str(program), *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)).splitlines()
    return [(words[0], words[1]) for words in (line.split(maxsplit=1) for line in lines if line)]


def test_the_compose_file_is_valid():
    validate("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_the_dockerfiles_are_valid_and_copy_what_is_there(dockerfile):
    validate("hadolint", str(dockerfile))
    context = contexts()[dockerfile]
    for instruction, rest in instructions(dockerfile):
        if instruction == "COPY":
            for source in shlex.split(rest)[:-1]:
                assert (context / source).exists(), source
        if instruction in ("CMD", "ENTRYPOINT"):
            assert isinstance(json.loads(rest), list)


def contexts() -> dict[Path, Path]:
    """The folder that each Dockerfile is built from."""
    found = {}
    for service in SERVICES.values():
        if isinstance(build := service.get("build"), str):
            found[DEPLOY / build / "Dockerfile"] = DEPLOY / build
        elif build:
            context = (DEPLOY / build["context"]).resolve()
            found[context / build["dockerfile"]] = context
    return found


def test_services_volumes_and_networks_that_are_named_are_there():
    whole = yaml.safe_load(COMPOSE.read_text())
    assert set(contexts()) == set(DOCKERFILES)
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert set(service["networks"]) <= set(whole["networks"])
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(whole["volumes"])
    hosts = SERVICES["tracking"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert SERVICES["serving"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://") in hosts


def test_no_secret_stands_in_a_file_and_only_nginx_is_open_to_the_network():
    text = COMPOSE.read_text()
    passwords = re.findall(r"PASSWORD: (.+)", text)
    assert len(passwords) == 2
    assert all(value.startswith("${DATABASE_PASSWORD:?") for value in passwords)  # compose says so where it is not set
    for path in DOCKERFILES:
        assert "PASSWORD=" not in path.read_text()
        assert not re.search(r"://[^/\s\"]*:[^/\s\"]*@", path.read_text())
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert {name for name, open_ports in ports.items() if open_ports} == {"front", "tracking"}
    assert all(port.startswith("127.0.0.1:") for port in ports["tracking"])


def test_the_images_install_what_is_tested():
    from pneumonia.serving import export  # which takes seconds, and only here

    pins = names_and_versions(PYPROJECT["tool"]["uv"]["constraint-dependencies"])
    tracking, serving = ((DEPLOY / name / "requirements.txt").read_text().split() for name in ("tracking", "serving"))
    assert serving == export.requirements()
    assert names_and_versions(tracking).items() <= pins.items()
    for path in DOCKERFILES:
        (image,) = (rest for instruction, rest in instructions(path) if instruction == "FROM")
        assert image.endswith("-bookworm") or image.endswith("-slim"), image


def test_what_listens_to_the_network_is_not_root():
    for path in DOCKERFILES:
        users = [rest for instruction, rest in instructions(path) if instruction == "USER"]
        assert users == ([] if path.parent.name == "front" else ["1000"])  # nginx itself gives its workers a user


def test_the_licences_are_those_of_what_is_installed():
    spec = importlib.util.spec_from_file_location("licences", ROOT / ".ci" / "licences.py")
    licences = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(licences)
    assert licences.FILE.read_text() == licences.page()
