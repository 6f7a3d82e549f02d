"""nginx with the shipped configuration, without the servers behind it: tests/system/test_following.py has those."""

import tempfile
from pathlib import Path

import pytest
import requests

from pneumonia.serving import page_server
from pneumonia.serving.nginx_process import Nginx
from tests.system.test_serving import JS_MODULE, NGINX, SERVING, free_port


@pytest.mark.slow
@pytest.mark.skipif(NGINX is None or not JS_MODULE.exists(), reason="needs nginx with its JavaScript module")
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
