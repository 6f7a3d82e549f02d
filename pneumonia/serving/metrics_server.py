"""What Prometheus asks for: the counters of all processes of the served models (`served.counters`), added up, and the
statuses of nginx, which also sees the requests that reach no model.
"""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from pneumonia.served.counters import BUCKETS

# As nginx's log_format pneumonia writes it: status and seconds.
LINE = re.compile(rb"pneumonia: (\d{3}) (\d+\.\d+)\s*$")


class MetricsError(RuntimeError):
    """Metrics cannot be served; the message is one sentence."""


@contextmanager
def metrics_server(folder: Path, *, host: str, port: int, nginx_port: int | None = None) -> Iterator[int]:
    """Serves /metrics while the block lasts, and gives the port.

    Args:
        folder: PROMETHEUS_MULTIPROC_DIR of the scoring servers; made if need be. This process must not have that
            variable, or its own counters would be added to theirs.
        port: 0 takes a free one.
        nginx_port: of UDP at the same host, to which nginx sends a line a request; None for no such lines.

    Raises:
        MetricsError: a port is taken, or the folder cannot be made.
    """
    registry = CollectorRegistry()
    ears: socket.socket | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        if nginx_port is not None:
            ears = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            ears.bind((host, nginx_port))
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        if ears is not None:
            ears.close()
        raise MetricsError(f"metrics cannot be served at {host}:{port}: {error.strerror or error}") from error
    if ears is not None:
        threading.Thread(target=_hear, args=(ears, registry), daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        if ears is not None:
            ears.close()


def _hear(ears: socket.socket, registry: CollectorRegistry) -> None:
    """Counts nginx's lines until the socket is closed."""
    requests = Counter("pneumonia_http_requests", "Requests that nginx answered.", ("status",), registry=registry)
    seconds = Histogram("pneumonia_http_seconds", "Seconds of a request in nginx.", registry=registry, buckets=BUCKETS)
    while True:
        try:
            line = ears.recv(1000)
        except OSError:
            return
        if found := LINE.search(line):
            requests.labels(found[1].decode()).inc()
            seconds.observe(float(found[2]))
