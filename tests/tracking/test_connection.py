"""Whether a tracking server answers, asked as MLflow's own client asks, with all of its settings."""

import re
import socket
import time
from pathlib import Path

import pytest

from pneumonia.tracking.connection import TrackingError, reach
from tests.command import Lab
from tests.conftest import NO_SERVER, TrackingServer
from tests.guarded import BASIC, BEARER, NAME, PASSWORD, TOKEN, Guard, certificate, guarded

SETTINGS = [
    "USERNAME",
    "PASSWORD",
    "TOKEN",
    "AUTH",
    "AWS_SIGV4",
    "INSECURE_TLS",
    "SERVER_CERT_PATH",
    "CLIENT_CERT_PATH",
]


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of who runs the tests; their home is empty."""
    for name in (*SETTINGS, "CLIENT_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls") / "tracker.pem")


@pytest.fixture(scope="module")
def other_pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls") / "other.pem")


def set_to(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", str(value))


def refused(uri: str, *, seconds: float = 5.0) -> str:
    """What is said of a server that is not taken, in one line, without the secrets of these tests."""
    with pytest.raises(TrackingError) as caught:
        reach(uri, seconds=seconds)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert not [secret for secret in (PASSWORD, TOKEN, "swordfish", BASIC, BEARER) if secret in said]
    return said


def test_a_server_without_health_behind_a_path_is_reached() -> None:
    with guarded(Guard(prefix="/team/mlflow")) as guard:
        reach(guard.uri)
        reach(guard.uri + "/")
    assert guard.asked == ["POST /team/mlflow/api/2.0/mlflow/experiments/search"] * 2


def test_name_and_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with guarded(Guard(wants=BASIC)) as guard:
        said = refused(guard.uri)
        assert all(word in said for word in ("401", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", guard.uri))
        set_to(monkeypatch, USERNAME=NAME)
        assert refused(guard.uri).endswith("set MLFLOW_TRACKING_PASSWORD")
        set_to(monkeypatch, PASSWORD="swordfish")
        assert "does not take the name and password (401)" in refused(guard.uri)
        set_to(monkeypatch, PASSWORD=PASSWORD)
        reach(guard.uri)
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        (tmp_path / ".mlflow").mkdir()
        file = tmp_path / ".mlflow" / "credentials"
        file.write_text(f"[mlflow]\nmlflow_tracking_username = {NAME}\nmlflow_tracking_password = {PASSWORD}\n")
        reach(guard.uri)
        file.write_text(f"mlflow_tracking_password = {PASSWORD}\n")
        assert "~/.mlflow/credentials cannot be read" in refused(guard.uri)


def test_in_the_address() -> None:
    with guarded(Guard(wants=BASIC)) as guard:
        at = guard.uri.partition("://")[2]
        reach(f"http://{NAME}:{PASSWORD.replace(' ', '%20')}@{at}")
        assert f"http://{NAME}:***@{at}" in refused(f"http://{NAME}:swordfish@{at}")
    assert f"{NAME}:***@" in refused(f"http://{NAME}:swordfish@127.0.0.1:9")


def test_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(Guard(wants=BEARER)) as guard:
        assert "MLFLOW_TRACKING_TOKEN" in refused(guard.uri)
        set_to(monkeypatch, TOKEN="swordfish")
        assert "does not take the token (401) of MLFLOW_TRACKING_TOKEN" in refused(guard.uri)
        set_to(monkeypatch, TOKEN=TOKEN)
        reach(guard.uri)


def test_a_plug_in_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to(monkeypatch, AUTH="sesame")
    with guarded(Guard(wants=BEARER)) as guard:
        assert "MLFLOW_TRACKING_AUTH names sesame" in refused(guard.uri)
    monkeypatch.delenv("MLFLOW_TRACKING_AUTH")
    set_to(monkeypatch, AWS_SIGV4="true")
    assert "requests_auth_aws_sigv4 is missing" in refused(NO_SERVER)


@pytest.mark.parametrize(
    ("page", "word"),
    [
        (("application/json", '{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'), "denied"),
        (("text/plain", "Invalid Host header - possible DNS rebinding attack detected"), "Invalid Host"),
        (("text/html", f"<html>{PASSWORD}</html>"), "(403)"),
        (("text/plain", f"{NAME} with {PASSWORD} may not"), "ada with *** may not"),
    ],
)
def test_forbidden(page: tuple[str, str], word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to(monkeypatch, USERNAME=NAME, PASSWORD=PASSWORD)
    with guarded(Guard(status=403, page=page)) as guard:
        said = refused(guard.uri)
    assert "forbids it (403" in said
    assert word in said


@pytest.mark.parametrize(
    ("status", "page", "word"),
    [
        (404, ("text/html", "<html>nginx</html>"), "no MLflow server"),
        (200, ("text/html", "<html>Sign in</html>"), "a web page"),
        (200, ("text/plain", "OK"), "something else"),
        (400, ("text/html", "<html>No required SSL certificate was sent</html>"), "MLFLOW_TRACKING_CLIENT_CERT_PATH"),
        (400, ("text/html", "<html>The plain HTTP request was sent to HTTPS port</html>"), "write https://"),
        (405, ("application/json", "{}"), "405"),
        (503, ("text/html", "<html>starting</html>"), "there but does not work (503)"),
        (500, ("application/json", '{"message": "' + "no database " * 90 + '"}'), "(500: no database"),
    ],
)
def test_what_is_no_answer_of_mlflow(status: int, page: tuple[str, str], word: str) -> None:
    with guarded(Guard(status=status, page=page)) as guard:
        said = refused(guard.uri)
    assert word in said
    assert guard.uri in said


def test_tls(pem: Path, other_pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(certificate=pem) as guard:
        said = refused(guard.uri)
        assert "not trusted" in said
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in said
        assert "MLFLOW_TRACKING_INSECURE_TLS" in said
        set_to(monkeypatch, SERVER_CERT_PATH=pem)
        reach(guard.uri)
        set_to(monkeypatch, SERVER_CERT_PATH=other_pem)
        assert "not trusted" in refused(guard.uri)
        set_to(monkeypatch, SERVER_CERT_PATH=tmp_path / "nothing.pem")
        assert "nothing.pem" in refused(guard.uri)
        monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
        set_to(monkeypatch, INSECURE_TLS="true")
        reach(guard.uri)
        set_to(monkeypatch, SERVER_CERT_PATH=pem)
        assert "MLFLOW_TRACKING_INSECURE_TLS" in refused(guard.uri)  # MLflow takes one of the two


def test_a_certificate_of_one_s_own(pem: Path, other_pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to(monkeypatch, SERVER_CERT_PATH=pem)
    with guarded(certificate=pem, clients=other_pem) as guard:
        assert "MLFLOW_TRACKING_CLIENT_CERT_PATH" in refused(guard.uri)
        set_to(monkeypatch, CLIENT_CERT_PATH=pem)
        assert "MLFLOW_TRACKING_CLIENT_CERT_PATH" in refused(guard.uri)
        set_to(monkeypatch, CLIENT_CERT_PATH=other_pem)
        reach(guard.uri)


def test_tls_where_there_is_none_and_none_where_there_is(pem: Path) -> None:
    with guarded() as guard:
        assert "does not speak TLS" in refused(guard.uri.replace("http:", "https:"))
    with guarded(certificate=pem) as guard:
        assert "no MLflow server" in refused(guard.uri.replace("https:", "http:"))


def test_nobody_there() -> None:
    assert "start it, or set MLFLOW_TRACKING_URI" in refused(NO_SERVER)
    refused("http://nobody.invalid:5000")
    refused("http://")


def test_a_server_that_hangs() -> None:
    with guarded(Guard(hangs=True)) as guard:
        assert "within 0.5 s" in refused(guard.uri, seconds=0.5)
    with socket.socket() as deaf:  # connections are made, and nobody takes them up
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        assert "within 0.5 s" in refused(f"https://127.0.0.1:{deaf.getsockname()[1]}", seconds=0.5)


@pytest.mark.slow
def test_no_server_is_waited_for_longer_than_was_said(pem: Path) -> None:
    def took(uri: str, seconds: float = 5.0) -> float:
        started = time.monotonic()
        refused(uri, seconds=seconds)
        return time.monotonic() - started

    assert took(NO_SERVER) < 1
    assert took("http://nobody.invalid:5000") < 6
    with guarded(Guard(wants=BASIC)) as guard:
        assert took(guard.uri) < 6
    with guarded(Guard(status=503, page=("text/html", "gone"))) as guard:
        assert took(guard.uri) < 6
    with guarded(certificate=pem) as guard:
        assert took(guard.uri) < 6
        assert took(guard.uri.replace("https:", "http:")) < 6
    with guarded(Guard(hangs=True)) as guard:
        assert took(guard.uri, 0.5) < 1.5
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        assert took(f"https://127.0.0.1:{deaf.getsockname()[1]}", 0.5) < 1.5


NOISE = re.compile(r"\w+Warning\b|Traceback|\.py:\d")


@pytest.mark.slow
def test_a_search_and_what_follows_on_a_guarded_server(
    server: TrackingServer, films: Path, pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind TLS, a path and a password: workers, evaluation, predictions, `sync`."""
    set_to(monkeypatch, SERVER_CERT_PATH=pem, USERNAME=NAME, PASSWORD=PASSWORD)
    with guarded(Guard(behind=server.uri, wants=BASIC, prefix="/mlflow"), certificate=pem) as guard:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", guard.uri)
        lab = Lab(tmp_path / "lab", films, tracking=guard.uri)
        try:
            search = lab.search(trials=2)
            assert search.end() == 0, search.text()
            assert guard.uri in search.text()
            assert len(lab.runs("trial")) == 2
            assert [version.aliases for version in lab.versions()] == [["champion"]]
            for words in (
                ("evaluate", "--data", str(films), "--json"),
                ("predict", str(films / "chest_xray" / "test"), "-o", "table.csv"),
                ("sync",),
            ):
                command = lab.start(*words)
                assert command.end() == 0, command.text()
            assert "0 still to be sent" in command.text()
            assert {run.info.status for run in lab.runs()} == {"FINISHED"}
            said = [command.text() for command in lab.commands]
            assert not [text for text in said if NOISE.search(text) or PASSWORD in text]
        finally:
            lab.stop()


@pytest.mark.slow
def test_a_training_on_a_server_that_wants_a_token(
    server: TrackingServer, films: Path, pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate is not looked at, as is wished, and not complained of."""
    set_to(monkeypatch, INSECURE_TLS="true", TOKEN=TOKEN)
    words = ("train", "--data", str(films), "--size", "32", "--epochs", "1", "--device", "cpu")
    with guarded(Guard(behind=server.uri, wants=BEARER), certificate=pem) as guard:
        lab = Lab(tmp_path / "lab", films, tracking=guard.uri)
        try:
            train = lab.start(*words)
            assert train.end() == 0, train.text()
            assert [run.info.status for run in lab.runs("train")] == ["FINISHED"]
            set_to(monkeypatch, TOKEN="swordfish")
            again = lab.start(*words)
            assert again.end() == 1
            assert again.text().count("\n") == 1
            assert "MLFLOW_TRACKING_TOKEN" in again.text()
            assert not [command for command in lab.commands if NOISE.search(command.text())]
        finally:
            lab.stop()
