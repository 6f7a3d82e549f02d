"""Counters of what a served model answered, for Prometheus, where PROMETHEUS_MULTIPROC_DIR names a folder for them.

Each process counts in files of its own there, and `pneumonia metrics` adds them up (see `prometheus_client`,
multiprocess mode). The folder is to be empty when the servers are first started.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumonia.served.answer_log import Answer, version_of

# Upper bounds in seconds of what a request took.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
LABELS = ("model", "version")
SECONDS = "pneumonia_seconds"
# Name, help and further labels. Dashboards and alerts have these names: none may change.
COUNTERS = {
    "pneumonia_requests": ("Requests that reached the model, by the HTTP status that it gave.", ("status",)),
    "pneumonia_films": ("Films that were scored.", ()),
    "pneumonia_refusals": ("Films and requests that were refused, by kind.", ("kind",)),
    "pneumonia_films_positive": ("Films at or above the threshold.", ()),
    "pneumonia_films_unfamiliar": ("Films that are unlike those that the model was trained on.", ()),
}


class Counters:
    """The counters of one model, labelled with its name and version.

    A registry of its own, for two versions in one process may count.
    """

    def __init__(self, version: str, positive: str) -> None:
        """
        Raises:
            ImportError: prometheus_client is not installed.
        """
        import prometheus_client

        registry = prometheus_client.CollectorRegistry()
        name, _, number = version.rpartition("/")
        self._positive, self._labels = positive, (name or "unknown", number or "unknown")
        self._counters: dict[str, Any] = {
            key: prometheus_client.Counter(key, text, (*LABELS, *more), registry=registry)
            for key, (text, more) in COUNTERS.items()
        }
        seconds = prometheus_client.Histogram(
            SECONDS, "Seconds of a request inside the model.", (*LABELS, "part"), registry=registry, buckets=BUCKETS
        )
        self._seconds = {part: seconds.labels(*self._labels, part) for part in ("decode", "network", "rest")}
        self._plain = {
            key: self._counters[key].labels(*self._labels) for key, (_, more) in COUNTERS.items() if not more
        }

    def count(self, answers: Sequence[Answer], status: int, seconds: float) -> None:
        """Adds a request with its answers, the HTTP status that it gets, and the seconds that it took."""
        scored = [answer.row for answer in answers if not answer.error and answer.row is not None]
        self._counters["pneumonia_requests"].labels(*self._labels, str(status)).inc()
        self._plain["pneumonia_films"].inc(len(scored))
        self._plain["pneumonia_films_positive"].inc(sum(row["label"] == self._positive for row in scored))
        self._plain["pneumonia_films_unfamiliar"].inc(sum(not row["familiar"] for row in scored))
        for answer in answers:
            if answer.error:
                self._counters["pneumonia_refusals"].labels(*self._labels, answer.error).inc()
        decode = sum(answer.decode_seconds for answer in answers)
        network = sum(answer.network_seconds for answer in answers)
        for part, took in (("decode", decode), ("network", network), ("rest", max(0.0, seconds - decode - network))):
            self._seconds[part].observe(took)


def counters(package: Path, positive: str) -> Counters | None:
    """The counters that the environment asks for, for the model whose package this is; None where it asks for none.

    Where they cannot be made it is said on stderr: for its metrics no model fails to start.
    """
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return None
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return Counters(version_of(package), positive)
    except (ImportError, OSError, ValueError) as error:
        print(f"pneumonia: answers are not counted: {error}", file=sys.stderr, flush=True)
        return None
