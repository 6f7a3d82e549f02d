"""No password and no token is shown."""

import pytest

from pneumonia.housekeeping.secrets import hidden, is_secret


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:s3cret@lab/base",
        "https://me:s3cret@lab/mlflow",
        "https://s3cret@lab/mlflow",
        "could not reach http://me:s3/cret@lab: refused".replace("s3/cret", "s3cret/s3cret"),
        "postgresql://lab/base?user=me&password=s3cret&sslmode=require",
        "https://lab/files?api_key=s3cret",
        "https://lab/files?sig=s3cret&x=1",
    ],
)
def test_what_is_secret_in_a_url_is_hidden(text: str) -> None:
    assert "s3cret" in text
    shown = hidden(text)
    assert "s3cret" not in shown
    assert "***" in shown
    assert "lab" in shown


@pytest.mark.parametrize("text", ["sqlite:////home/me/mlflow.db", "http://lab:5000/path", "postgresql://me@lab/base"])
def test_what_is_none_stays(text: str) -> None:
    assert hidden(text) == text


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
