"""Passwords and tokens are shown by nothing: not in URLs, nor by an error that tells them in another way."""

import subprocess
import sys

import pytest

from pneumonia.runtime.environment import mlflow_defaults
from pneumonia.runtime.secrets import is_secret, masked, masked_within, without_secrets

MARK = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql+psycopg2://me:{MARK}@host/base", "postgresql+psycopg2://me:***@host/base"),
        (f"postgresql://me:{MARK}@{MARK}/x:{MARK}@host/base", "postgresql://me:***@host/base"),
        (f"mysql://:{MARK}@host", "mysql://:***@host"),
        (f"a request to https://ada:{MARK}@host:5000/api failed", "a request to https://ada:***@host:5000/api failed"),
        (f"https://{MARK}@github.com/lab/project.git", "https://***@github.com/lab/project.git"),
        (f"postgresql://host/base?user=me&password={MARK}&sslmode=require", "postgresql://host/base?user=me&password=***&sslmode=require"),
        (f"https://host/film.png?X-Amz-Signature={MARK}&X-Amz-Date=1", "https://host/film.png?X-Amz-Signature=***&X-Amz-Date=1"),
        (f"https://host/film.png?access_token={MARK}", "https://host/film.png?access_token=***"),
        (f"https://host/film.png?sig={MARK}&x=1", "https://host/film.png?sig=***&x=1"),
        (f"invalid dsn: host=db user=me password={MARK} port=1", "invalid dsn: host=db user=me password=*** port=1"),
        (f"host=db password='{MARK} {MARK}'", "host=db password=***"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password_or_token(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://tracker:5000/#/experiments/1/runs/2?x=models:/pneumonia@champion",
        "postgresql+psycopg2://me@host:5432/base",
        "s3://bucket/key@2x.png",
        "models:/pneumonia@champion",
        "sqlite:////home/me/study.db",
        "the token is missing, and so is the password: set PGPASSWORD",
        "mail a@b.org and see https://example.org/a",
    ],
)
def test_what_holds_no_secret_stays(text):
    assert masked(text) == text


def test_a_value_of_json_is_masked_within():
    value = {"a": [f"http://u:{MARK}@h", 1, None], "b": {"c": ("x", f"http://u:{MARK}@h")}}
    assert masked_within(value) == {"a": ["http://u:***@h", 1, None], "b": {"c": ["x", "http://u:***@h"]}}


def test_a_message_does_not_tell_what_the_environment_holds(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "of the database")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc/def")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:to%20ken@tail@host/base")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:first/second@host:1/a")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    monkeypatch.setenv("MLFLOW_ALLOW_TOKEN", "true")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "quick")
    said = 'FATAL: "of the database" is wrong; abc/def, abc%2Fdef, to ken@tail; no such host name "tail@host"; '
    said += "'me:first' is not a valid host or port; "
    kept = "a quick and true word in " + __file__
    assert without_secrets(said + kept) == (
        'FATAL: "***" is wrong; ***, ***, ***; no such host name "***@host"; '
        + f"'me:***' is not a valid host or port; {kept}"
    )


@pytest.mark.parametrize("where", ["raise error", "threading.Thread(target=fail).start()"])
def test_a_traceback_that_nobody_handles_has_no_secrets(where):
    code = f"""
import threading
from pneumonia.runtime.secrets import hide_in_tracebacks
hide_in_tracebacks()
error = KeyError("http://me:{MARK}@host")
def fail():
    raise error
{where}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "KeyError: 'http://me:***@host'" in done.stderr
    assert "Traceback" in done.stderr
    assert MARK not in done.stderr


def test_mlflow_does_not_print_the_address_of_a_tracking_server(monkeypatch, capsys):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    mlflow_defaults()
    # It would ask the server for the run's name, and fail.
    MlflowClient(f"http://ada:{MARK}@127.0.0.1:1")._tracking_client._log_url("0" * 32)
    assert capsys.readouterr().out == ""


def test_variables_whose_value_is_never_shown() -> None:
    secret = [
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "PNEUMONIA_TOKEN",
        "PGPASSWORD",
        "MLFLOW_TRACKING_AUTH",
    ]
    assert all(map(is_secret, secret))
    assert not any(map(is_secret, ["PNEUMONIA_HOME", "MLFLOW_TRACKING_USERNAME", "PGPASSFILE", "MLFLOW_TRACKING_URI"]))
