"""A short round of `experiments/chaos.py`: two searches as two machines, whose workers, leaders and servers go away."""

from pathlib import Path

import pytest

from experiments.chaos import Round
from tests.servers import PROGRAMS

pytestmark = [pytest.mark.postgres, pytest.mark.long]


@pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL's programs are not in /usr/lib/postgresql")
def test_nothing_is_lost_and_nothing_is_done_twice(films: Path, tmp_path: Path) -> None:
    assert Round(tmp_path, trials=16, keep=5, pruner="halving", hosts=False, seed=0).run(films) == []
