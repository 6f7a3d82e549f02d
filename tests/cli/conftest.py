"""A folder in which an older MLflow was used."""

from pathlib import Path

import pytest

META = "experiment_id: '{0}'\nname: old {0}\nlifecycle_stage: active\nartifact_location: mlruns/{0}\n"


@pytest.fixture
def old_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder where MLflow 2 kept runs in files; no variable names a store."""
    for number in ("0", "417530000000000000"):
        folder = tmp_path / "mlruns" / number
        folder.mkdir(parents=True)
        (folder / "meta.yaml").write_text(META.format(number))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
