"""One process leads a study; another takes over when it is dead or silent."""

import time

import optuna
import pytest

from pneumonia.runtime.signals import identity
from pneumonia.search import leader
from pneumonia.search import study as studies
from tests.search.conftest import PRUNER, gone


class TestLease:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leader, "BEAT_SECONDS", 0.3)

    def test_held_while_the_block_runs(self, study: optuna.Study) -> None:
        assert leader.holder(study) is None
        with leader.lead(study, "run"):
            holder = leader.holder(study)
            assert holder is not None
            assert holder["run_id"] == "run"
        assert leader.holder(study) is None

    def test_given_back_after_an_error(self, study: optuna.Study) -> None:
        with pytest.raises(ZeroDivisionError), leader.lead(study, "run"):
            raise ZeroDivisionError
        assert leader.holder(study) is None

    def test_a_dead_leader_on_this_machine_is_known_without_waiting(
        self, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_wait(seconds: float) -> None:
            raise AssertionError("nothing to wait for")

        study.set_user_attr("leader", {**gone(), "run_id": "run", "beat": 3})
        monkeypatch.setattr(leader.time, "sleep", no_wait)
        assert leader.holder(study) is None

    @pytest.mark.slow
    def test_a_dead_leader_on_this_machine_is_known_at_once(self, study: optuna.Study) -> None:
        study.set_user_attr("leader", {**gone(), "run_id": "run", "beat": 3})
        started = time.monotonic()
        assert leader.holder(study) is None
        assert time.monotonic() - started < 0.5

    @pytest.mark.slow
    def test_a_silent_leader_elsewhere_is_dead(self, study: optuna.Study) -> None:
        study.set_user_attr("leader", {**identity(), "host": "another-machine", "run_id": "run", "beat": 3})
        assert leader.holder(study) is None

    @pytest.mark.slow
    def test_a_counting_leader_elsewhere_lives(
        self, study: optuna.Study, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(leader, "identity", lambda: {**identity(), "host": "another-machine"})
            leading = leader.lead(study, "run")
            leading.__enter__()
        try:
            holder = leader.holder(studies.load(studies.connect(url), "films", seed=0, pruner=PRUNER))
            assert holder is not None
            assert holder["host"] == "another-machine"
        finally:
            leading.__exit__(None, None, None)
