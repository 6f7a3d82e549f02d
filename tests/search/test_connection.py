"""The connection to a study's database: it is waited for, and only it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from pneumonia.search import connection
from pneumonia.search.storage import StudyError


class TestPatience:
    @pytest.fixture(autouse=True)
    def no_sleep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection.time, "sleep", lambda seconds: None)

    @pytest.mark.parametrize(
        "error",
        [
            StorageInternalError("away"),
            sqlalchemy.exc.OperationalError("select", {}, Exception("away")),
            sqlalchemy.exc.InterfaceError("select", {}, Exception("away")),
        ],
    )
    def test_waits_for_the_database(self, error: Exception) -> None:
        answers: list[Any] = [error, error, "here"]

        def call() -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        assert connection.with_retries(call) == "here"

    def test_gives_up(self) -> None:
        def call() -> None:
            raise StorageInternalError("away")

        with pytest.raises(StudyError, match="has not answered"):
            connection.with_retries(call, seconds=0.05)

    def test_is_for_the_database_alone(self) -> None:
        calls = []

        def call() -> None:
            calls.append(1)
            raise KeyError("a bug")

        with pytest.raises(KeyError):
            connection.with_retries(call)
        assert len(calls) == 1


@pytest.mark.slow
def test_many_may_open_an_empty_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(6) as crew:
        assert len(list(crew.map(lambda _: connection.connect(url), range(6)))) == 6
