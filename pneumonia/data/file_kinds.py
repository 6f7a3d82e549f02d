"""Whether a file is a film, by its suffix or, where that says nothing, by its content; and what other kind it is."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

FILMS = {".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".dcm", ".dicom", ".dic"}
REFUSED = {
    **{".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WebP"},
    **{".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF"},
}
# Not opened. Any other suffix says nothing: `.5` is the end of a UID, `.IMA` and `.000001` are what scanners write.
_OTHERS = {
    "text": ".txt .md .rst .log .rtf .doc .docx .odt .pdf .html .htm",
    "table": ".csv .tsv .xls .xlsx .ods .parquet .json .jsonl .xml .yaml .yml .toml",
    "archive": ".zip .tar .gz .tgz .bz2 .xz .7z .rar .iso",
    "program": ".py .pyc .ipynb .sh .bat .exe .dll .jar .js .css",
    "system": ".db .ini .inf .cfg .lnk .url",  # Thumbs.db, desktop.ini, autorun.inf
    "array": ".npy .npz .h5 .hdf5 .mat .pkl .pt .pth .onnx .safetensors .nii .nrrd .mha .mhd",
    "drawing": ".svg .psd .eps .ico .mp4 .avi .mov",
    "left-over": ".tmp .part .partial .crdownload .bak .swp",
}
_KINDS = {suffix: f"{kind} ({suffix})" for kind, suffixes in _OTHERS.items() for suffix in suffixes.split()}
_HEAD = 1024  # bytes
_MANY = 100_000  # files of a folder that is not used; counting stops there
_DIRECTORY = re.compile(rb"1\.2\.840\.10008\.1\.3\.10(?![\d.])")  # Media Storage Directory, what a DICOMDIR is
_MASKS = re.compile(r"(.* )?(masks?|segmentations?|annotations?|ground ?truths?)")
_BESIDE_IMAGES = {"label", "labels", "boxes", "overlays", "heatmaps", "contours"}
_IMAGES = {"image", "images", "img", "imgs", "films", "xrays", "x rays"}
_MASK_OF = re.compile(r"(.+)[ _-]mask", re.IGNORECASE)


class DataError(ValueError):
    """The films cannot be used as they are; one sentence says what was looked for and what was found. `report` has
    lines on what was found, to be read before it."""

    def __init__(self, message: str, report: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.report = tuple(report)


def why_unwanted(path: Path) -> str | None:
    """Why a file is not a film, by its name alone, as a kind to count by; None where the name does not say."""
    name = path.name
    if name == ".DS_Store":
        return name
    if name.startswith("."):
        return "._*" if name.startswith("._") else "hidden"
    return "DICOMDIR" if name.upper() == "DICOMDIR" else REFUSED.get(_suffix(path))


def why_not_film(path: Path) -> str | None:
    """Why a file is not a film, as a kind to count by; None where it is one by its name or, where the suffix says
    nothing, by its first bytes. Blocks on a pipe.

    Raises:
        OSError: its content would have to be looked at, and cannot be.
    """
    why = why_unwanted(path)
    if why or has_known_suffix(path):
        return why
    return _KINDS.get(_suffix(path)) or _by_content(path)


def is_film(path: Path) -> bool:
    """Whether a file is a film, by `why_not_film`; an unreadable one is not."""
    try:
        return path.is_file() and why_not_film(path) is None
    except OSError:
        return False


def has_known_suffix(path: Path) -> bool:
    """Whether the suffix alone says that a file is a film."""
    return _suffix(path) in FILMS


def _suffix(path: Path) -> str:
    return path.suffix.lower().strip()


def _by_content(path: Path) -> str | None:
    from pneumonia.served import kind  # takes seconds to import

    with open(path, "rb", buffering=0) as file:
        head = file.read(_HEAD)
    found = kind(head)
    if found == "DICOM" and _DIRECTORY.search(head):
        return "DICOMDIR"
    if found:
        return None
    if head.startswith((b"GIF8", b"II*\x00", b"MM\x00*")):
        return "GIF" if head.startswith(b"GIF") else "TIFF"
    what = "empty" if not head else "text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head) else "unknown"
    return f"{what} ({_suffix(path) if re.fullmatch(r'[.][a-z][a-z0-9]{0,7}', _suffix(path)) else 'no suffix'})"


def below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Every file below a folder, as `walk` gives them, and how many were skipped for the name of their folder.

    Raises:
        DataError: a folder cannot be read.
    """
    passed: Counter[str] = Counter()
    return list(walk(folder, passed)), passed


def walk(folder: Path, passed: Counter[str]) -> Iterator[Path]:
    """Every file below a folder in a fixed order, films or not, a folder at a time. Links are followed, each folder
    once, so that a loop ends.

    Args:
        passed: to which is added how many files are skipped for the name of their folder, by reason.

    Raises:
        DataError: a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    stack = [folder]
    while stack:
        here = stack.pop()
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders, files = _names(here)
        inside = []
        for name in folders:
            why = aside(name, folders)
            if why is None:
                inside.append(here / name)
            else:
                passed += Counter({why: count(here / name)[0]})  # adding drops what is 0
        stack += reversed(inside)
        masks = {name: match[1] for name in files if (match := _MASK_OF.fullmatch(Path(name).stem))}
        stems = {Path(name).stem for name in files} if masks else set()
        for name in files:
            if masks.get(name) in stems:
                passed["mask beside its film"] += 1
            else:
                yield here / name


def aside(name: str, siblings: Iterable[str]) -> str | None:
    """Why a folder of that name holds no films, as a kind to count by: it is hidden, or holds masks of the films in
    other folders; None where its name does not say so."""
    if name == "__MACOSX":
        return name
    plain = re.sub(r"[\W_]+", " ", name.casefold()).strip()
    beside = {re.sub(r"[\W_]+", " ", other.casefold()).strip() for other in siblings}
    masks = _MASKS.fullmatch(plain) or (plain in _BESIDE_IMAGES and beside & _IMAGES)
    return f"in {name}" if name.startswith(".") or masks else None


def count(folder: Path) -> tuple[int, int]:
    """How many files are below a folder that is not used, and how many of them are films; an unreadable file does not
    count as one."""
    files = films = 0
    for here, _, names in os.walk(folder):
        files += len(names)
        films += sum(is_film(Path(here, name)) for name in names)
        if files >= _MANY:
            break
    return files, films


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The content of a folder, sorted: the folders, and all else.

    Raises:
        DataError: the folder cannot be read.
    """
    folders, others = _names(folder)
    return [folder / name for name in folders], [folder / name for name in others]


def _names(folder: Path) -> tuple[list[str], list[str]]:
    folders, others = list[str](), list[str]()
    try:
        with os.scandir(folder) as found:
            for entry in found:
                # A link to itself would raise in `entry.is_dir()`.
                is_folder = os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()
                (folders if is_folder else others).append(entry.name)
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(others)
