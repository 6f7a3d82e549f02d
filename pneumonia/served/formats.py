"""What format a file is in, by its first bytes."""

from typing import Literal


def kind(head: bytes) -> Literal["JPEG", "PNG", "DICOM", ""]:
    """What a film of these first bytes (1,024 are enough) would be read as; empty for anything else."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if b"DICM" in (head[128:132], head[:4]) or _begins_like_dicom(head):
        return "DICOM"
    return ""


def _begins_like_dicom(head: bytes) -> bool:
    """Whether it is a DICOM without preamble, which begins with a short element of one of its first groups."""
    if len(head) < 132 or head[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    explicit = head[4:6] in {b"UL", b"OB", b"UI", b"CS", b"SH", b"DA", b"LO", b"DT", b"TM", b"AE", b"US"}
    return explicit or (head[:1] == b"\x08" and int.from_bytes(head[4:8], "little") <= 64)


def name_format(data: bytes) -> str:
    if not data:
        return "the film is empty (0 bytes)"
    head = data[:512]
    known = {
        b"GIF8": "a GIF",
        b"II*\x00": "a TIFF",
        b"MM\x00*": "a TIFF",
        b"BM": "a BMP",
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a zip archive",
        b"\x1f\x8b": "a gzip archive",
        b"\x00\x00\x00\x0cjP": "a JPEG 2000",
        b"\xff\x4f\xff\x51": "a JPEG 2000",
    }
    kind = next((name for magic, name in known.items() if head.startswith(magic)), "")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        kind = "a WebP"
    elif not kind and head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        kind = "an HTML page"
    elif not kind and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        kind = "text"
    return f"the file is {kind}, not a JPEG, PNG or DICOM film" if kind else "the file is not a JPEG, PNG or DICOM film"
