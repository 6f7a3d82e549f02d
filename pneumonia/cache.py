"""Films as arrays: each is decoded once to a square of grey bytes and kept on disk, memory-mapped."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from pneumonia.data import DataError, Index

MIN_GOOD_SHARE = 0.9
HERE_BYTES = 64 << 20  # of files: so much is decoded in about 3 s, which is what it takes to start a process for it
FILMS_A_PROCESS = 250
STALE_SECONDS = 3600.0  # a half-written cache that nobody has written to for so long has lost its process
# What the decoders only say on stderr, while they return a film: libjpeg fills a damaged scan up with grey or noise.
# Other lines (an unknown colour profile, a DICOM that breaks the standard) do not touch the grey values.
_COMPLAINT = re.compile(r"Corrupt JPEG data[^\n]*|Premature end of JPEG[^\n]*|libpng error[^\n]*")


class DiskFullError(OSError):
    """No room for what must be written; one sentence with the path and the bytes needed."""

    def __init__(self, path: Path, needed: int) -> None:
        super().__init__(errno.ENOSPC, f"the disk is full: {needed:,} bytes are needed at {path}")
        self.path = path
        self.needed = needed

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """`films` is uint8 [N, S, S], memory-mapped and read-only; row i is row i of `index.table`. `failures` are the
    films that could not be decoded (path, reason); `index` is without them. `seconds` is what opening or building
    took."""

    films: np.ndarray
    index: Index
    failures: list[tuple[str, str]]
    seconds: float


def decode(index: Index, *, size: int, home: Path, workers: int | None = None, progress: bool = False) -> Decoded:
    """Decodes every film of an index to `size` x `size` pixels, or opens what an earlier call decoded.

    The cache stands in `home`/cache under a key of the films' contents in their order, the size, and the versions of
    the decoding code and of OpenCV. Paths, labels and splits are not in it: a moved folder finds its cache again. It
    is written beside its place and renamed into it whole; its checksum is verified at every opening. Two processes
    that build at once do the work twice, and both end with the one that came first.

    Films are decoded in `workers` processes. By default that is one a core for large sets, and for less than
    `HERE_BYTES` this process itself.

    Raises:
        DataError: fewer than `MIN_GOOD_SHARE` of the films could be read, or none of some class in some split, or a
            file changed since it was indexed.
        DiskFullError: there is no room for the cache.
    """
    start = time.perf_counter()
    key = _key(index, size)
    place = home / "cache" / key
    n = len(index.table)
    opened = _open(place, key, n, size)
    for _ in range(3):  # another process that found a torn cache may just be replacing ours
        if opened is None:
            with room(place, n * size * size + (1 << 20)):
                _build(place, index, key, size, workers, progress)
            opened = _open(place, key, n, size)
    if opened is None:
        raise RuntimeError(f"the cache {place} is damaged again and again as soon as it is written")
    films, reasons = opened
    paths = index.table["path"]
    failures = [(str(paths.iloc[row]), reason) for row, reason in sorted(reasons.items())]
    good = index.without(failures)
    _check_enough(index, good, place)
    return Decoded(films=films, index=good, failures=failures, seconds=time.perf_counter() - start)


@contextmanager
def room(path: Path, needed: int) -> Iterator[None]:
    """For a block that writes `needed` bytes at `path`, which need not exist yet.

    Raises:
        DiskFullError: so much is not free at the start, or the disk fills up meanwhile.
    """
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if shutil.disk_usage(there).free < needed:
        raise DiskFullError(path, needed)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(path, needed) from error


def _key(index: Index, size: int) -> str:
    import cv2

    from pneumonia.served import DECODE_VERSION  # imports MLflow, which takes seconds

    parts = [f"decode {DECODE_VERSION}, OpenCV {cv2.__version__}, {size} px", *index.table["sha256"]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _open(place: Path, key: str, n: int, size: int) -> tuple[np.ndarray, dict[int, str]] | None:
    """The films and the reasons by row of those that failed, or None if there is no whole cache of this key."""
    try:
        mark = json.loads((place / "done.json").read_text(encoding="utf-8"))
        with (place / "films.npy").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # 27 ms for 5,216 films of 96 px
        if not isinstance(mark, dict) or (mark.get("key"), mark.get("sha256")) != (key, digest):
            return None
        reasons = {int(row): str(reason) for row, reason in mark["failures"]}
        films = np.load(place / "films.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = films.shape == (n - len(reasons), size, size) and films.dtype == np.uint8
    return (films, reasons) if whole else None


def _check_enough(index: Index, good: Index, place: Path) -> None:
    corrupt = good.report.corrupt
    total = len(good.table) + len(corrupt)
    before, after = (set(zip(i.table["split"], i.table["label"], strict=True)) for i in (index, good))
    if len(good.table) >= MIN_GOOD_SHARE * total and before == after:
        return
    listed = place / "failures.tsv"
    listed.write_text("".join(f"{path}\t{reason}\n" for path, reason in corrupt), encoding="utf-8")
    reason, times = Counter(reason for _, reason in corrupt).most_common(1)[0]
    if before != after:
        split, label = min(before - after)
        short = f"no {split} film of the class {index.classes[label]} could be read"
    else:
        short = f"only {len(good.table):,} of {total:,} films could be read, and {MIN_GOOD_SHARE:.0%} must be"
    raise DataError(f"{short}; the commonest reason, {times:,} times: {reason}; all are listed in {listed}")


# --- building

Job = tuple[int, str, str]  # row, path, sha256
Answer = tuple[int, str | None, bool]  # row, reason if the film failed, whether a process died of it


def _header(n: int, size: int) -> bytes:
    """How a .npy file of uint8 [n, size, size] begins. NumPy leaves room for n to grow, so its length is constant."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, size, size)})
    return file.getvalue()


