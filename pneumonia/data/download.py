"""The public films: fetches Kermany's data set from Mendeley Data, resumably, and unpacks it."""

import hashlib
import re
import shutil
import stat
import tempfile
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from tqdm import tqdm

from pneumonia.runtime.disk import room

# Kermany, Zhang, Goldbaum (2018), doi 10.17632/rscbjbr9sj.2, CC BY 4.0: ChestXRay2017.zip, 5,856 films.
URL = (
    "https://data.mendeley.com/public-files/datasets/rscbjbr9sj"
    "/files/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded"
)
SHA256 = "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36"
BYTES = 1_235_512_464

ATTEMPTS = 6  # in a row without a single new byte
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two packets
BLOCK = 1 << 16  # bytes; a broken transfer loses its last, incomplete block
FOLDER = "chest_xray"


class DownloadError(ValueError):
    """The data set could not be fetched or is not what it should be; one sentence says what to do."""


class _Broken(Exception):
    """A transfer that is worth another attempt."""


def download(dest: Path, *, url: str = URL, sha256: str = SHA256, size: int = BYTES, progress: bool = True) -> Path:
    """Fetches the zip into `dest`, checks it, and unpacks it to `dest`/chest_xray; the zip is then removed.

    A broken transfer resumes where it stopped, at once or by the next call: what has arrived is in a .part file. The
    folder appears under its name only when it is complete; if it is already there nothing is done.

    Args:
        dest: folder, made if it is missing. It needs room for twice `size` and a little.
        url: where the zip is; it may redirect.
        sha256: of the zip, hexadecimal.
        size: of the zip, in bytes.
        progress: whether to show a bar on stderr.

    Returns:
        The folder with train and test.

    Raises:
        DownloadError: no connection, a refusal by the server, other content than expected, or a zip that would write
            outside its folder.
        DiskFullError: no room.
    """
    folder = dest / FOLDER
    if folder.exists():
        if (folder / "train").is_dir():
            return folder
        raise DownloadError(f"{folder} exists and has no train folder in it: move it away or choose another folder")
    dest.mkdir(parents=True, exist_ok=True)
    archive, part = dest / "ChestXRay2017.zip", dest / "ChestXRay2017.zip.part"
    if not archive.exists():
        with room(dest, 2 * size - _size(part)):
            _fetch(url, part, size, progress)
        if (digest := _digest(part)) != sha256:
            part.unlink()
            raise DownloadError(
                f"what {url} sent has the SHA-256 {digest} and not {sha256}: it was removed, so that the next call "
                "starts from the beginning"
            )
        part.replace(archive)
    elif (digest := _digest(archive)) != sha256:  # put there by hand
        raise DownloadError(f"{archive} has the SHA-256 {digest} and not {sha256}: move it away and start again")
    _unpack(archive, folder, progress)
    archive.unlink()
    return folder


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(url: str, part: Path, length: int, progress: bool) -> None:
    """Appends to `part` until it is `length` bytes long."""
    failures, furthest = 0, _size(part)
    with (
        requests.Session() as session,
        tqdm(total=length, desc="downloading", unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        while _size(part) < length:
            error: Exception = _Broken("the server sent nothing new")
            try:
                _transfer(session, url, part, length, bar)
            except (requests.RequestException, _Broken) as caught:
                error = caught
            # Further than ever before, not just further: a server that has less than `length` is asked again and again.
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures == ATTEMPTS:
                raise DownloadError(
                    f"the download stopped at {furthest:,} of {length:,} bytes ({_cause(error)}): "
                    "the same command continues it"
                ) from error
            if furthest < length:
                time.sleep(min(2.0**failures, 30.0) / 2)


def _cause(error: Exception) -> str:
    """A sentence for errors whose own text is a Python expression with addresses in it."""
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return "the connection failed or broke"
    return str(error)


def _transfer(session: requests.Session, url: str, part: Path, length: int, bar: "tqdm[Any]") -> None:
    """One request, for what is missing; the server may answer with that (206) or with all of it (200)."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        status = answer.status_code
        begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if status == 416 or (status == 206 and (begins is None or int(begins[1]) != have)):
            part.unlink(missing_ok=True)  # the server's file does not begin with our part
            raise _Broken(f"the server has no such range, status {status}")
        if status == 429 or status >= 500:
            raise _Broken(f"the server answered {status}")
        if status not in (200, 206):
            raise DownloadError(
                f"the server answered {status} for {url}: get the zip by hand and put it into {part.parent} as "
                f"{part.stem}"
            )
        announced = answer.headers.get("Content-Length", "")
        there = int(announced) + (have if status == 206 else 0) if announced.isdecimal() else length
        if there != length:
            raise DownloadError(f"{url} holds {there:,} bytes and not the {length:,} of the data set")
        with part.open("ab" if status == 206 else "wb") as file:
            bar.n = file.tell()
            bar.refresh()
            for block in answer.iter_content(BLOCK):
                if file.tell() + len(block) > length:
                    file.close()
                    part.unlink()
                    raise DownloadError(f"{url} sent more than the {length:,} bytes of the data set: nothing was kept")
                file.write(block)
                bar.update(len(block))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, folder: Path, progress: bool) -> None:
    """Extracts the films to a folder of its own and renames that into place."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            entries = _safe_entries(zipped)
            with room(folder, sum(entry.file_size for entry in entries)):
                unpacking = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
                try:
                    for entry in tqdm(entries, desc="unpacking", unit="film", disable=not progress):
                        target = unpacking / entry.filename
                        target.parent.mkdir(parents=True, exist_ok=True)
                        # Reads no more than the size that the entry states, and checks its CRC at the end.
                        with zipped.open(entry) as source, target.open("wb") as out:
                            shutil.copyfileobj(source, out, BLOCK)
                    (unpacking / FOLDER).rename(folder)
                finally:
                    shutil.rmtree(unpacking, ignore_errors=True)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise DownloadError(f"{archive} cannot be unpacked ({error}): remove it and start again") from error


def _safe_entries(zipped: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of the data set. One entry that could write elsewhere, and the whole zip is refused."""
    wanted = []
    for entry in zipped.infolist():
        path = PurePosixPath(entry.orig_filename)  # `filename` is already tidied up
        link = stat.S_ISLNK(entry.external_attr >> 16)
        outside = path.is_absolute() or not path.parts or ".." in path.parts or set("\\:") & set(entry.orig_filename)
        if outside or link:
            kind = "a link" if link else "a path that leads outside its folder"
            raise DownloadError(f"{zipped.filename} holds {kind}: it is not unpacked")
        hidden = any(name.startswith(".") or name == "__MACOSX" for name in path.parts)
        if path.parts[0] == FOLDER and not hidden and not entry.is_dir():
            wanted.append(entry)
    if not wanted:
        raise DownloadError(f"{zipped.filename} holds no files in a folder {FOLDER}: it is not the data set")
    return wanted
