"""What of the libraries reaches the terminal."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("words", "shown"), [([], False), (["-W", "default"], True)])
def test_libraries_warnings_are_shown_to_who_asks_for_them(words: list[str], shown: bool) -> None:
    code = """
import subprocess, sys, warnings
from pneumonia.runtime.environment import quiet
quiet()
warn = "import warnings; warnings.warn('old')"
exec(warn)
subprocess.run([sys.executable, "-c", warn])
"""
    told = subprocess.run([sys.executable, *words, "-c", code], capture_output=True, text=True, check=True).stderr
    assert ("UserWarning: old" in told) == shown
