"""Films on disk to rows of a table, a batch at a time on several threads, in the order of the films."""

import base64
import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, Protocol, TypeVar

from pneumonia.served import MAX_BYTES

# With the types that hold what is missing.
TYPES = {
    **{"path": "str", "probability": "float64", "label": "str", "threshold": "float64", "familiarity": "float64"},
    **{"familiar": "boolean", "warning": "str", "error": "str"},
}
COLUMNS = tuple(TYPES)
MERCY_SECONDS = 3.0  # from the end of the work to leaving a thread to itself that waits for a server

Row = dict[str, Any]  # a value a column; None is missing
Given = TypeVar("Given")
Made = TypeVar("Made")


class Scorer(Protocol):
    """A model here or behind a server. Used by several threads at once."""

    about: dict[str, str]  # what its answers depend on: {what it is called: what it is}
    threshold: float
    films_at_once: int  # at most, in one call
    bytes_at_once: int  # likewise, unless a single film is larger
    calls_at_once: int

    def score(self, films: Sequence[bytes]) -> list[Row]:
        """What the model says of each film: some of `COLUMNS`, with what is missing None, and `heatmap` where it was
        asked for. A film that cannot be scored has an `error`."""


class _Batch(NamedTuple):
    first: int  # the number of the first film, from 0
    paths: list[Path]


def score(
    scorer: Scorer, films: Iterable[tuple[Path, int]], *, first: int = 0, heatmaps: Path | None = None
) -> Generator[Row]:
    """A row a film, in the order of the films, as `COLUMNS`. No more films are read ahead than threads work at.

    Threads do, since decoding and ONNX Runtime release the GIL, and start at once where a process takes seconds. They
    end when this is closed: close it, for one that is in ONNX Runtime when Python ends takes the process down.

    Args:
        films: paths, and sizes in bytes.
        first: the number of the first of the films, by which its heatmap is named.
        heatmaps: a folder, made if missing, for a PNG of each film that can be scored (`heatmap_name`); the scorer was
            made to explain.
    """
    if heatmaps is not None:
        heatmaps.mkdir(parents=True, exist_ok=True)

    def rows(batch: _Batch) -> list[Row]:
        made = _rows(scorer, batch.paths)
        for number, (row, path) in enumerate(zip(made, batch.paths, strict=True), batch.first):
            picture = row.pop("heatmap", None)
            if picture and heatmaps is not None:
                _write(heatmaps / heatmap_name(number, path), base64.b64decode(picture))
        return made

    with closing(_in_order(rows, _batches(films, first, scorer), scorer.calls_at_once)) as in_order:
        for made in in_order:
            yield from made


def heatmap_name(number: int, path: Path) -> str:
    """The name of the heatmap of film `number`, counted from 0: the number of its row and what the film is called, of
    which only letters, digits, dots and dashes are kept."""
    return f"{number + 1:06d}-{re.sub(r'[^A-Za-z0-9.-]+', '_', path.stem)[:80]}.png"


def unscored(scorer: Scorer, path: Path, error: str = "") -> Row:
    """The row of a film of which nothing else is known."""
    return {
        # A name that is not UTF-8 has lone surrogates, which cannot be written to a table or file.
        **{"path": os.fsencode(path).decode("utf-8", "backslashreplace"), "probability": None, "label": ""},
        **{"threshold": scorer.threshold, "familiarity": None, "familiar": None, "warning": "", "error": error},
    }


def read(path: Path) -> bytes:
    """A film's bytes.

    Raises:
        OSError: there is no such film; the message says so in a few words.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise OSError("not a file" if path.exists() else "no such file")
    if path.stat().st_size > MAX_BYTES:
        raise OSError(f"the file is larger than {MAX_BYTES >> 20} MiB")
    return path.read_bytes()


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where that cannot be known."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _rows(scorer: Scorer, paths: Sequence[Path]) -> list[Row]:
    rows = [unscored(scorer, path) for path in paths]
    films: dict[int, bytes] = {}
    for at, path in enumerate(paths):
        try:
            films[at] = read(path)
        except OSError as error:
            rows[at]["error"] = error.strerror or str(error)
    for at, answer in zip(films, scorer.score(list(films.values())) if films else [], strict=True):
        said = {name: value for name, value in answer.items() if name in TYPES or name == "heatmap"}
        rows[at] |= {name: None if value != value else value for name, value in said.items()}  # NaN is missing
        if rows[at]["error"]:
            rows[at] |= {"probability": None, "familiarity": None, "familiar": None, "label": ""}
    return rows


def _batches(films: Iterable[tuple[Path, int]], first: int, scorer: Scorer) -> Iterator[_Batch]:
    paths, together = list[Path](), 0
    for path, size in films:
        if paths and (len(paths) == scorer.films_at_once or together + size > scorer.bytes_at_once):
            yield _Batch(first, paths)
            first, paths, together = first + len(paths), [], 0
        paths.append(path)
        together += size
    if paths:
        yield _Batch(first, paths)


def _in_order(function: Callable[[Given], Made], given: Iterable[Given], threads: int) -> Generator[Made]:
    """As `map`, on several threads, which are at most two tasks each ahead of what was taken.

    Not a ThreadPoolExecutor, at whose end Python waits for as long as a server does not answer, also after ^C.
    """
    tasks: SimpleQueue[tuple[Future[Made], Given] | None] = SimpleQueue()

    def work() -> None:
        while (task := tasks.get()) is not None:
            future, one = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(one))
                except BaseException as error:
                    future.set_exception(error)

    workers = [Thread(target=work, name=f"score-{number}", daemon=True) for number in range(threads)]
    waiting: deque[Future[Made]] = deque()
    try:
        for worker in workers:
            worker.start()
        for one in given:
            waiting.append(Future())
            tasks.put((waiting[-1], one))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for _ in workers:
            tasks.put(None)
        end = time.monotonic() + MERCY_SECONDS
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))


def _write(path: Path, data: bytes) -> None:
    """Replaces a file, whole or not at all."""
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
