"""Films that a manifest names by addresses: each is fetched once and kept by its content.

FOLDER/SHA-256/NAME              a film under the name that it had, which may tell its patient
FOLDER/addresses/SHA-256.json    of an address: where its film is; without it the film is fetched again
"""

import hashlib
import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from tqdm import tqdm

from pneumonia.data.file_kinds import DataError
from pneumonia.runtime.disk import is_full, room
from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.secrets import masked, without_secrets
from pneumonia.runtime.working_folder import install_extra

AT_ONCE = 16  # films under way
ATTEMPTS = 4  # at a film whose server is away, busy or breaks off
WAIT_SECONDS = 0.5  # before the second attempt; twice as long before each further one
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two packets
FILM_SECONDS = 600.0  # for a whole film: a server that drips is left
BLOCK = 1 << 16  # bytes
STALE_SECONDS = 3600.0  # a half-fetched film older than this was left by a dead process
KEPT_FREE = 1 << 30  # bytes of the disk that films do not fill
ADDRESS = re.compile(r"(https?|s3|gs)://[^/\s]", re.IGNORECASE)
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses after which the same request may be answered


class _Broken(Exception):
    """A transfer that is worth another attempt."""


class _Refused(Exception):
    """A film that cannot be had; the reason is what it says."""


def is_address(text: str) -> bool:
    """Whether a manifest's path is an address, and no place in a folder."""
    return ADDRESS.match(text) is not None


def fetch(addresses: Sequence[str], folder: Path, *, progress: bool = False) -> dict[str, Path | str]:
    """The file of each address in `folder` or, where the film cannot be had, the reason.

    What is there is not asked for again, so that a call that was stopped is gone on with. `https` and `http` go by
    requests, with the logins of ~/.netrc, and other addresses by fsspec, with the keys of the environment.

    Args:
        folder: made if it is missing; may be shared by processes.

    Raises:
        DataError: what reads addresses of such a kind is not installed.
        DiskFullError: less than `KEPT_FREE` would be left of the disk.
    """
    found: dict[str, Path | str] = {}
    for address in dict.fromkeys(addresses):
        if (there := _there(address, folder)) is not None:
            found[address] = there
    missing = [address for address in dict.fromkeys(addresses) if address not in found]
    if not missing:
        return found
    (folder / "addresses").mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".fetching-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    openers = {kind: _opener(kind) for kind in sorted({_kind(address) for address in missing})}
    stopped = threading.Event()

    def one(address: str) -> Path | str:
        try:
            return _fetch(address, openers[_kind(address)], folder, stopped)
        except _Refused as error:
            return shortened(without_secrets(str(error)), 200)

    try:
        with tqdm(total=len(missing), desc="fetching films", unit="film", disable=not progress) as bar:
            for address, got in _in_threads(one, missing, stopped):
                found[address] = got
                bar.update()
    finally:
        stopped.set()
    return found


def _in_threads(
    call: Callable[[str], Path | str], addresses: Sequence[str], stopped: threading.Event
) -> Iterator[tuple[str, Path | str]]:
    """What `call` returns for each, as it comes. The threads are daemons: one that waits for a server delays no end."""
    waiting: SimpleQueue[str] = SimpleQueue()
    answers: SimpleQueue[tuple[str, Path | str | Exception]] = SimpleQueue()
    for address in addresses:
        waiting.put(address)

    def work() -> None:
        with suppress(Empty):
            while not stopped.is_set():
                address = waiting.get_nowait()
                try:
                    answers.put((address, call(address)))
                except Exception as error:  # raised by the thread that waits for the answers
                    answers.put((address, error))

    for _ in range(min(AT_ONCE, len(addresses))):
        threading.Thread(target=work, name="fetch-films", daemon=True).start()
    for _ in addresses:
        address, got = answers.get()
        if isinstance(got, Exception):
            raise got
        yield address, got


def _kind(address: str) -> str:
    return address.partition("://")[0].lower()


def _note(address: str, folder: Path) -> Path:
    return folder / "addresses" / f"{hashlib.sha256(address.encode()).hexdigest()}.json"


