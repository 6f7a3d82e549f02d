"""Files to films: decodes each film of an index into its place in a file, here or in processes of their own."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from tqdm import tqdm

from pneumonia.data.index import DataError, Index

TOGETHER = 32  # films that a thread takes at a time
HERE_BYTES = 64 << 20  # of files: fewer are decoded in this process, in about the 3 s that it takes to start others
FILMS_A_PROCESS = 250  # at least; a process takes seconds to start and 200 MB

Job = tuple[int, str, str]  # row, path, sha256
Answer = tuple[int, str | None, bool]  # row, reason if the film failed, whether a process died of it


def decode_films(
    films: Path, offset: int, index: Index, size: int, workers: int | None, progress: bool
) -> dict[int, str]:
    """Decodes every film of `index` to uint8 [size, size] and writes it to its place in the file `films`, whose
    first film begins at byte `offset`.

    A film at which a process dies is tried once more in another one, for the process may have been killed from
    outside, and is then a failure itself.

    Returns:
        The reasons of the films that failed, by row of the index.

    Raises:
        DataError: a file changed since it was indexed.
        OSError: a film could not be written.
        RuntimeError: the processes do not start.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n = len(index.table)
    paths = [str(index.root / path) for path in index.table["path"]]
    jobs: list[Job] = list(zip(range(n), paths, index.table["sha256"], strict=True))
    reasons: dict[int, str] = {}
    deaths: Counter[int] = Counter()
    with tqdm(total=n, desc="decoding films", unit="film", disable=not progress) as bar:
        while jobs:
            if workers is None and index.table["bytes"].sum() < HERE_BYTES:
                answers = _in_threads(jobs, films, offset, size, index.any_dicom, cores)
            else:
                processes = max(1, min(workers or cores, -(-len(jobs) // FILMS_A_PROCESS)))
                shares = [jobs[first::processes] for first in range(processes)]
                answers = _in_processes(shares, films, offset, size, index.any_dicom)
            answered: set[int] = set()
            for row, reason, dead in answers:
                deaths[row] += dead
                if dead and deaths[row] < 2:
                    continue
                answered.add(row)
                if reason is not None:
                    reasons[row] = reason
                bar.update()
            jobs = [job for job in jobs if job[0] not in answered]
    return reasons


def _in_threads(
    jobs: list[Job], films: Path, offset: int, size: int, any_dicom: bool, threads: int
) -> Iterator[Answer]:
    """As `_in_processes`, in threads of this process."""
    with films.open("r+b") as out, ThreadPoolExecutor(threads) as pool:

        def decode(some: list[Job]) -> list[Answer]:
            return [
                (row, _decode_one(path, sha256, size, any_dicom, out.fileno(), offset + row * size**2), False)
                for row, path, sha256 in some
            ]

        # A task for some films: one for each would cost as much as its decoding.
        for answers in pool.map(decode, [jobs[first : first + TOGETHER] for first in range(0, len(jobs), TOGETHER)]):
            yield from answers


def _in_processes(shares: list[list[Job]], films: Path, offset: int, size: int, any_dicom: bool) -> Iterator[Answer]:
    """Decodes each share of (row, path, sha256) in a process of its own: yields one answer per film.

    Plain child processes: multiprocessing would import the caller's main module again in each, which fails in scripts
    that do not expect it. All write their answers to one pipe (a line is far shorter than PIPE_BUF, so lines stay
    whole), which ends when the last of them does. A child whose parent is gone dies of the broken pipe.
    """
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # the parent handles a terminal's ^C
        "from pneumonia.data.decoding import _decode_jobs; _decode_jobs()"
    )
    search = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        source, sink = os.pipe()
        answers = stack.enter_context(os.fdopen(source, encoding="utf-8"))
        children: list[tuple[subprocess.Popen[bytes], IO[bytes], list[int]]] = []
        try:
            for share in shares:
                task = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", dir=films.parent))
                settings = {"films": str(films), "offset": offset, "size": size, "any_dicom": any_dicom}
                json.dump({**settings, "jobs": share}, task)
                task.flush()
                task.seek(0)
                log: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(dir=films.parent))
                child = subprocess.Popen(
                    [sys.executable, "-c", code], stdin=task, stdout=sink, stderr=log, env=environment
                )
                stack.callback(_end, child)
                children.append((child, log, [row for row, _, _ in share]))
        finally:
            os.close(sink)
        answered: set[int] = set()
        for line in answers:
            row, reason = json.loads(line)
            answered.add(row)
            if row >= 0:  # the first answer, -pid, only says that the process has started
                yield row, reason, False
        for child, log, rows in children:
            status = child.wait()
            if status == 0:
                continue
            log.seek(0)
            said = (log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            if status == _CHANGED:
                raise DataError(said)
            if 1 < status < _CHANGED:
                raise OSError(status, os.strerror(status), str(films))
            if -child.pid not in answered:
                raise RuntimeError(f"a process that should decode films did not start: {said}")
            at = next((row for row in rows if row not in answered), None)
            if at is None:
                continue  # it died when its work was done
            yield at, f"the decoder died of it: {f'signal {-status}' if status < 0 else said[:200]}", True


_CHANGED = 200  # exit status; one below it, but for Python's own 1, is the errno of a film that could not be written


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def _decode_jobs() -> None:
    """A decoding process: takes its job from stdin, writes films into the file, answers [row, reason or null]."""
    job = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)  # other output must not mix with the answers

    def answer(row: int, reason: str | None) -> None:
        os.write(answers, f"{json.dumps([row, reason])}\n".encode())  # in one call, see `_in_processes`

    # Before cv2, because it sets OpenCV's limit of pixels; and here, because it had better fail before the first film.
    import pneumonia.served  # noqa: F401

    answer(-os.getpid(), None)
    import cv2

    cv2.setNumThreads(1)
    with open(job["films"], "r+b", buffering=0) as films:
        for row, path, sha256 in job["jobs"]:
            at = job["offset"] + row * job["size"] ** 2
            try:
                reason = _decode_one(path, sha256, job["size"], job["any_dicom"], films.fileno(), at)
            except DataError as error:
                print(error, file=sys.stderr)
                sys.exit(_CHANGED)
            except OSError as error:
                sys.exit(error.errno)
            answer(row, reason)


def _decode_one(path: str, sha256: str, size: int, any_dicom: bool, films: int, at: int) -> str | None:
    """Writes a film at a byte of an open file, or says why it cannot be decoded.

    Raises:
        DataError: the file is not what was indexed.
        OSError: the film could not be written.
    """
    from pneumonia.served import MAX_BYTES, FilmError, read_film

    try:
        with open(path, "rb") as file:
            # Not MAX_BYTES + 1: Python would allocate and free 128 MiB for every film, which slows all threads.
            data = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1)
    except OSError as error:
        raise DataError(
            f"{path} could be read when it was indexed, but not any more ({error.strerror}): start again"
        ) from error
    if len(data) <= MAX_BYTES and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path} was changed since it was indexed: start again")
    try:
        film = read_film(data, size, any_dicom=any_dicom)
    except FilmError as error:
        return str(error)[:300]
    write(films, film.tobytes(), at)
    return None


def write(file: int, data: bytes, at: int) -> None:
    """All of it: on a disk that is filling up, one call writes what there is room for, and only the next one fails."""
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
