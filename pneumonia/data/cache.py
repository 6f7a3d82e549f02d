"""Films as arrays: each is decoded once to a square of grey bytes and kept on disk, memory-mapped."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pneumonia.data.decoding import decode_films, write
from pneumonia.data.index import DataError, Index
from pneumonia.runtime.disk import room

MIN_GOOD_SHARE = 0.9
EXAMPLES = 5  # of unread films
STALE_SECONDS = 3600.0  # a half-written cache older than this was left by a dead process
MARK = "done.json"  # of a whole cache; its time says when the cache was last opened


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """`films` is uint8 [N, S, S], memory-mapped and read-only; row i is row i of `index.table`. `failures` are the
    films that could not be decoded (path, reason); `index` is without them. `seconds` is what opening or building
    took."""

    films: np.ndarray
    index: Index
    failures: list[tuple[str, str]]
    seconds: float

    def unread(self) -> list[str]:
        """Lines about the films that could not be decoded; none when all could."""
        lines = [f"{len(self.failures)} films could not be read and are left out"] if self.failures else []
        lines += [f"  {path}: {reason}" for path, reason in self.failures[:EXAMPLES]]
        return lines + (["  ... data_report.json lists them all"] if len(self.failures) > EXAMPLES else [])


def decode(index: Index, *, size: int, home: Path, workers: int | None = None, progress: bool = False) -> Decoded:
    """Decodes every film of an index to `size` x `size` pixels, or opens what an earlier call decoded.

    The cache is in `home`/cache under a key of the films' contents in their order, the size, and the versions of the
    decoding code and of OpenCV. Paths, labels and splits are not part of the key: a moved folder finds its cache again.
    The cache is written beside its place and renamed whole; its checksum is verified whenever it is opened. Two
    processes that build at once do the work twice, and both use the one that was first.

    Films are decoded in `workers` processes. By default that is one a core for large sets, and for less than
    `decoding.HERE_BYTES` this process itself.

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
    for _ in range(3):  # another process that found a damaged cache may be replacing ours
        if opened is None:
            with room(place, n * size * size + (1 << 20)):
                _build(place, index, key, size, workers, progress)
            opened = _open(place, key, n, size)
    if opened is None:
        raise RuntimeError(f"the cache {place} was damaged each time it was written: check the disk")
    with suppress(OSError):  # a home that can only be read
        os.utime(place / MARK)
    films, reasons = opened
    paths = index.table["path"]
    failures = [(str(paths.iloc[row]), reason) for row, reason in sorted(reasons.items())]
    good = index.without(failures)
    _check_enough(index, good, place)
    return Decoded(films=films, index=good, failures=failures, seconds=time.perf_counter() - start)


@dataclass(frozen=True)
class Stored:
    """A cache on the disk. `opened` is when it was last opened, in seconds since 1970; `current` is False where this
    version of the program would decode its films anew.
    """

    place: Path
    opened: float
    current: bool


def stored(home: Path) -> list[Stored]:
    """The caches of a home."""
    found = []
    for place in sorted((home / "cache").glob("*")):
        if re.fullmatch("[0-9a-f]{64}", place.name):
            with suppress(OSError):  # it is removed meanwhile
                found.append(Stored(place, _opened(place), _is_current(place)))
    return found


def _opened(place: Path) -> float:
    mark = place / MARK
    return (mark if mark.exists() else place).stat().st_mtime


def _is_current(place: Path) -> bool:
    try:
        mark = json.loads((place / MARK).read_text(encoding="utf-8"))
        return bool(mark.get("decoder", _decoder()) == _decoder())  # 0.1 did not say
    except (OSError, ValueError, AttributeError):
        return False  # torn: nobody opens it


def half_written(home: Path) -> list[Path]:
    """What killed processes left half-written among the caches of a home."""
    found = []
    for left in (home / "cache").glob(".building-*"):
        with suppress(OSError):
            touched = max(entry.stat().st_mtime for entry in (left, *left.iterdir()))
            if time.time() - touched > STALE_SECONDS:
                found.append(left)
    return found


def remove(place: Path) -> None:
    """Removes a cache: away in one step, since deleting in place could take files from what another process has just
    put there. Who has it open keeps its films.
    """
    away = place.with_name(f".building-{uuid.uuid4().hex}")  # no new folder, for which a full disk may have no room
    with suppress(FileNotFoundError):
        place.rename(away)
    if away.is_dir():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)


def _decoder() -> str:
    import cv2

    from pneumonia.served import DECODE_VERSION  # takes seconds to import

    return f"decode {DECODE_VERSION}, OpenCV {cv2.__version__}"


def _key(index: Index, size: int) -> str:
    how = f"{_decoder()}, {size} px{', any DICOM' if index.any_dicom else ''}"
    parts = [how, *index.table["sha256"]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _open(place: Path, key: str, n: int, size: int) -> tuple[np.ndarray, dict[int, str]] | None:
    """The films and the reasons by row of those that failed, or None if there is no whole cache of this key."""
    try:
        mark = json.loads((place / MARK).read_text(encoding="utf-8"))
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
        reasons = decode_films(films, len(_header(n, size)), index, size, workers, progress)
        _close_gaps(films, n, size, set(reasons))
        with films.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Not synced to the disk, which takes seconds for a large set: what a power cut tears has another checksum.
        mark = {"key": key, "size": size, "sha256": digest, "failures": sorted(reasons.items()), "decoder": _decoder()}
        (building / MARK).write_text(json.dumps(mark), encoding="utf-8")
        while _open(place, key, n, size) is None:
            try:
                building.rename(place)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if _open(place, key, n, size) is None:
                remove(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half-written."""
    for left in half_written(folder.parent):
        with suppress(OSError):
            shutil.rmtree(left)


def _close_gaps(path: Path, n: int, size: int, failed: set[int]) -> None:
    """Moves the films that follow a failed one up, so that row i is the i-th good film."""
    head, film_bytes = len(_header(n, size)), size * size
    with path.open("r+b") as file:
        if failed:
            for good, row in enumerate(row for row in range(n) if row not in failed):
                film = os.pread(file.fileno(), film_bytes, head + row * film_bytes)
                write(file.fileno(), film, head + good * film_bytes)
            file.write(_header(n - len(failed), size))
        file.truncate(head + (n - len(failed)) * film_bytes)
