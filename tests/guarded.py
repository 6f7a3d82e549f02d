"""What stands before a tracking server in a company: a proxy that wants to know who asks, with TLS and a path."""

import base64
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME, PASSWORD, TOKEN = "ada", "correct horse", "t0ken-of-ada"
BASIC = "Basic " + base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
BEARER = f"Bearer {TOKEN}"
PASSED_ON = ("content-type", "accept", "x-mlflow-workspace")


@dataclass
class Guard:
    """How the proxy answers: by itself, or with what the server behind it says.

    It has no `/health`. Without a server behind it, MLflow's questions get an empty object.
    """

    behind: str | None = None
    wants: str | None = None  # the Authorization header
    prefix: str = ""
    status: int = 200
    page: tuple[str, str] | None = None  # content type and text, instead of an answer
    hangs: bool = False
    uri: str = ""
    asked: list[str] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, str, bytes]:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append(f"{request.command} {request.path}")
        if self.hangs:
            self.let_go.wait(20)
        if self.wants is not None and request.headers.get("Authorization") != self.wants:
            return 401, "text/html", b"<html>who are you?</html>"
        if self.page is not None:
            return self.status, self.page[0], self.page[1].encode()
        path = request.path.removeprefix(self.prefix)
        if (self.prefix and path == request.path) or path.startswith("/health"):
            return 404, "text/html", b"<html>not here</html>"
        if self.behind is None:
            return self.status, "application/json", b"{}"
        headers = {name: value for name, value in request.headers.items() if name.lower() in PASSED_ON}
        reply = requests.request(request.command, self.behind + path, data=body, headers=headers, timeout=60)
        return reply.status_code, reply.headers.get("Content-Type", "application/json"), reply.content


@contextmanager
def guarded(
    guard: Guard | None = None, *, certificate: Path | None = None, clients: Path | None = None
) -> Iterator[Guard]:
    """Serves a Guard on a free port; its `uri` is where.

    Args:
        certificate: a file with the server's certificate and key; without it there is no TLS.
        clients: the certificates that are wanted of those who ask.
    """
    guard = guard or Guard()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            status, kind, content = guard.answer(self)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Nothing: clients that do not like the certificate hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        # each connection in its own thread, so that one that never says hello holds nobody up
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    guard.uri = f"{scheme}://127.0.0.1:{server.server_address[1]}{guard.prefix}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield guard
    finally:
        guard.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(file: Path) -> Path:
    """Writes a certificate for 127.0.0.1 that signs itself, with its key, and returns the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tracker")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return file
