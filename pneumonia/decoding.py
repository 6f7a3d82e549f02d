"""Files to films: decodes each film of an index into its place in a file, here or in processes of their own."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO

from tqdm import tqdm

from pneumonia.data import DataError, Index

HERE_BYTES = 64 << 20  # of files: so much is decoded in about 3 s, which is what it takes to start a process for it
TOGETHER = 256  # films between two looks at what the decoders complain of
FILMS_A_PROCESS = 250  # at least; a process takes seconds to start and 200 MB
# What the decoders only say on stderr, while they return a film: libjpeg fills a damaged scan up with grey or noise.
# Other lines (an unknown colour profile, a DICOM that breaks the standard) do not touch the grey values.
_COMPLAINT = re.compile(r"Corrupt JPEG data[^\n]*|Premature end of JPEG[^\n]*|libpng error[^\n]*")

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
                answers = _run_here(jobs, films, offset, size, cores)
            else:
                processes = max(1, min(workers or cores, -(-len(jobs) // FILMS_A_PROCESS)))
                answers = _run([jobs[first::processes] for first in range(processes)], films, offset, size)
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


def _run_here(jobs: list[Job], films: Path, offset: int, size: int, threads: int) -> Iterator[Answer]:
    """As `_run`, in threads of this process.

    File descriptor 2 is turned away while films are decoded, and what others wrote to it meanwhile is handed on. From
    there comes that one of some films is damaged, and not which: each of them is then decoded once more by itself.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        out = stack.enter_context(films.open("r+b"))
        pool = stack.enter_context(ThreadPoolExecutor(threads))  # ends first: its threads write to the files
        stderr = os.dup(2)

        def decode(some: list[Job]) -> list[str | None]:
            return [_decode_one(path, sha256, size, out.fileno(), offset + row * size**2) for row, path, sha256 in some]

        def heard(some: list[Job]) -> tuple[list[str | None], str | None]:
            """The reasons of the films that failed, and what a decoder complained of."""
            before = os.fstat(log.fileno()).st_size
            os.dup2(log.fileno(), 2)
            share = -(-len(some) // threads)  # a task a thread: one a film would cost as much as its decoding
            parts = pool.map(decode, [some[first : first + share] for first in range(0, len(some), share)])
            reasons = list(chain.from_iterable(parts))
            os.dup2(stderr, 2)
            said = os.pread(log.fileno(), os.fstat(log.fileno()).st_size - before, before)
            if said:
                os.write(stderr, re.sub(rb"(?:" + _COMPLAINT.pattern.encode() + rb")\n?", b"", said))
            return reasons, _damage(said)

        try:
            for first in range(0, len(jobs), TOGETHER):
                some = jobs[first : first + TOGETHER]
                reasons, damage = heard(some)
                for job, reason in zip(some, reasons, strict=True):
                    if damage and reason is None:
                        (again,), mine = heard([job])
                        reason = again or mine
                    yield job[0], reason, False
        finally:
            if os.path.sameopenfile(
                2, log.fileno()
            ):  # else it was given back, and may have been turned elsewhere since
                os.dup2(stderr, 2)
            os.close(stderr)


def _run(stripes: list[list[Job]], films: Path, offset: int, size: int) -> Iterator[Answer]:
    """One process a stripe of (row, path, sha256): yields an answer a film.

    Plain child processes: multiprocessing would import the caller's main module again in each, which fails in scripts
    that do not expect it. All write their answers to one pipe (a line is far shorter than PIPE_BUF, so lines stay
    whole), which ends when the last of them does. A child whose parent is gone dies of the broken pipe.
    """
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # a terminal's ^C is the parent's to handle
        "from pneumonia.decoding import _work; _work()"
    )
    search = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        source, sink = os.pipe()
        answers = stack.enter_context(os.fdopen(source, encoding="utf-8"))
        children: list[tuple[subprocess.Popen[bytes], IO[bytes], list[int]]] = []
        try:
            for stripe in stripes:
                task = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", dir=films.parent))
                json.dump({"films": str(films), "offset": offset, "size": size, "jobs": stripe}, task)
                task.flush()
                task.seek(0)
                log: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(dir=films.parent))
                child = subprocess.Popen(
                    [sys.executable, "-c", code], stdin=task, stdout=sink, stderr=log, env=environment
                )
                stack.callback(_end, child)
                children.append((child, log, [row for row, _, _ in stripe]))
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


def _work() -> None:
    """A decoding process: takes its job from stdin, writes films into the file, answers [row, reason or null]. Its
    stderr is a file of its own, see `_damage`."""
    job = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed must not stand among the answers

    def answer(row: int, reason: str | None) -> None:
        os.write(answers, f"{json.dumps([row, reason])}\n".encode())  # in one call, see `_run`

    # Before cv2, because it sets OpenCV's limit of pixels; and here, because it had better fail before the first film.
    import pneumonia.served  # noqa: F401

    answer(-os.getpid(), None)
    import cv2

    cv2.setNumThreads(1)
    with open(job["films"], "r+b", buffering=0) as films:
        for row, path, sha256 in job["jobs"]:
            before = os.fstat(2).st_size
            try:
                reason = _decode_one(path, sha256, job["size"], films.fileno(), job["offset"] + row * job["size"] ** 2)
            except DataError as error:
                print(error, file=sys.stderr)
                sys.exit(_CHANGED)
            except OSError as error:
                sys.exit(error.errno)
            answer(row, reason or _damage(os.pread(2, 1 << 16, before)))


def _damage(said: bytes) -> str | None:
    """What libjpeg or libpng complained of on stderr, the only place where they do: cv2 returns a film all the same."""
    complaint = _COMPLAINT.search(said.decode(errors="replace"))
    return f"damaged: {complaint[0].strip()[:200]}" if complaint else None


def _decode_one(path: str, sha256: str, size: int, films: int, at: int) -> str | None:
    """Writes a film at a byte of an open file, or says why it cannot be decoded.

    Raises:
        DataError: the file is not what was indexed.
        OSError: the film could not be written.
    """
    from pneumonia.served import MAX_BYTES, FilmError, read_film

    try:
        with open(path, "rb") as file:
            # Not MAX_BYTES + 1 at once: room for 128 MiB is made and given back for every film, in both threads' way.
            data = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1)
    except OSError as error:
        raise DataError(
            f"{path} could be read when it was indexed and no more ({error.strerror}): start again"
        ) from error
    if len(data) <= MAX_BYTES and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path} was changed since it was indexed: start again")
    try:
        film = read_film(data, size)
    except FilmError as error:
        return str(error)[:300]
    write(films, film.tobytes(), at)
    return None


def write(file: int, data: bytes, at: int) -> None:
    """All of it: on a disk that is filling up, one call writes what there is room for, and only the next one fails."""
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
