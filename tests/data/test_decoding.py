"""Processes that decode films: one that dies or cannot start is no damage to the films."""

import signal
from pathlib import Path

import numpy as np
import pytest

from pneumonia.data import decoding
from pneumonia.data.cache import decode
from pneumonia.data.index import scan
from tests.data.conftest import SIZE, expected


@pytest.mark.slow
def test_a_decoder_that_dies_when_its_work_is_done_loses_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = tmp_path / "patch/sitecustomize.py"
    patch.parent.mkdir()
    patch.write_text("import atexit, os\natexit.register(os.abort)\n")
    monkeypatch.setenv("PYTHONPATH", str(patch.parent))
    index = scan(folder)
    decoded = decode(index, size=SIZE, home=tmp_path / "home", workers=1)
    assert decoded.failures == []
    np.testing.assert_array_equal(decoded.films, expected(index))


@pytest.mark.slow
def test_a_film_that_kills_the_decoder_is_listed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that dies of one film, as a bug in a C library would make it."""
    victim = (folder / "train/NORMAL/04.jpeg").read_bytes()
    patch = tmp_path / "patch/sitecustomize.py"
    patch.parent.mkdir()
    patch.write_text(
        "import os, sys\n"
        "def hook():\n"
        "    from pneumonia import served\n"
        "    real = served.read_film\n"
        f"    served.read_film = lambda data, size, **how: os.abort() if len(data) == {len(victim)} and hash(data) == "
        f"hash(open({str(folder / 'train/NORMAL/04.jpeg')!r}, 'rb').read()) else real(data, size, **how)\n"
        "hook()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(patch.parent))
    decoded = decode(scan(folder), size=SIZE, home=tmp_path / "home", workers=1)
    assert decoded.failures == [("train/NORMAL/04.jpeg", f"the decoder died of it: signal {signal.SIGABRT:d}")]
    np.testing.assert_array_equal(decoded.films, expected(decoded.index))


def test_a_decoder_that_cannot_start_is_no_damage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL is missing')")
    monkeypatch.setattr(decoding, "__file__", str(tmp_path / "pneumonia/data/decoding.py"))
    with pytest.raises(RuntimeError, match="did not start: ImportError: libGL is missing"):
        decode(scan(folder), size=SIZE, home=tmp_path / "home", workers=1)
