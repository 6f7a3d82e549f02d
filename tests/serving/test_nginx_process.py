"""A real nginx in front of two servers, one of which answers."""

import os
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from pneumonia.serving import page_server
from pneumonia.serving.about import About
from pneumonia.serving.nginx_process import Nginx, NginxError
from pneumonia.serving.scoring_server import free_ports
from tests.command import until
from tests.system.test_serving import JS_MODULE, NGINX, SERVING, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None or not JS_MODULE.exists(), reason="needs nginx-light and libnginx-mod-http-js"),
]


@pytest.fixture
def ports() -> Iterator[tuple[int, int, int]]:
    """Nginx's, and those of two servers that answer with their own."""

    class Named(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = str(self.server.server_port).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name)

    found = free_ports("127.0.0.1", 0)
    servers = [ThreadingHTTPServer(("127.0.0.1", port), Named) for port in found[1:]]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    for server in servers:
        server.shutdown()
        server.server_close()


def test_requests_go_where_it_is_pointed_to_also_after_its_death(ports: tuple[int, int, int], tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents) if os.getuid() == 0 else ():  # its workers are another user's
        folder.chmod(folder.stat().st_mode | 0o111)
    port, *backends = ports
    nginx = Nginx(tmp_path / "nginx", host="127.0.0.1", port=port, backends=(backends[0], backends[1]))
    try:
        nginx.point_to(backends[1])
        nginx.start()
        with requests.Session() as session:  # one connection for all

            def answering() -> int | None:
                try:
                    return int(session.get(f"http://127.0.0.1:{port}/ping", timeout=20).text)
                except requests.ConnectionError:
                    return None

            for backend in (backends[1], backends[0], backends[1]):
                nginx.point_to(backend)
                assert answering() == backend
            nginx.tell(backends[0], About("pneumonia", "3", "http://127.0.0.1:5000/#/models/pneumonia/versions/3"))
            assert session.get(f"http://127.0.0.1:{port}/model").status_code == 404  # nothing was told of the second
            nginx.point_to(backends[0])
            told = session.get(f"http://127.0.0.1:{port}/model")
            assert (told.headers["content-type"], told.json()["version"]) == ("application/json", "3")
            assert session.post(f"http://127.0.0.1:{port}/model").status_code == 404
            nginx.point_to(backends[1])
            nginx._process.kill()
            until(lambda: not nginx.alive(), "its master is dead")
            nginx.restart()
            assert until(answering, "it answers again", seconds=30) == backends[1]
    finally:
        nginx.stop()
    assert not nginx.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="its workers are another user's where root starts it")
def test_a_folder_that_its_workers_may_not_enter_is_named(ports: tuple[int, int, int], tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    port, *backends = ports
    folder = tmp_path / "closed" / "nginx"
    nginx = Nginx(folder, host="127.0.0.1", port=port, backends=(backends[0], backends[1]))
    try:
        with pytest.raises(NginxError, match="set TMPDIR"):
            nginx.start()
    finally:
        nginx.stop()


def test_it_gives_the_page_to_try_the_model() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)  # for nginx's workers, where root starts it
        port = free_port()
        nginx = Nginx(Path(scratch) / "nginx", host="127.0.0.1", port=port, backends=(free_port(), free_port()))
        nginx.start()
        try:
            for address, (name, _) in page_server.FILES.items():
                answer = requests.get(f"http://127.0.0.1:{port}{address}", timeout=10)
                assert answer.content == (SERVING / "page" / name).read_bytes()
        finally:
            nginx.stop()
