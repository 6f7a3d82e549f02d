"""docs/deploy: its files are valid, name what is there, and install what the models ask for."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pneumonia.cli import cli
from tests.conftest import ROOT
from tests.test_project import PYPROJECT, names_and_versions

DEPLOY = ROOT / "docs" / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
DOCKERFILES = sorted(DEPLOY.rglob("Dockerfile"))
SCRIPTS = [DEPLOY / "slurm" / "search.sbatch", *sorted((DEPLOY / "ssh").iterdir())]
KUSTOMIZATIONS = sorted((DEPLOY / "kubernetes").rglob("kustomization.yaml"))
KUBERNETES = "1.34"  # the version whose schemas the files are held against


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
    """The folder that each Dockerfile is built from: as the compose file says, or the project's for one that it has
    not.
    """
    found = {DEPLOY / "search" / "Dockerfile": ROOT}
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
    assert {name for name, open_ports in ports.items() if open_ports} == {"front", "metrics", "tracking"}
    assert all(port.startswith("127.0.0.1:") for port in (*ports["tracking"], *ports["metrics"]))


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


def objects(kustomization: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` of a kustomization's folder makes."""
    files = yaml.safe_load(kustomization.read_text())["resources"]
    assert sorted(files) == sorted(path.name for path in kustomization.parent.iterdir() if path != kustomization)
    return [found for file in files for found in yaml.safe_load_all((kustomization.parent / file).read_text())]


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pods' specifications, by the names of what makes them."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in found
        if "template" in each.get("spec", {})
    }


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


EVERYTHING = [found for kustomization in KUSTOMIZATIONS for found in objects(kustomization)]


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_kubernetes_takes_the_files(kustomization):
    """By the schemas of its own version, strictly: no field that it does not know."""
    files = [str(path) for path in kustomization.parent.iterdir() if path != kustomization]
    validate("kubernetes-validate", "--strict", "--kubernetes-version", KUBERNETES, *files)
    assert set(yaml.safe_load(kustomization.read_text())) == {"apiVersion", "kind", "namespace", "resources", "images"}


def test_what_the_objects_of_kubernetes_name_is_there():
    names: dict[str, set[str]] = {kind: set() for kind in ("ConfigMap", "Secret", "PersistentVolumeClaim", "Service")}
    for found in EVERYTHING:
        names.setdefault(found["kind"], set()).add(found["metadata"]["name"])
    assert len(EVERYTHING) == len({(found["kind"], found["metadata"]["name"]) for found in EVERYTHING})
    keys = set()
    for found in EVERYTHING:
        if found["kind"] == "StatefulSet":
            assert found["spec"]["serviceName"] in names["Service"]
        if found["kind"] == "Service":
            assert found["spec"]["selector"]["app"] in {each["metadata"]["name"] for each in EVERYTHING}
    for pod in pods(EVERYTHING).values():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("configMap", {}).get("name", "database") in names["ConfigMap"]
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "films") in names["PersistentVolumeClaim"]
        for container in containers(pod):
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in {*volumes, "data"}  # which a StatefulSet claims for itself
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in names["ConfigMap"]
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    assert variable["valueFrom"]["secretKeyRef"]["name"] == "pneumonia"
                    keys.add(variable["valueFrom"]["secretKeyRef"]["key"])
    guide = (ROOT / "docs" / "guide" / "many-machines.md").read_text()
    assert set(re.findall(r"--from-literal=(\w+)=", guide)) == keys
    folders = {path.parent.name for path in DOCKERFILES}
    images = {container["image"] for pod in pods(EVERYTHING).values() for container in containers(pod)}
    for kustomization in KUSTOMIZATIONS:
        ours = {image["name"] for image in yaml.safe_load(kustomization.read_text())["images"]}
        used = {container["image"] for pod in pods(objects(kustomization)).values() for container in containers(pod)}
        assert ours == {image for image in used if image.startswith("pneumonia-")}
        assert {image.removeprefix("pneumonia-") for image in ours} <= folders
    assert all(":" in image for image in images if not image.startswith("pneumonia-"))  # a version, and not the latest


def test_addresses_between_the_pods_are_those_of_the_services():
    ports = {
        found["metadata"]["name"]: {port["port"] for port in found["spec"]["ports"]}
        for found in EVERYTHING
        if found["kind"] == "Service"
    }
    text = "".join(path.read_text() for path in (DEPLOY / "kubernetes").rglob("*.yaml"))
    for name, port in re.findall(r"http://([a-z]+):(\d+)", text):
        assert int(port) in ports[name]
    assert set(re.findall(r"@([a-z]+)/", text)) == {"database"}
    assert 5432 in ports["database"]


def test_no_secret_stands_in_the_files_for_many_machines():
    for path in (*SCRIPTS, *(DEPLOY / "kubernetes").rglob("*.yaml"), *(DEPLOY / "slurm").iterdir()):
        text = path.read_text()
        assert not re.search(r"://[^/\s\"@]*:[^/\s\"]*@", text), path  # a password in a URL
        assert "kind: Secret" not in text, path
    for pod in pods(EVERYTHING).values():
        for variable in (one for container in containers(pod) for one in container.get("env", [])):
            if re.search("PASSWORD|SECRET|TOKEN", variable["name"]):
                assert "valueFrom" in variable, variable["name"]


def test_our_pods_are_not_root_and_cannot_become_it():
    for name, pod in pods(EVERYTHING).items():
        assert pod["automountServiceAccountToken"] is False
        if name == "database":  # PostgreSQL's image becomes its own user
            continue
        assert pod["securityContext"]["runAsNonRoot"]
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_search_of_kubernetes_is_one_that_the_program_takes():
    for pod in pods(EVERYTHING).values():
        for container in containers(pod):
            if container["image"] == "pneumonia-search" and "args" in container:
                name, *words = container["args"]
                cli.commands[name].make_context(name, list(words))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_have_no_fault_that_shellcheck_finds(script):
    validate("shellcheck", "--enable=quote-safe-variables,check-unassigned-uppercase", str(script))
    assert os.access(script, os.X_OK)


def test_slurm_is_told_what_it_knows():
    lines = re.findall(r"^#SBATCH (.+)$", SCRIPTS[0].read_text(), re.MULTILINE)
    known = {"job-name", "array", "ntasks", "cpus-per-task", "mem", "time", "signal", "requeue", "open-mode", "output"}
    assert {line.removeprefix("--").partition("=")[0] for line in lines} == known
    text = SCRIPTS[0].read_text()
    assert text.index("#SBATCH") < text.index("\nset ")  # after the first command sbatch reads no more of them