def _build(place: Path, index: Index, key: str, size: int, workers: int | None, progress: bool) -> None:
    """Writes the cache in a folder of its own and renames that to `place`, unless another process was faster."""
    n = len(index.table)
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
    try:
        films = building / "films.npy"
        films.write_bytes(_header(n, size))
        reasons = _decode_all(films, index, size, workers, progress)
        _close_gaps(films, n, size, set(reasons))
        with films.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        mark = {"key": key, "size": size, "sha256": digest, "failures": sorted(reasons.items())}
        with (building / "done.json").open("w", encoding="utf-8") as out:
            json.dump(mark, out)
            out.flush()
            os.fsync(out.fileno())
        while _open(place, key, n, size) is None:
            try:
                building.rename(place)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if _open(place, key, n, size) is None:
                # Away in one step: deleting in place could take files from what another process has just put there.
                torn = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
                with suppress(FileNotFoundError):
                    place.rename(torn / "torn")
                shutil.rmtree(torn)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half-written."""
    for left in folder.glob(".building-*"):
        with suppress(OSError):
            touched = max(entry.stat().st_mtime for entry in (left, *left.iterdir()))
            if time.time() - touched > STALE_SECONDS:
                shutil.rmtree(left)


def _close_gaps(path: Path, n: int, size: int, failed: set[int]) -> None:
    """Moves the films that follow a failed one up, so that row i is the i-th good film."""
    head, film_bytes = len(_header(n, size)), size * size
    with path.open("r+b") as file:
        if failed:
            for good, row in enumerate(row for row in range(n) if row not in failed):
                film = os.pread(file.fileno(), film_bytes, head + row * film_bytes)
                _write(file.fileno(), film, head + good * film_bytes)
            file.write(_header(n - len(failed), size))
        file.truncate(head + (n - len(failed)) * film_bytes)


def _decode_all(films: Path, index: Index, size: int, workers: int | None, progress: bool) -> dict[int, str]:
    """Fills the file in; the reasons of the films that failed, by row.

    A film at which a process dies is tried once more in another one, for the process may have been killed from
    outside, and is then a failure itself.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n, offset = len(index.table), len(_header(len(index.table), size))
    paths = [str(index.root / path) for path in index.table["path"]]
    jobs: list[Job] = list(zip(range(n), paths, index.table["sha256"], strict=True))
    reasons: dict[int, str] = {}
    deaths: Counter[int] = Counter()
    with tqdm(total=n, desc="decoding films", unit="film", disable=not progress) as bar:
        while jobs:
            if workers is None and index.table["bytes"].sum() < HERE_BYTES:
                answers = _run_here(jobs, films, offset, size)
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