def _there(address: str, folder: Path) -> Path | None:
    """The film of an address, if it was fetched and is as long as it was then."""
    try:
        note = json.loads(_note(address, folder).read_text(encoding="utf-8"))
        path = folder / note["sha256"] / note["name"]
        return path if path.stat().st_size == note["bytes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fetch(address: str, opened: "Opener", folder: Path, stopped: threading.Event) -> Path:
    said = ""
    for attempt in range(ATTEMPTS):
        if attempt and stopped.wait(WAIT_SECONDS * 2 ** (attempt - 1)):
            break
        try:
            return _keep(address, opened, folder, stopped)
        except _Broken as error:
            said = str(error)
    raise _Refused(f"{said}, {ATTEMPTS} times")


def _keep(address: str, opened: "Opener", folder: Path, stopped: threading.Event) -> Path:
    """Writes a film beside its place and moves it there whole, then its note."""
    end, digest, length = time.monotonic() + FILM_SECONDS, hashlib.sha256(), 0
    with room(folder, KEPT_FREE), tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as scratch:
        part = Path(scratch) / "film"
        with opened(address) as blocks, part.open("wb") as file:
            for block in blocks:
                length += len(block)
                if length > _max_bytes():
                    raise _Refused(f"it is larger than {_max_bytes() >> 20} MiB")
                if stopped.is_set() or time.monotonic() > end:
                    raise _Refused(f"it did not arrive within {FILM_SECONDS:.0f} s")
                digest.update(block)
                file.write(block)
        sha256, name = digest.hexdigest(), _name(address)
        path = folder / sha256 / name
        path.parent.mkdir(exist_ok=True)
        part.replace(path)
        note = Path(scratch) / "note"
        told = {"address": masked(address), "sha256": sha256, "name": name, "bytes": length}
        note.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        note.replace(_note(address, folder))
    return path


def _max_bytes() -> int:
    from pneumonia.served import MAX_BYTES  # takes seconds to import

    return MAX_BYTES


def _name(address: str) -> str:
    """The film's own name, without what a file system, or a reader of folders, takes otherwise."""
    last = unquote(urlsplit(address).path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^\w.()+-]+", "_", last).lstrip(".")[-120:] or "film"


Opener = Callable[[str], Any]  # a context in which the blocks of an address's film are read


def _opener(kind: str) -> Opener:
    if kind in ("http", "https"):
        return partial(_by_requests, threading.local())
    try:
        import fsspec

        return partial(_by_fsspec, fsspec.filesystem(kind))
    except (ImportError, ValueError) as error:
        raise DataError(
            f"films at {kind}:// take packages that are not installed ({first_line(error)}): `{install_extra('cloud')}`"
        ) from error


@contextmanager
def _by_requests(local: threading.local, address: str) -> Iterator[Iterator[bytes]]:
    if not hasattr(local, "session"):
        local.session = requests.Session()
    try:
        headers = {"Accept-Encoding": "identity"}
        with local.session.get(address, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status_code in PASSING:
                raise _Broken(f"the server answered {answer.status_code}")
            if answer.status_code != 200:
                raise _Refused(f"the server answered {answer.status_code}")
            yield answer.iter_content(BLOCK)  # urllib3 complains of fewer bytes than were announced
    except requests.Timeout as error:
        raise _Broken("the server did not answer in time") from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise _Broken("the connection failed or broke") from error
    except requests.RequestException as error:
        raise _Refused(f"it cannot be asked for: {first_line(error)}") from error


@contextmanager
def _by_fsspec(files: Any, address: str) -> Iterator[Iterator[bytes]]:
    try:
        with closing(files.open(address, "rb")) as file:
            yield iter(partial(file.read, BLOCK), b"")
    except (_Broken, _Refused):
        raise
    except FileNotFoundError as error:
        raise _Refused("there is no such object") from error
    except PermissionError as error:
        raise _Refused(f"it may not be read: {first_line(error)}") from error
    except OSError as error:
        if is_full(error):  # this machine's disk
            raise
        raise _Broken(f"{type(error).__name__}: {first_line(error)}") from error
    except Exception as error:  # each store has errors of its own
        raise _Broken(f"{type(error).__name__}: {first_line(error)}") from error
