"""Machines with addresses of their own: network namespaces of Linux, joined by a bridge, whose cables can be pulled."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

BRIDGE = f"films{os.getpid() % 10**6}"  # at most 15 letters
SUBNET = f"10.213.{os.getpid() % 254 + 1}"  # not that of a test that was killed


@dataclass(frozen=True)
class Switch:
    """A bridge, the address of this machine there, and the namespaces of the others."""

    address: str
    names: list[str]

    def cut(self, name: str) -> None:
        """What is sent from there, or to there, is lost, and nobody is told."""
        _ip("link", "set", _cable(name), "down")

    def mend(self, name: str) -> None:
        _ip("link", "set", _cable(name), "up")


@contextmanager
def switch(count: int) -> Iterator[Switch | None]:
    """So many machines, as long as the block lasts; None where none may be made."""
    with ExitStack() as stack:
        yield _made(count, stack) if os.getuid() == 0 and shutil.which("ip") else None


def _made(count: int, stack: ExitStack) -> Switch | None:
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(partial(_quietly, "link", "del", BRIDGE))
        _ip("address", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        names = [f"{BRIDGE}-{number}" for number in range(count)]
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            stack.callback(partial(_quietly, "netns", "del", name))
            _ip("link", "add", _cable(name), "type", "veth", "peer", "name", "eth0", "netns", name)
            stack.callback(partial(_quietly, "link", "del", _cable(name)))
            _ip("link", "set", _cable(name), "master", BRIDGE, "up")
            _ip("-n", name, "address", "add", f"{SUBNET}.{number + 2}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError:  # the system's settings do not allow it
        return None
    return Switch(f"{SUBNET}.1", names)


def _cable(name: str) -> str:
    return name.replace("films", "v")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)


def _quietly(*words: str) -> None:
    with suppress(subprocess.SubprocessError):  # a cable goes with its namespace
        _ip(*words)
