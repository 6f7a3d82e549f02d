"""Two runs compared in MLflow's own page, in a real browser."""

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumonia.record import Record
from pneumonia.sending import sent
from pneumonia.tracking import Tracker
from tests.conftest import TrackingServer

pytestmark = [pytest.mark.slow, pytest.mark.browser]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def page(address: str, folder: Path) -> str:
    """The page as it stands once its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={folder}", "--window-size=1500,2400", "--virtual-time-budget=30000"]
    return subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_comparing_two_runs_shows_what_differs_and_how_good_each_is(
    server: TrackingServer, copy_trained: Callable[..., Record], tmp_path: Path
) -> None:
    tracker = Tracker(server.uri)
    ids = []
    for name, lr in (("trial 0", 0.003), ("trial 1", 0.004)):
        record = copy_trained(name.replace(" ", "-"), role="trial")
        record.update(name=name)
        record.add_params({"lr": lr})
        record.finish("COMPLETE")
        tracker.send(record)
        ids.append(sent(record)["run_id"])
    experiment = tracker.experiment_id("pneumonia")
    query = urllib.parse.urlencode({"runs": json.dumps(ids), "experiments": json.dumps([experiment])})

    shown = page(f"{server.uri}/#/compare-runs?{query}", tmp_path / "browser")

    assert "Comparing 2 Runs" in shown
    for word in ("trial 0", "trial 1", "0.003", "0.004", "train/loss", "val/loss", "val/auc"):
        assert word in shown, word
