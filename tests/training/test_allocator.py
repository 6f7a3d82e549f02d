"""A training does not give its memory back to the system in every step."""

import platform
import resource
from dataclasses import replace

import numpy as np
import pytest

from pneumonia.training import allocator
from pneumonia.training.loop import FitData, fit
from tests.conftest import TINY

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="allocator.keep_freed_memory is for glibc")


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.slow
def test_a_step_takes_few_new_pages_from_the_system() -> None:
    films = np.random.default_rng(0).integers(0, 256, (256, 64, 64), np.uint8)
    labels = np.arange(256) % 2
    data = FitData(train_films=films, train_labels=labels, val_films=films[:64], val_labels=labels[:64])
    seen: list[int] = []
    fit(
        replace(TINY, size=64, width=16, epochs=5, batch_size=64),
        data,
        on_epoch=lambda epoch: seen.append(page_faults()),
    )
    assert np.diff(seen)[1:].mean() < 3000  # an epoch of four steps; 9,000 to 16,000 where memory is given back


def test_what_was_kept_goes_back_at_the_end() -> None:
    def fill() -> None:
        blocks = [np.ones(2 << 20, np.uint8) for _ in range(32)]
        del blocks

    def refill() -> int:
        before = page_faults()
        fill()
        return page_faults() - before

    with allocator.keep_freed_memory():
        fill()
        again = refill()
    afterwards = refill()
    assert again < 1000 < afterwards  # 64 MiB are 16,384 pages


def test_an_error_comes_through() -> None:
    with pytest.raises(ValueError, match="step"), allocator.keep_freed_memory():
        raise ValueError("step")