def _run_here(jobs: list[Job], films: Path, offset: int, size: int) -> Iterator[Answer]:
    """As `_run`, in this process: file descriptor 2 is turned away while a film is decoded, and what others wrote to
    it meanwhile is handed on."""
    with tempfile.TemporaryFile() as log, films.open("r+b") as out:
        stderr = os.dup(2)
        try:
            for row, path, sha256 in jobs:
                before = os.fstat(log.fileno()).st_size
                os.dup2(log.fileno(), 2)
                try:
                    reason = _decode_one(path, sha256, size, out.fileno(), offset + row * size * size)
                finally:
                    os.dup2(stderr, 2)
                said = os.pread(log.fileno(), os.fstat(log.fileno()).st_size - before, before)
                os.write(stderr, re.sub(_COMPLAINT.pattern.encode() + rb"\n?", b"", said))
                yield row, reason, False
        finally:
            os.close(stderr)


def _run(stripes: list[list[Job]], films: Path, offset: int, size: int) -> Iterator[Answer]:
    """One process a stripe of (row, path, sha256): yields an answer a film.

    Plain child processes: multiprocessing would import the caller's main module again in each, which fails in scripts
    that do not expect it. All write their answers to one pipe (a line is far shorter than PIPE_BUF, so lines stay
    whole), which ends when the last of them does. A child whose parent is gone dies of the broken pipe.
    """
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # a terminal's ^C is the parent's to handle
        "from pneumonia.cache import _work; _work()"
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
            at = next(row for row in rows if row not in answered)
            yield at, f"the decoder died of it: {f'signal {-status}' if status < 0 else said[:200]}", True


_CHANGED = 200  # exit status; one below it, but for Python's own 1, is the errno of a film that could not be written


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def _work() -> None:
    """A decoding process: takes its job from stdin, writes films into the file, answers [row, reason or null]. Its
    stderr is a file of its own, see `_decode_one`."""
    job = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed must not stand among the answers

    def answer(row: int, reason: str | None) -> None:
        os.write(answers, f"{json.dumps([row, reason])}\n".encode())  # in one call, see `_run`

    import cv2

    import pneumonia.served  # noqa: F401  # fails here, if it does, and not at the first film

    cv2.setNumThreads(1)
    answer(-os.getpid(), None)
    with open(job["films"], "r+b", buffering=0) as films:
        for row, path, sha256 in job["jobs"]:
            try:
                reason = _decode_one(path, sha256, job["size"], films.fileno(), job["offset"] + row * job["size"] ** 2)
            except DataError as error:
                print(error, file=sys.stderr)
                sys.exit(_CHANGED)
            except OSError as error:
                sys.exit(error.errno)
            answer(row, reason)


def _decode_one(path: str, sha256: str, size: int, films: int, at: int) -> str | None:
    """Writes a film at a byte of an open file, or says why it cannot be decoded.

    File descriptor 2 must be a file of this process alone, because that is the only place where libjpeg says that a
    film is damaged: cv2 returns a picture all the same. What that file grew by is looked at after each film.

    Raises:
        DataError: the file is not what was indexed.
        OSError: the film could not be written.
    """
    from pneumonia.served import FilmError, read_film

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} could be read when it was indexed and no more: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path} was changed since it was indexed: start again")
    before = os.fstat(2).st_size
    try:
        film = read_film(data, size)
    except FilmError as error:
        return str(error)[:300]
    said = os.pread(2, 1 << 16, before).decode(errors="replace")
    if complaint := _COMPLAINT.search(said):
        return f"damaged: {complaint[0].strip()[:200]}"
    _write(films, film.tobytes(), at)
    return None


def _write(file: int, data: bytes, at: int) -> None:
    """All of it: on a disk that is filling up, one call writes what there is room for, and only the next one fails."""
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
