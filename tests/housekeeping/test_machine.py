"""Cores, memory, disks and variables, each of their states."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pneumonia.housekeeping import machine
from pneumonia.housekeeping.checkup import Check
from pneumonia.runtime.environment import cores as cores_seen
from tests.conftest import ROOT
from tests.small_disk import small_disk as mounted

SECRET = "s3cret"


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_grants_less_time_than_there_are_cores(version: int, tmp_path: Path) -> None:
    def group(cores: float | None) -> None:
        if version == 2:
            text = "max 100000" if cores is None else f"{int(cores * 100_000)} 100000"
            (tmp_path / "cpu.max").write_text(text + "\n")
        else:
            (tmp_path / "cpu").mkdir(exist_ok=True)
            (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{-1 if cores is None else int(cores * 100_000)}\n")
            (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")

    assert machine.cores(tmp_path).state == "ok"  # no control groups at all
    group(None)
    assert machine.cores(tmp_path).state == "ok"
    group(cores_seen())
    assert machine.cores(tmp_path).state == "ok"
    group(0.5)
    check = machine.cores(tmp_path)
    assert (check.state, check.command) == ("warning", "pneumonia search --workers 1")
    assert "grants the time of 0.5" in check.sentence


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores_seen", lambda: 2)
    monkeypatch.setattr(machine, "WORKER_BYTES", 100 << 20)
    assert machine.memory(tmp_path).state == "ok"
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory(tmp_path).state == "ok"
    (tmp_path / "memory.max").write_text(f"{300 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{150 << 20}\n")
    check = machine.memory(tmp_path)
    assert (check.state, check.command) == ("warning", "pneumonia search --workers 1")
    assert check.sentence.startswith("157 MB of 315 MB are free")
    (tmp_path / "memory.current").write_text(f"{50 << 20}\n")
    assert machine.memory(tmp_path).state == "ok"


def test_the_gpu_that_trains_is_named() -> None:
    check = machine.gpu()
    if torch.cuda.is_available():
        assert check.state == "ok"
        assert torch.cuda.get_device_name(0) in check.sentence
    elif torch.backends.mps.is_available():
        assert check.state == "ok"
    else:
        assert check.state == ("warning" if any(Path("/dev").glob("nvidia[0-9]*")) else "note")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "40m") as disk:
        yield disk


def test_disks_that_are_full_or_nearly(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOW_BYTES", 30 << 20)
    monkeypatch.setattr(machine, "FULL_BYTES", 10 << 20)

    def of_it() -> Check:
        found = machine.disks({"state": small_disk / "not" / "yet" / "made", "runs": small_disk, "other": tmp_path})
        assert len(found) >= 2
        (check,) = [check for check in found if str(small_disk) in check.sentence]
        assert "(state, runs)" in check.sentence  # once for each disk
        return check

    assert of_it().state == "ok"
    (small_disk / "half").write_bytes(bytes(20 << 20))
    assert (of_it().state, of_it().command) == ("warning", "pneumonia clean")
    (small_disk / "rest").write_bytes(bytes(15 << 20))
    assert (of_it().state, of_it().command) == ("error", "pneumonia clean")


def test_the_folder_for_temporary_files_is_a_disk_too(tmp_path: Path) -> None:
    found = machine.disks({"state": tmp_path})
    assert any("temporary files" in check.sentence for check in found)


def test_variables_are_told_without_their_secrets() -> None:
    (check,) = machine.environment(
        {
            "PNEUMONIA_HOME": "/lab/home",
            "MLFLOW_TRACKING_URI": f"postgresql://me:{SECRET}@lab/mlflow",
            "MLFLOW_TRACKING_PASSWORD": SECRET,
            "PNEUMONIA_TOKEN": SECRET,
            "PGPASSWORD": SECRET,
            "HTTPS_PROXY": f"http://me:{SECRET}@proxy",
            "SHELL": "/bin/sh",
        }
    )
    assert check.state == "ok"
    assert SECRET not in check.sentence + check.command
    for said in ("PNEUMONIA_HOME=/lab/home", "MLFLOW_TRACKING_PASSWORD is set", "postgresql://me:***@lab/mlflow"):
        assert said in check.sentence
    assert "SHELL" not in check.sentence


def test_a_variable_that_nothing_reads_and_a_password_in_a_url() -> None:
    uri = f"https://me:{SECRET}@lab/mlflow"
    _, misspelt, url = machine.environment({"PNEUMONIA_HOEM": "/lab", "MLFLOW_TRACKING_URI": uri})
    assert (misspelt.state, misspelt.command) == ("warning", "unset PNEUMONIA_HOEM")
    assert (url.state, url.command) == ("warning", "export MLFLOW_TRACKING_URI=https://lab/mlflow")
    assert SECRET not in url.sentence


def test_every_variable_of_the_program_is_among_those_that_are_told() -> None:
    read = set()
    for path in (ROOT / "pneumonia").rglob("*.py"):
        if "housekeeping" not in path.parts:
            read |= set(re.findall(r"PNEUMONIA_[A-Z_]+[A-Z]", path.read_text()))
    assert read <= set(machine.READ)
