"""Checks whether a tracking store answers. A server is asked as MLflow's own client does, with the same settings."""

import configparser
import json
import os

import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import MlflowHostCreds, http_request
from sqlalchemy.exc import SQLAlchemyError

from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.secrets import masked, without_secrets

PROBE = "/api/2.0/mlflow/experiments/search"  # a request that any user of a server may make
SAID_LETTERS = 200
NAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
WANTS_CERTIFICATE = (
    "asks for a client certificate, or does not accept it: set MLFLOW_TRACKING_CLIENT_CERT_PATH to the file with the "
    "certificate and its key"
)


class TrackingError(RuntimeError):
    """The tracking store cannot be reached or refuses what it was sent."""


def reach(uri: str, *, seconds: float = 5.0) -> None:
    """Checks that the tracking store answers; a store in a file is not checked.

    Raises:
        TrackingError: no answer within `seconds`, or one that says that nothing can be sent; the sentence says what to
            set.
    """
    if uri.startswith(("postgresql", "mysql")):
        _reach_database(uri, seconds)
    if uri.startswith(("http://", "https://")):
        _reach_server(uri, seconds)


def _reach_database(uri: str, seconds: float) -> None:
    try:
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": int(seconds)})
        engine.connect().close()
    except SQLAlchemyError as error:
        said = without_secrets(first_line(error.__cause__ or error))
        raise TrackingError(f"the tracking database {masked(uri)} does not answer: {said}") from error


def _reach_server(uri: str, seconds: float) -> None:
    where = masked(uri)
    try:
        creds = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
        answer = _ask(creds, seconds)
    except configparser.Error as error:
        raise TrackingError(f"~/.mlflow/credentials cannot be read: {without_secrets(first_line(error))}") from error
    except ImportError as error:
        raise TrackingError(f"the package {error.name} is missing, for requests as {where} wants them") from error
    except MlflowException as error:
        cause = error.__cause__ or error.__context__ or error  # MLflow raises most of its errors without `from`
        raise TrackingError(_no_answer(where, cause, seconds)) from error
    if not answer.ok or not _is_json_object(answer.text):
        raise TrackingError(_refusal(where, answer, creds))


def _ask(creds: MlflowHostCreds, seconds: float, *, again: bool = True) -> requests.Response:
    try:
        answer: requests.Response = http_request(  # type: ignore[no-untyped-call]
            creds,
            PROBE,
            "POST",
            json={"max_results": 1},
            timeout=seconds,
            max_retries=0,
            raise_on_status=False,
        )
    except MlflowException as error:
        if again and "Connection aborted" in str(error):  # a kept connection that the server has closed since
            return _ask(creds, seconds, again=False)
        raise
    return answer


def _no_answer(where: str, cause: BaseException, seconds: float) -> str:
    """Why there was no answer."""
    said, kind = without_secrets(str(cause)), type(cause).__name__
    if isinstance(cause, requests.exceptions.SSLError) or "[SSL" in said:
        return _tls_failure(where, said)
    if isinstance(cause, requests.ConnectionError | requests.Timeout):
        slow = f" within {seconds:g} s" if "timed out" in said else ""
        return f"no MLflow server answers at {where}{slow} ({kind}): start it, or set MLFLOW_TRACKING_URI"
    # a missing certificate file, an invalid address, a plug-in's error
    told = shortened(without_secrets(first_line(cause)), SAID_LETTERS)
    return f"the MLflow server at {where} cannot be asked: {told}"


def _tls_failure(where: str, said: str) -> str:
    if "WRONG_VERSION_NUMBER" in said or "RECORD_LAYER_FAILURE" in said or "HTTP_REQUEST" in said:
        return f"{where} does not speak TLS: is it http:// in MLFLOW_TRACKING_URI?"
    if "ALERT" in said:
        return f"the MLflow server at {where} {WANTS_CERTIFICATE}"
    if "EOF" in said:
        return (
            f"the MLflow server at {where} closes the connection: perhaps it wants a client certificate "
            "(MLFLOW_TRACKING_CLIENT_CERT_PATH), or does not speak TLS (http://)"
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = (
            said.partition("certificate verify failed: ")[2].partition(" (_ssl.c")[0] or "not signed by a known one"
        )
        return (
            f"the certificate of the MLflow server at {where} is not trusted ({reason}): "
            "set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of the authority that signed it, or "
            "MLFLOW_TRACKING_INSECURE_TLS=true to do without"
        )
    return f"no safe connection to the MLflow server at {where}: {shortened(said, SAID_LETTERS)}"


def _refusal(where: str, answer: requests.Response, creds: MlflowHostCreds) -> str:
    """What an answer means that is not MLflow's to the request."""
    code = answer.status_code
    if code == 401:
        return f"the MLflow server at {where} {_unauthorised(creds)}"
    if code == 400 and "certificate" in answer.text.lower():  # nginx says it so
        return f"the MLflow server at {where} {WANTS_CERTIFICATE}"
    if code == 400 and "https" in answer.text.lower():
        return f"{where} speaks TLS: write https:// in MLFLOW_TRACKING_URI"
    said = _server_message(answer, creds)
    if code == 403:
        return (
            f"the MLflow server at {where} forbids it (403{said}): set {NAME} and {PASSWORD}, or {TOKEN}, of a user "
            "who may"
        )
    if code in (408, 429) or code >= 500:
        return f"the MLflow server at {where} is there but does not work ({code}{said}): try again, or see its log"
    shown = "a web page" if "html" in answer.headers.get("Content-Type", "") else "something else"
    what = shown if answer.ok else f"{code}{said}"
    return (
        f"what answers at {where} is no MLflow server, or wants another path or a login before it ({what}): "
        "set MLFLOW_TRACKING_URI"
    )


def _unauthorised(creds: MlflowHostCreds) -> str:
    """Of a server that answers 401: which credentials were sent, never the secret itself, and what to set."""
    if creds.auth:
        return f"does not know who asks (401): MLFLOW_TRACKING_AUTH names {creds.auth}, which is missing or not enough"
    if creds.username and creds.password:
        there = "which" if os.environ.get(PASSWORD) else "or ~/.mlflow/credentials, which"
        return f"does not take the name and password (401) of {NAME} and {PASSWORD}, {there} are set"
    if creds.token:
        return f"does not take the token (401) of {TOKEN}, which is set"
    missing = PASSWORD if creds.username else NAME if creds.password else f"{NAME} and {PASSWORD}, or {TOKEN}"
    return f"asks who you are (401): set {missing}"


def _server_message(answer: requests.Response, creds: MlflowHostCreds) -> str:
    """The server's message, where it is text and not a page, without the password or token."""
    try:
        text = str(json.loads(answer.text).get("message", ""))
    except (ValueError, AttributeError):
        text = answer.text if "text/plain" in answer.headers.get("Content-Type", "") else ""
    for secret in (creds.password, creds.token):
        text = text.replace(secret, "***") if secret else text
    line = " ".join(without_secrets(text).split())
    return f": {shortened(line, SAID_LETTERS)}" if line else ""


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
