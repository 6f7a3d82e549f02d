"""The counters of served models: what is counted, and that the processes are added up."""

import os
import socket
import subprocess
import sys
import textwrap
import time

import mlflow.pyfunc
import requests
from prometheus_client.parser import text_string_to_metric_families

from pneumonia.serving import export as package
from pneumonia.serving.metrics_server import metrics_server

COUNT = """
    import sys, mlflow.pyfunc, pandas as pd
    model = mlflow.pyfunc.load_model(sys.argv[1])
    good = open(sys.argv[2], "rb").read()
    for _ in range(3):
        model.predict(pd.DataFrame({"image": [good, b"GIF89a", good]}), params={"errors": "return"})
    for bad in ([None], [good, b"GIF89a"]):
        try:
            model.predict(pd.DataFrame({"image": bad}))
        except Exception:
            pass
"""


def samples(text: str) -> dict[str, float]:
    """Each sample by its name and its labels but for those of the version."""
    found = {}
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        told = {name: value for name, value in sample.labels.items() if name not in ("model", "version")}
        labels = ",".join(f'{name}="{value}"' for name, value in told.items())
        found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        assert "http" in sample.name or (sample.labels["model"], sample.labels["version"]) == ("pneumonia", "7")
    return found


def test_two_processes_are_added_up(folder, tmp_path):
    from tests.served.conftest import GOOD

    mlflow.pyfunc.save_model(tmp_path / "model", **package.pyfunc_arguments(folder))
    (tmp_path / "good.png").write_bytes(GOOD)
    counts = tmp_path / "counts"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(counts), "PNEUMONIA_VERSION": "pneumonia/7"}
    command = [sys.executable, "-c", textwrap.dedent(COUNT), str(tmp_path / "model"), str(tmp_path / "good.png")]
    processes = [subprocess.Popen(command, env=environment, cwd=tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    with metrics_server(counts, host="127.0.0.1", port=0) as port:
        found = samples(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text)
    assert found['pneumonia_requests_total{status="200"}'] == 6
    assert found['pneumonia_requests_total{status="400"}'] == 4
    assert found["pneumonia_films_total"] == 12
    assert found['pneumonia_refusals_total{kind="other_format"}'] == 8
    assert found['pneumonia_refusals_total{kind="missing"}'] == 2
    assert found["pneumonia_films_positive_total"] in (0, 12)  # all the same film
    for part in ("decode", "network", "rest"):
        assert found[f'pneumonia_seconds_count{{part="{part}"}}'] == 10
        assert found[f'pneumonia_seconds_sum{{part="{part}"}}'] > 0


def test_nginx_s_statuses_are_counted(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        udp = free.getsockname()[1]
    with (
        metrics_server(tmp_path, host="127.0.0.1", port=0, nginx_port=udp) as port,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
    ):
        for line in (b"<190>Nov 29 17:00:00 pneumonia: 200 0.004", b"<190>Nov 29 17:00:01 pneumonia: 413 0.000", b"x"):
            mouth.sendto(line, ("127.0.0.1", udp))
        deadline = time.monotonic() + 10
        found: dict[str, float] = {}
        while len([name for name in found if "requests_total" in name]) < 2 and time.monotonic() < deadline:
            found = samples(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text)
    assert found['pneumonia_http_requests_total{status="200"}'] == 1
    assert found['pneumonia_http_requests_total{status="413"}'] == 1
    assert found["pneumonia_http_seconds_count"] == 2
