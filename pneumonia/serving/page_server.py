"""The server of the page to try a model: for one's own machine, with films as JSON or as files.

It answers as `mlflow models serve` does, and the page asks it as it asks that server behind nginx.
"""

import asyncio
import io
import ipaddress
import logging
import socket
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import mlflow
import pandas as pd
import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumonia import serving
from pneumonia.serving.about import About

logger = logging.getLogger(__name__)
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {  # as nginx sends them; the page itself says what it may load
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MAX_BODY = 48 * 2**20  # bytes of a request, as nginx takes them
MAX_FILMS = 1000  # in one form; so many the model scores at once
MAX_AT_ONCE = 8  # requests with films under way, each up to some five times its size in memory
BODY_SECONDS = 60.0  # for a request to arrive
FLAGS, ERRORS = ("explain", "any_dicom"), ("raise", "return")
BAD, BUSY = "BAD_REQUEST", "REQUEST_LIMIT_EXCEEDED"  # MLflow's codes
FORMS = (
    "the request is none that is known here: films are sent as in MLflow's dataframe_records, as a file, or as a form"
)

WRONG_TYPE = (
    "the Content-Type must be application/json, multipart/form-data, image/jpeg, image/png or application/dicom"
)


class Refused(Exception):
    """A request that is not scored: HTTP status, MLflow's error code, and a sentence without a word of the request."""

    def __init__(self, status: int, sentence: str, code: str = BAD) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.code = status, sentence, code

    def response(self) -> Response:
        body = {"error_code": self.code, "message": self.sentence}
        return JSONResponse(body, self.status, {"Retry-After": "1"} if self.status == 429 else None)


def app(model: PyFuncModel, about: About, *, names: Collection[str] = ()) -> Starlette:
    """The page at `/`, what answers at `/model`, and `/invocations`, `/ping`, `/health`, `/version` as MLflow's server.

    Args:
        names: by which this machine is called, besides localhost and its addresses.
    """

    def static(file: str, media: str) -> Any:
        content = (files(serving) / "page" / file).read_bytes()
        return lambda request: Response(content, media_type=media)

    def healthy(request: Request) -> Response:
        return Response("\n", media_type="application/json")

    return Starlette(
        routes=[
            *(Route(path, static(*file)) for path, file in FILES.items()),
            *(Route(path, healthy) for path in ("/ping", "/health")),
            Route("/version", lambda request: Response(mlflow.__version__, media_type="application/json")),
            Route("/model", lambda request: JSONResponse(asdict(about))),
            Route("/invocations", Invocations(model).answer, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, names=names)],
        exception_handlers={404: _no_such_page, 405: _wrong_method, 500: _failed},
    )


class Invocations:
    """Scores what is sent: what MLflow's server takes; the bytes of one film (Content-Type image/..., application/dicom
    or application/octet-stream); or a form (multipart/form-data) with films as files.

    The params of a film that is sent so stand in the address (`?explain=true`), those of a form among its fields.
    """

    def __init__(self, model: PyFuncModel) -> None:
        self._model, self._under_way = model, 0

    async def answer(self, request: Request) -> Response:
        if self._under_way >= MAX_AT_ONCE:
            return Refused(429, "too many requests at once: wait for an answer first", BUSY).response()
        self._under_way += 1
        try:
            return await self._scored(request)
        except Refused as refused:
            return refused.response()
        except TimeoutError:
            return Refused(408, f"the request has not arrived within {BODY_SECONDS:.0f} s").response()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        finally:
            self._under_way -= 1

    async def _scored(self, request: Request) -> Response:
        kind = request.headers.get("Content-Type", "")
        media = kind.partition(";")[0].strip().lower()
        is_film = media.startswith("image/") or media in ("application/dicom", "application/octet-stream")
        if media == "multipart/form-data":
            async with asyncio.timeout(BODY_SECONDS):
                films, params = await _form(request)
        elif is_film or media in scoring_server.CONTENT_TYPES:
            async with asyncio.timeout(BODY_SECONDS):
                films = [b"".join([part async for part in _body(request)])]
            params = _params(request.query_params.multi_items())
        else:
            raise Refused(415, WRONG_TYPE)
        if media in scoring_server.CONTENT_TYPES:
            return await run_in_threadpool(_answered, self._model, films[0], kind)
        return await run_in_threadpool(_predicted, self._model, films, params)


class Guard:
    """Lets through what comes from this machine's own pages, and gives every answer the page's headers."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app, self.names = app, {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            check_sender(Headers(scope=scope), self.names)
        except Refused as refused:
            await refused.response()(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


def check_sender(headers: Mapping[str, str], names: Collection[str]) -> None:
    """Refuses what a page of elsewhere made a browser send.

    A page may send a form anywhere, and says in `Origin` where it is from. By DNS rebinding its own name may come to
    mean this machine; then that name stands in `Host`, where only an address or a name of this machine is taken.

    Raises:
        Refused: with 403.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if not _is_here(host, names):
        raise Refused(403, "this server is asked by its address, or by a name of the machine that it runs on")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise Refused(403, "only this server's own page may send films")


def _is_here(host: str, names: Collection[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        ValueError: the port is taken, or there is no such address on this machine.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(
            f"nothing can listen at {host}, port {port}: {error.strerror or error}; --port 0 takes a free one"
        ) from None


def serve(page: Starlette, at: socket.socket) -> None:
    """Answers at a socket until a signal; the signal's own handler runs then."""
    uvicorn.Server(
        uvicorn.Config(page, log_level="warning", access_log=False, server_header=False, lifespan="off")
    ).run(sockets=[at])


async def _body(request: Request) -> AsyncGenerator[bytes, None]:
    large = Refused(413, "the request is too large: send fewer films at once")
    said = request.headers.get("Content-Length", "0")
    if not said.isdecimal() or int(said) > MAX_BODY:
        raise large
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise large
        yield part


class _Form(MultiPartParser):
    spool_max_size = MAX_BODY + 1  # films are never written to the disk


async def _form(request: Request) -> tuple[list[bytes], dict[str, Any]]:
    """The films and the params of a form."""
    parser = _Form(request.headers, _body(request), max_files=MAX_FILMS, max_fields=10, max_part_size=100)
    try:
        form = await parser.parse()
    except MultiPartException:
        raise Refused(400, f"the form is damaged, or holds more than {MAX_FILMS} films") from None
    films, fields = [], []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            films.append(await value.read())
        else:
            fields.append((name, value))
    await form.close()
    if not films:
        raise Refused(400, "the form holds no files")
    return films, _params(fields)


def _params(given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The model's params from text."""
    params: dict[str, Any] = {}
    for name, value in given:
        if name in FLAGS and value in ("true", "false"):
            params[name] = value == "true"
        elif name == "errors" and value in ERRORS:
            params[name] = value
        else:
            raise Refused(400, "there may be explain and any_dicom, each true or false, and errors, raise or return")
    return {name: value for name, value in params.items() if value}  # a version of before does not know all


def _predicted(model: PyFuncModel, films: list[bytes], params: dict[str, Any]) -> Response:
    try:
        table = model.predict(pd.DataFrame({"image": pd.Series(films, dtype=object)}), params=params or None)
    except MlflowException as error:
        raise _refusal(error) from None
    text = io.StringIO()
    scoring_server.predictions_to_json(table, text)  # type: ignore[no-untyped-call]
    return Response(text.getvalue(), media_type="application/json")


def _answered(model: PyFuncModel, body: bytes, kind: str) -> Response:
    """What MLflow's server answers, without its echoes of a request that it cannot read."""
    try:
        schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]
        answer = scoring_server.invocations(body, kind, model, schema)  # type: ignore[no-untyped-call]
    except MlflowException as error:
        raise _refusal(error) from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists in lists in lists
        raise Refused(400, FORMS) from None
    if answer.status != 200:
        raise Refused(answer.status, FORMS)
    return Response(answer.response, media_type=answer.mimetype)


def _refusal(error: MlflowException) -> Refused:
    """The model's own sentence where it has one."""
    if (sentence := getattr(error, "sentence", None)) is not None:
        status = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return Refused(status, sentence, error.error_code)
    return Refused(400, FORMS)


def _no_such_page(request: Request, error: Exception) -> Response:
    return Refused(
        404, "there is the page at /, POST /invocations, and GET /model, /ping, /health and /version"
    ).response()


def _wrong_method(request: Request, error: Exception) -> Response:
    return Refused(405, "films are sent by POST to /invocations; all else is asked by GET").response()


def _failed(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return Refused(500, "the server failed on this request; its log says why", "INTERNAL_ERROR").response()
