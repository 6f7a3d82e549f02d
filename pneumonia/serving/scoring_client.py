"""A model behind `mlflow models serve`, or behind a proxy in front of it, that scores films over HTTP."""

import base64
import os
import random
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import requests

from pneumonia.runtime.messages import shortened
from pneumonia.runtime.secrets import masked
from pneumonia.serving import example_film
from pneumonia.serving.film_batches import Row

WAITS = (0.5, 1, 2, 4, 8, 16, 30)  # seconds before each further attempt, half of it by chance
FIRST_WAITS = WAITS[:3]  # of the first request, which shows whether there is a server
LONGEST_WAIT = 60.0  # seconds that a server may ask for by Retry-After
TIMEOUT = (10, 300)  # seconds to connect, and to wait for an answer
TOKEN = "PNEUMONIA_TOKEN"  # noqa: S105  # the name of a variable
BUSY = (429, 502, 503, 504)


class ServerError(RuntimeError):
    """The server is away or refuses; one sentence says which and what to do."""


class ScoringClient:
    """A `film_batches.Scorer`. Requests of films below a megabyte together, which a proxy takes any number of; a few at
    once, since the server has cores of its own.

    A server that is away, overloaded or being restarted is asked again, for a minute. Names and passwords of ~/.netrc
    are used, as is a token in the environment variable PNEUMONIA_TOKEN.
    """

    bytes_at_once, calls_at_once = 600_000, 4  # a third longer as base64

    def __init__(self, url: str, *, explain: bool = False, any_dicom: bool = False) -> None:
        """Asks the server for a drawn film; by what it answers its model is told from others.

        Raises:
            ValueError: the URL is none, or holds a password.
            ServerError: there is no such server, it refuses, or its model does not take what is asked for.
        """
        self.url = _address(url)
        self.films_at_once = 8 if explain else 64
        self._params = {"errors": "return", **({"explain": True} if explain else {})}
        self._params |= {"any_dicom": True} if any_dicom else {}
        self._local = threading.local()
        answer = self._first(example_film.jpeg())
        if any_dicom and "error" not in answer:
            raise ServerError(f"the model at {self.url} is of an earlier version, which has no any_dicom")
        if explain and not answer.get("heatmap"):
            raise ServerError(f"the model at {self.url} gives no heatmaps: leave explain out")
        self.threshold = float(answer["threshold"])
        scored = (
            f"a server that gives a drawn film {answer['probability']:.6f} and has the threshold {self.threshold:.6f}"
        )
        self.about = {"model": scored, "any_dicom": str(any_dicom).lower()}

    def score(self, films: Sequence[bytes]) -> list[Row]:
        """Raises:
        ServerError: it is away or refuses. A film that it fails on has an `error`."""
        reply = self._post(films, WAITS)
        if reply.status_code == 200:
            return self._predictions(reply, len(films))
        if len(films) > 1:  # one by one, to see which it is
            return [row for film in films for row in self.score([film])]
        return [{"error": _sentence(reply).removeprefix("record 0: ")}]

    def _first(self, example: bytes) -> Row:
        reply = self._post([example], FIRST_WAITS)
        if reply.status_code != 200:
            raise ServerError(f"the server at {self.url} refuses a film that is right: {_sentence(reply)}")
        answer = self._predictions(reply, 1)[0]
        if not isinstance(answer.get("threshold"), float):
            raise ServerError(f"the server at {self.url} serves a model that is not one of this program's")
        if answer.get("error"):
            raise ServerError(f"the server at {self.url} refuses a film that is right: {answer['error']}")
        return answer

    def _post(self, films: Sequence[bytes], waits: Sequence[float]) -> requests.Response:
        """An answer that is final for these films: 200, or a refusal that may be one film's fault."""
        records = [{"image": base64.b64encode(film).decode("ascii")} for film in films]
        body = {"dataframe_records": records, "params": self._params}
        reply: requests.Response | None = None
        for wait in (*waits, None):
            reply, asked = None, 0.0
            try:
                reply = self._session().post(f"{self.url}/invocations", json=body, timeout=TIMEOUT)
            except requests.Timeout:
                said = "does not answer in time"
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                said = "does not answer"
            except requests.RequestException as error:
                raise ServerError(f"the server at {self.url} cannot be asked: {shortened(str(error), 200)}") from error
            if reply is not None:
                if reply.status_code not in BUSY:
                    return self._serving(reply)
                asked, said = _asked_to_wait(reply), f"is overloaded or broken (HTTP {reply.status_code})"
            if wait is not None:
                time.sleep(max(asked, wait * random.uniform(0.5, 1)))  # noqa: S311  # no secret
        if reply is not None and reply.status_code != 429 and waits == WAITS and self._lives():
            return reply  # it dies of these films alone
        raise ServerError(f"the server at {self.url} {said}: is it running, and is that its address?")

    def _serving(self, reply: requests.Response) -> requests.Response:
        if reply.status_code in (401, 403):
            raise ServerError(
                f"the server at {self.url} asks for a login (HTTP {reply.status_code}): put a name and password into "
                f"~/.netrc, or a token into the environment variable {TOKEN}"
            )
        if reply.status_code in (404, 405) or 300 <= reply.status_code < 400:
            raise ServerError(
                f"the server at {self.url} is no scoring server (HTTP {reply.status_code} of /invocations): "
                "name the address of `mlflow models serve`"
            )
        return reply

    def _predictions(self, reply: requests.Response, films: int) -> list[Row]:
        try:
            answer: Any = reply.json()
            rows = answer["predictions"]
            if len(rows) != films or not all(isinstance(row, dict) for row in rows):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"the server at {self.url} answers with something else than predictions") from None
        return list(rows)

    def _lives(self) -> bool:
        try:
            return self._session().get(f"{self.url}/ping", timeout=TIMEOUT[0]).ok
        except requests.RequestException:
            return False

    def _session(self) -> requests.Session:
        """One a thread."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            if token := os.environ.get(TOKEN):
                self._local.session.auth = _Bearer(token)
        session: requests.Session = self._local.session
        return session


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"{masked(url)} is no address of a server, such as http://host:5001")
    if parts.password is not None:
        raise ValueError(
            "the address holds a password: put it into ~/.netrc (`mlflow run` logs its parameters before this program "
            "starts, so change that password)"
        )
    return url.rstrip("/").removesuffix("/invocations")


def _asked_to_wait(reply: requests.Response) -> float:
    """Seconds, by Retry-After; 0 where it says nothing, or a date."""
    said = reply.headers.get("Retry-After", "")
    return min(float(said), LONGEST_WAIT) if said.isdecimal() else 0.0


def _sentence(reply: requests.Response) -> str:
    try:
        said = str(reply.json()["message"])
    except (ValueError, KeyError, TypeError):
        said = ""
    return shortened(" ".join(said.split()), 300) or f"the server fails on it (HTTP {reply.status_code})"
