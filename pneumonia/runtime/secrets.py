"""Secrets, which no output and no record shows: passwords and tokens in URLs, and those that the environment holds."""

import os
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
LEAST_LETTERS = 4  # of a secret in the environment: shorter ones stand in ordinary words
WORDS = {"true", "false", "none", "null"}  # of switches that are called like secrets

_NAMED = r"(?:password|passwd|pwd|token|secret|credential|signature|sig|auth|api_?key|access_?key)"
_VARIABLE = re.compile(r"(PASSWORD|PASSWD|_PWD|TOKEN|SECRET|_KEY)$")
# To the last @, whatever stands before it, as SQLAlchemy reads it. In http a number and a slash are a port.
_LOGIN = re.compile(r"((?<!http)(?<!https)://[^/\s:@]*:|https?://[^/\s:@]*:(?!\d{1,5}[/?#]))(\S*)@")
_TOKEN_ALONE = re.compile(r"(https?://)[^/\s:@]+@")
_QUERY = re.compile(rf"([?&;][\w.-]*{_NAMED}=)[^&;#\s\"']+", re.IGNORECASE)
_KEYWORD = re.compile(r"\b(password\s*=\s*)('[^']*'|[^\s'\"&]+)", re.IGNORECASE)  # of PostgreSQL's connection strings


def masked(text: str) -> str:
    """A text without the passwords and tokens of the URLs in it; the same text always gives the same."""
    text = _TOKEN_ALONE.sub(rf"\1{HIDDEN}@", _LOGIN.sub(rf"\1{HIDDEN}@", text))
    return _KEYWORD.sub(rf"\1{HIDDEN}", _QUERY.sub(rf"\1{HIDDEN}", text))


def masked_within(value: Any) -> Any:
    """A value of JSON with all texts in it masked, but for the names."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {name: masked_within(inner) for name, inner in value.items()}
    return [masked_within(inner) for inner in value] if isinstance(value, list | tuple) else value


def without_secrets(text: str) -> str:
    """A message without the secrets of URLs, nor any that this process's environment holds: a library's error may tell
    half of one, or one without its URL.
    """
    for secret in _of_the_environment():
        text = text.replace(secret, HIDDEN)
    return masked(text)


def is_secret(variable: str) -> bool:
    """Whether the value of an environment variable is never to be shown."""
    return _VARIABLE.search(variable) is not None or variable.endswith("_AUTH")


def hide_in_tracebacks() -> None:
    """From now on the traceback of an error that nobody handles is printed without secrets, in every thread."""

    def tell(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = tell
    threading.excepthook = lambda of: (
        None if of.exc_type is SystemExit else tell(of.exc_type, of.exc_value, of.exc_traceback)
    )


def _of_the_environment() -> list[str]:
    """The longest first, since a shorter one may be a part of it."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if _VARIABLE.search(name.upper()) and value.lower() not in WORDS:
            found.add(value)
        for _, password in _LOGIN.findall(value):
            # A part of it may be taken for the name of a machine, which errors tell: SQLAlchemy takes what follows the
            # first @ so, and requests what stands before a slash.
            found |= {password, unquote(password), *re.split("[@/?#:]", password)}
    found |= {quote(secret, safe="") for secret in found}
    return sorted((secret for secret in found if len(secret) >= LEAST_LETTERS), key=len, reverse=True)
