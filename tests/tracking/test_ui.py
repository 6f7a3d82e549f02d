"""Addresses of MLflow's UI, and the port that it gets."""

import socket

import pytest

from pneumonia.tracking import ui


def test_an_address_is_the_server_s_or_where_ui_makes_one() -> None:
    assert ui.address("sqlite:///mlflow.db") == "http://127.0.0.1:5000"
    assert ui.address("postgresql://me@database/mlflow", port=81) == "http://127.0.0.1:81"
    assert ui.address("sqlite:///mlflow.db", host="0.0.0.0", port=5001) == "http://127.0.0.1:5001"
    assert ui.address("sqlite:///mlflow.db", host="::") == "http://[::1]:5000"
    assert ui.address("http://tracker:5000/") == "http://tracker:5000"
    assert ui.address("https://me:secret@lab.org/mlflow/") == "https://lab.org/mlflow"  # no password is printed


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ui.UiError, match=rf"port {port} is taken.*--port"):
            ui.free_port("127.0.0.1", port)
    assert ui.free_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 65536), ("127.0.0.1", -1), ("no.such.host.invalid", 5000)])
def test_a_place_where_nothing_can_listen_is_said_to_be_one(host: str, port: int) -> None:
    with pytest.raises(ValueError, match=r"port must be|nothing can listen"):
        ui.free_port(host, port)
