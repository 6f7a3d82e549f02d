"""Programs that are started end with this one, and on demand."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from pneumonia.runtime import processes
from tests.command import until

FAMILY = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print(flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def started(code: str) -> "subprocess.Popen[bytes]":
    process = processes.start([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it has come so far
    return process


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("code", "size", "seconds"), [(FAMILY, 2, 0.5), (STUBBORN, 1, 0.2)])
def test_all_that_was_started_ends(code: str, size: int, seconds: float) -> None:
    process = started(code)
    tree = processes.tree(process)
    assert len(tree) == size
    processes.end(process, seconds=seconds)
    assert process.poll() is not None
    assert not any(map(lives, tree))
    assert processes.tree(process) == []
    processes.end(process, seconds=seconds)  # once more does no harm


def test_what_outlived_its_parent_is_killed() -> None:
    process = started(FAMILY)
    _, child = processes.tree(process)
    process.kill()
    process.wait()
    assert lives(child)
    processes.kill(process)
    assert not lives(child)


def test_asked_to_end_it_may_take_its_time() -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *a: (time.sleep(0.3), sys.exit(7)))"
    process = started(f"{code}; print(flush=True); time.sleep(60)")
    processes.ask_to_end(process)
    assert process.wait(10) == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system of Linux sees to it")
def test_what_a_killed_program_started_ends_too() -> None:
    code = "from pneumonia.runtime import processes; p = processes.start(['sleep', '60']); print(p.pid, flush=True)"
    parent = subprocess.Popen([sys.executable, "-c", f"{code}; p.wait()"], stdout=subprocess.PIPE)
    child = psutil.Process(int(parent.stdout.readline()))
    assert lives(child)
    time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not lives(child), "the child is gone", seconds=10)
