"""nginx in front of two scoring servers, one of which answers.

Which one is told by a file that nginx looks for at each request, and not by a reload: nginx closes the idle
connections of its clients when it is reloaded, and of those that were about to send something the request is lost.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path

from pneumonia import serving
from pneumonia.runtime import processes
from pneumonia.runtime.messages import shortened
from pneumonia.serving.about import About
from pneumonia.serving.scoring_server import HOST

INSTALL = "apt-get install nginx-light libnginx-mod-http-js"
MODULE = "ngx_http_js_module.so"
PLACES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules", "/etc/nginx/modules")
START_SECONDS = 30.0
STOP_SECONDS = 10.0  # for the requests under way
UPSTREAM = """upstream {name} {{
    server {host}:{port};
    keepalive 16;
    keepalive_timeout 3s; # as in pneumonia.conf
}}
"""
MAIN = """{load}daemon off;
worker_processes auto;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {upstreams}
    server {{
        listen unix:{ask};
        include conf.d/*.switch;
        location / {{
            return 200 $scoring;
        }}
    }}
    include conf.d/*.conf;
}}
"""
SWITCH = """set $scoring first;
if (-f {flag}) {{
    set $scoring second;
}}
"""


class NginxError(RuntimeError):
    """nginx cannot be started; the message is one sentence."""


class Nginx:
    """nginx with the shipped configuration, at one address, in front of two ports of this machine.

    Args:
        folder: where its configuration is written; made here, and readable for nginx's workers, whose user is another
            where nginx is started by root.
        host: where it listens.
        port: likewise.
        backends: the ports of the scoring servers.

    Raises:
        NginxError: it is not installed, has no JavaScript module, or does not take the configuration.
    """

    def __init__(self, folder: Path, *, host: str, port: int, backends: tuple[int, int]) -> None:
        self.folder, self.backends = folder, backends
        self._flag, self._ask = folder / "second", folder / "ask.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._words = [_program(), "-p", f"{folder}/", "-c", "nginx.conf"]
        self._write(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self._check()

    def _write(self, at: str) -> None:
        self.folder.mkdir()
        conf = self.folder / "conf.d"
        with as_file(files(serving)) as shipped:
            shutil.copytree(shipped / "nginx", conf)
            shutil.copytree(shipped / "page", self.folder / "page")
        site = conf / "pneumonia.conf"
        text, count = re.subn(r"\blisten 8080;", f"listen {at};", site.read_text(encoding="utf-8"))
        assert count == 1, site
        text, count = re.subn(r"\broot /usr/share/nginx/pneumonia;", f"root {(self.folder / 'page').absolute()};", text)
        assert count == 2, site  # the page, and what is told of the model
        site.write_text(text, encoding="utf-8")
        (conf / "pneumonia.switch").write_text(SWITCH.format(flag=self._flag.absolute()), encoding="utf-8")
        both = zip(("first", "second"), self.backends, strict=True)
        upstreams = "".join(UPSTREAM.format(name=name, host=HOST, port=port) for name, port in both)
        module = _module(self._words[0])
        load = "" if module is None else f"load_module {module};\n"
        main = MAIN.format(load=load, upstreams=upstreams, ask=self._ask)
        (self.folder / "nginx.conf").write_text(main, encoding="utf-8")

    def _check(self) -> None:
        tried = subprocess.run([*self._words, "-t"], capture_output=True, text=True, errors="replace")
        if tried.returncode != 0:
            wrong = [line for line in tried.stderr.splitlines() if "[emerg]" in line] or tried.stderr.splitlines()
            said = re.sub(r"^.*?\[emerg\] (\d+#\d+: )?", "", (wrong or ["it said nothing"])[0])
            if "js_import" in said:
                raise NginxError(f"nginx has no JavaScript module here: `{INSTALL}`")
            raise NginxError(f"nginx does not start: {shortened(said, 300)}")

    def start(self) -> None:
        """Raises:
        NginxError: it does not start, or its workers may not look where they are told who answers.
        """
        self._start()
        before = self._flag.exists()
        for backend, name in zip(reversed(self.backends), ("second", "first"), strict=True):
            self.point_to(backend)
            if self._pointed_to() != name:
                raise NginxError(
                    f"nginx's workers cannot look into {self.folder}: set TMPDIR to a folder that all may enter"
                )
        self.point_to(self.backends[before])

    def _start(self) -> None:
        self._ask.unlink(missing_ok=True)
        self._process = processes.start(self._words, stdin=subprocess.DEVNULL)

    def _pointed_to(self) -> str:
        """Which of the two nginx itself says that it asks."""
        deadline = time.monotonic() + START_SECONDS
        while self.alive() and time.monotonic() < deadline:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(START_SECONDS)
                connection.connect(str(self._ask))
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with connection.makefile("rb") as answer:
                    return answer.read().decode().splitlines()[-1]
            time.sleep(0.05)
        raise NginxError("nginx does not start; what it said stands above")

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def restart(self) -> None:
        """Starts it again after it died."""
        if self._process is not None:
            processes.kill(self._process)  # its workers, which would keep the port
        self._start()

    def tell(self, backend: int, about: About) -> None:
        """What `/model` answers while requests go to this port."""
        name = ("first", "second")[self.backends.index(backend)]
        (self.folder / "page" / f"model-{name}.json").write_text(json.dumps(asdict(about)), encoding="utf-8")

    def point_to(self, backend: int) -> None:
        """From now on requests go to this port; those under way are not touched."""
        if backend == self.backends[1]:
            self._flag.touch()
        else:
            self._flag.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends it when the requests under way are answered, within seconds."""
        if self._process is None:
            return
        found, deadline = processes.tree(self._process), time.monotonic() + STOP_SECONDS
        for master in found[:1]:
            master.send_signal(signal.SIGQUIT)  # to the master alone: nginx's gentle end
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        processes.kill(self._process)


def look() -> str:
    """nginx's program, where it and its JavaScript module are installed.

    Raises:
        NginxError: one of them is not.
    """
    program = _program()
    told = subprocess.run([program, "-V"], capture_output=True, text=True, errors="replace").stderr
    if _module(program) is None and "njs" not in told:
        raise NginxError(f"nginx has no JavaScript module here: `{INSTALL}`")
    return program


def _program() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NginxError(
            f"nginx is not installed here: `{INSTALL}`; or give --no-nginx, with which each new champion is a gap "
            "of some seconds"
        )
    return found


def _module(program: str) -> Path | None:
    """nginx's JavaScript module; None where it is not found, or built in."""
    said = subprocess.run([program, "-V"], capture_output=True, text=True, errors="replace").stderr
    told = re.findall(r"--modules-path=(\S+)", said)
    return next((path for path in (Path(place) / MODULE for place in (*told, *PLACES)) if path.is_file()), None)
