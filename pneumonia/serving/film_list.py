"""Which films are meant by files, folders and patterns, in a stable order, however many there are."""

import glob
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from pneumonia.data import file_kinds
from pneumonia.data.inventory import tally
from pneumonia.serving.film_batches import size_of


class FilmList:
    """The films of `walk` in a temporary file, so that a long list takes no memory: iterate over it once at a time.

    `skipped` counts what is no film, by kind. `digest` is that of another list only if it names the same files of the
    same sizes in the same order.
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        """Raises:
        ValueError: as `walk`.
        """
        self.skipped: Counter[str] = Counter()
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", prefix="pneumonia-films-")  # noqa: SIM115
        self._count, digest = 0, hashlib.sha256()
        for path in walk(inputs, self.skipped):
            line = json.dumps([str(path), size_of(path)]) + "\n"
            digest.update(line.encode())
            self._file.write(line)
            self._count += 1
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        """Each film's path and size in bytes, which is 0 where it is not known."""
        self._file.seek(0)
        for line in self._file:
            path, size = json.loads(line)
            yield Path(path), size


def is_there(text: str) -> bool:
    """Whether an input names anything: a file, a folder, or a pattern that matches one."""
    if os.path.exists(os.path.expanduser(text)):
        return True
    return glob.has_magic(text) and next(glob.iglob(os.path.expanduser(text), recursive=True), None) is not None


def films(inputs: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """The films that `walk` finds, and what it skipped, by kind.

    Raises:
        ValueError: as `walk`.
    """
    skipped: Counter[str] = Counter()
    return list(walk(inputs, skipped)), skipped


def walk(inputs: Sequence[str], skipped: Counter[str]) -> Iterator[Path]:
    """The films that files, folders (with all below) and globs (`**` too) name, each once, in a stable order.

    A file that is named is taken whatever it is. In folders and globs, hidden files and folders, `__MACOSX`, folders of
    masks, and files that by their suffix or, where that says nothing, by their content are not images are skipped.

    Args:
        skipped: to which is added what was skipped, by kind.

    Raises:
        ValueError: an input names nothing, a folder cannot be read, or no film is found.
    """
    found: set[bytes] = set()
    others: set[bytes] = set()
    for text in inputs:
        path = Path(os.path.expanduser(text))
        if os.path.exists(path) and not os.path.isdir(path):
            if _is_new(path, found):
                yield path
            continue
        named, aside = ([path], Counter[str]()) if os.path.isdir(path) else _matches(path)
        if not named and not aside:
            raise ValueError(f"{os.path.abspath(path)} is no file, no folder and no pattern that matches any")
        skipped += aside
        for match in named:
            for film in file_kinds.walk(match, skipped) if match.is_dir() else [match]:
                why = _no_image(film)
                if why is not None:
                    skipped += Counter({why: int(_is_new(film, others))})  # adding drops what is 0
                elif _is_new(film, found):
                    yield film
    if not found:
        tail = f" (skipped: {tally(skipped)})" if skipped else ""
        raise ValueError(f"no film in {', '.join(inputs) or 'an empty list'}: looked for JPEG, PNG and DICOM{tail}")


@lru_cache(maxsize=8)
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


def _is_new(path: Path, seen: set[bytes]) -> bool:
    """Whether a file, by whatever name, is not among those seen, of which a digest is kept; then it is now."""
    real = os.path.realpath(path) if path.is_symlink() else os.path.join(_real_folder(path.parent), path.name)
    digest = hashlib.blake2b(os.fsencode(real), digest_size=12).digest()
    before = len(seen)
    seen.add(digest)
    return len(seen) > before


def _matches(pattern: Path) -> tuple[list[Path], Counter[str]]:
    """What a glob matches, without what is below a matched folder; and how many files are skipped since a folder's name
    says that it holds no films, and the pattern does not name it."""
    reasons: dict[Path, str | None] = {}

    def reason(folder: Path) -> str | None:
        if folder not in reasons:
            named = folder.name in pattern.parts
            reasons[folder] = None if named else file_kinds.aside(folder.name, os.listdir(folder.parent))
        return reasons[folder]

    matches, passed, done, counted = list[Path](), Counter[str](), set[Path](), set[str]()
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        if not done.isdisjoint(path.parents):
            continue
        folder = path.is_dir()
        if folder:
            done.add(path)
        above = [one for one in (path, *path.parents) if one.name][0 if folder else 1 :]
        why = next(filter(None, map(reason, above)), None)
        if why is None:
            matches.append(path)
        elif (real := os.path.realpath(path)) not in counted:  # a link to a folder above makes a loop
            counted.add(real)
            passed += Counter({why: file_kinds.count(path)[0] if folder else 1})
    return matches, passed


def _no_image(path: Path) -> str | None:
    """Why a file in a folder is no image; None for formats that are refused too, so that the table says so of each, and
    for what cannot be looked at."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return file_kinds.why_unwanted(path) or (None if file_kinds.has_known_suffix(path) else "not a file")
        why = file_kinds.why_not_film(path)
    except OSError:
        return None
    return None if why in file_kinds.REFUSED.values() else why
