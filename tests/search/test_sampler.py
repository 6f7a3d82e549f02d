"""No two workers propose the same, and a proposal follows from the seed."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pneumonia.search import connection
from pneumonia.search import study as studies
from tests.search.conftest import BASE, PRUNER, SPACE, claim


def test_no_worker_proposes_what_another_did(study: optuna.Study, url: str) -> None:
    """Whether they work at the same time or one comes after the other was killed, all of one seed."""

    def worker() -> optuna.Study:
        return studies.load(connection.connect(url), "films", seed=0, pruner=PRUNER)

    first, beside = worker(), worker()
    proposed = [claim(first).params, claim(beside).params, claim(first).params, claim(worker()).params]
    proposed += [claim(worker()).params, claim(beside).params]
    assert proposed[0] == {name: getattr(BASE, name) for name in SPACE}
    assert len({tuple(params.items()) for params in proposed}) == len(proposed)


@pytest.mark.slow
def test_a_proposal_follows_from_the_seed_and_what_came_before(tmp_path: Path) -> None:
    """Not from who asks: a search of one worker that is stopped and resumed is the search that it would have been."""

    def search(name: str, seed: int, *, resumed: bool) -> list[dict[str, Any]]:
        storage = connection.connect(f"sqlite:///{tmp_path / name}.db")
        studies.create_or_resume(storage, "films", BASE, SPACE, changed=True)
        study = studies.load(storage, "films", seed=seed, pruner=PRUNER)
        proposed = []
        for _ in range(8):
            if resumed:
                study = studies.load(storage, "films", seed=seed, pruner=PRUNER)
            trial = claim(study)
            proposed.append(trial.params)
            studies.finish(study, trial.number, trial.params["lr"], TrialState.COMPLETE)
        return proposed

    assert search("whole", 0, resumed=False) == search("resumed", 0, resumed=True)
    assert search("whole, seed 1", 1, resumed=False)[1:] != search("resumed, seed 0", 0, resumed=True)[1:]
