"""Bytes to grey film to probability: the one file that training, evaluation and the served model all run.

MLflow logs this file as the model's code (`package.pyfunc_arguments`), and the rest of the package imports `decode`,
`read_film`, `standardise` and `Predictor` from it, so that a film is read in one way only. It imports nothing else of
the package, and no torch: a model folder serves on a machine that has neither.
"""

import base64
import binascii
import io
import json
import logging
import math
import os
import re
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

MAX_PIXELS = 100_000_000  # the largest film known to us has 54 million
# OpenCV takes its limit from the environment when it is loaded, and by default lets 2**30 pixels through. The headers
# are checked below before anything is decoded; this makes OpenCV itself stop what such a check might be tricked into.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2  # noqa: E402
import mlflow.models  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import pandas as pd  # noqa: E402
import pydicom  # noqa: E402
import simplejpeg  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE  # noqa: E402
from mlflow.pyfunc.model import PythonModel, PythonModelContext  # noqa: E402
from pydicom.encaps import get_frame  # noqa: E402
from pydicom.filereader import read_dataset, read_preamble  # noqa: E402
from pydicom.multival import MultiValue  # noqa: E402
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut  # noqa: E402
from pydicom.pixels.utils import pixel_array  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it complains of is said here
logger = logging.getLogger(__name__)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # warns where it reads all the same

DECODE_VERSION = 4  # raise it when the same bytes come to give other grey values: caches and packages are keyed by it
FORMAT = 1  # of package.json
MIN_SIDE = 16  # pixels
MAX_BYTES = 128 * 2**20  # of one film as it is sent
MAX_DECODED = 256 * 2**20  # bytes of the largest buffer that a decoder may need for one film
MAX_SCANNED = 1_000_000_000  # pixels times scans of a JPEG: a thousand scans of a large film would take minutes
MAX_SECONDS = 60  # of GDCM for one film; the largest take 3
MAX_RECORDS = 1_000  # films in one request
MAX_EXPLAINED = 64  # films in one request with a heat map each, which weighs some 200 KB
CANONICAL = 224  # side in pixels that larger films are stretched to on the way to the model's size
TAIL = 0.0005  # share of pixels at either end that may saturate when deep films become 8-bit
HEATMAP_SIDE = 512  # pixels, the longer side


class FilmError(ValueError):
    """Bytes that are not a film that can be read. The message is one short sentence and holds nothing of the input."""


# ---------------------------------------------------------------------------------------------------- bytes to film


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


def decode(data: bytes, *, min_side: int = 0, any_dicom: bool = False) -> np.ndarray:
    """Reads a JPEG, PNG or single-frame DICOM film.

    Dimensions are read from the header and checked before anything is decoded: no input needs more than 3 times
    `MAX_DECODED` of memory (the largest JPEG, PNG and DICOM films that pass took up to 470 MB). Films of more than 8
    bits are stretched to 8 by their own grey values (a DICOM's rescale, window and inversion first). Transparent PNGs
    are laid on black, EXIF rotation is applied. A JPEG that its decoder complains of is refused where a pixel may hang
    on it, and read where none does.

    Args:
        data: the file's content.
        min_side: if positive, a JPEG may come out reduced by 2, 4 or 8 while both sides stay at least this (pixels).
        any_dicom: read a DICOM also if it says that it is no radiograph of a chest.

    Returns:
        uint8 [H, W], 0 is black.

    Raises:
        FilmError: the bytes are no such film, are damaged, or break a bound.
    """
    if len(data) > MAX_BYTES:
        raise FilmError(f"the film is larger than {MAX_BYTES >> 20} MiB")
    match kind(data[:1024]):
        case "JPEG":
            film = _decode_jpeg(data, min_side)
        case "PNG":
            film = _decode_png(data)
        case "DICOM":
            film = _decode_dicom(data, any_dicom)
        case _:
            raise FilmError(_name_the_stranger(data))
    # X-ray films vary by tens of grey levels; a blank page, or all black, would be scored like a film.
    if cv2.meanStdDev(film)[1].item() < 1.0:
        raise FilmError("the film holds no picture: it is one even grey")
    return film


def read_film(data: bytes, size: int, *, any_dicom: bool = False) -> np.ndarray:
    """Reads a film for the network: `decode`, then `stretch`.

    Returns:
        uint8 [size, size].

    Raises:
        FilmError: as `decode`.
    """
    return stretch(decode(data, min_side=_min_side(size), any_dicom=any_dicom), size)


def _min_side(size: int) -> int:
    return max(size, CANONICAL)  # `stretch` says why


def stretch(film_hw: np.ndarray, size: int) -> np.ndarray:
    """Stretches a film to a square, uint8 [H, W] to uint8 [size, size].

    The film's aspect is lost, but a chest becomes narrower in a wide film, and Kermany's ill films are wider: training
    varies the shape against that (`disturb`).

    Large films go through 224 px on their way to a smaller size, as the copies of public data sets do. Mean absolute
    difference between 70 films at full size and their 224 px JPEG copies, in standard deviations of the film: at 64,
    96 and 128 px .014, .021 and .025, against .015, .023 and .030 straight to the size (largest single pixel at 96 px
    .26 against .47). Decoding a JPEG reduced to no less than 224 px makes that .016, .021 and .026, over 210 films, in
    three quarters of the time that 448 px take; below 224 px it is .018, .024 and .029 for little more speed.
    """
    shortest = min(film_hw.shape)
    if size < CANONICAL <= shortest:
        film_hw = cv2.resize(film_hw, (CANONICAL, CANONICAL), interpolation=cv2.INTER_AREA)
    enlarge = cv2.INTER_LINEAR if shortest < size else cv2.INTER_AREA
    return cv2.resize(film_hw, (size, size), interpolation=enlarge)


def standardise(films: np.ndarray) -> np.ndarray:
    """Each film less its mean, over its standard deviation: uint8 [N, S, S] to float32 [N, 1, S, S].

    The sums are of whole numbers in float64, which is exact: a film's result does not depend on its batch.
    """
    films_nhw = films.astype(np.float32)
    mean = films_nhw.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    variance = np.square(films_nhw).mean(axis=(1, 2), keepdims=True, dtype=np.float64) - mean**2
    films_nhw -= mean.astype(np.float32)
    films_nhw /= (np.sqrt(np.maximum(variance, 0)) + 1e-3).astype(np.float32)
    return films_nhw[:, np.newaxis]


def _name_the_stranger(data: bytes) -> str:
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


def _check_bounds(height: int, width: int, decoded_bytes: float) -> None:
    if min(height, width) < MIN_SIDE:
        raise FilmError(f"the film is too small: a side has fewer than {MIN_SIDE} pixels")
    if height * width > MAX_PIXELS:
        raise FilmError(f"the film is too large: more than {MAX_PIXELS // 1_000_000} million pixels")
    if decoded_bytes > MAX_DECODED:
        raise FilmError(f"the film is too large: decoding it would take more than {MAX_DECODED >> 20} MiB")


def _imdecode(data: bytes, flags: int, kind: str) -> np.ndarray:
    try:
        film: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        film = None
    if film is None:  # OpenCV's answer to a file that ends early, too
        raise FilmError(f"the {kind} is damaged or cut short")
    return film


# --------------------------------------------------------------------------------------------------------- JPEG, PNG


class _Jpeg(NamedTuple):
    """What a JPEG's header says; height and width before EXIF rotation."""

    height: int
    width: int
    precision: int  # bits a sample
    components: int
    frame: int  # the marker of its frame header, 0xC0 and so on
    turned: bool  # by EXIF


def _jpeg_header(data: bytes) -> _Jpeg:
    """The frame header's content; refuses what breaks a bound."""
    at, turned = 2, False
    for _ in range(10_000):  # segments before the frame header; a camera's file has some dozens
        at = data.find(b"\xff", at)
        if at < 0 or at + 20 > len(data):
            break
        marker = data[at + 1]
        if marker in (0xD9, 0xDA):  # end of image, or pixels without a frame header
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:  # no segment follows
            at += 1 if marker == 0xFF else 2
            continue
        if not (0xC0 <= marker <= 0xCF or marker == 0xF7) or marker in (0xC4, 0xC8, 0xCC):
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                turned = _orientation(data[at + 10 : end]) != 1
            at = end
            continue
        precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
        sampling = data[at + 11 : at + 10 + 3 * components : 3]  # one byte a component: horizontal, vertical factor
        if not height or not sampling or any(not byte >> 4 or not byte & 15 for byte in sampling):
            break
        scans = data.count(b"\xff\xda", at)
        # With more than one scan, libjpeg holds the coefficients of the whole film, 2 bytes each.
        cells = max(byte >> 4 for byte in sampling) * max(byte & 15 for byte in sampling)
        coefficients = 2 * sum((byte >> 4) * (byte & 15) for byte in sampling) / cells if scans > 1 else 0
        _check_bounds(height, width, height * width * (-(-precision // 8) + coefficients))
        if scans * height * width > MAX_SCANNED:
            raise FilmError("the JPEG has too many scans for its size")
        return _Jpeg(height, width, precision, components, marker, turned)
    raise FilmError("the JPEG is damaged: it has no frame header")


def _orientation(exif: bytes) -> int:
    """How a film lies, 1 to 8, by the first directory of its EXIF block (a TIFF, as Exif 2.32, 4.6.4 has it)."""
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    at = int.from_bytes(exif[4:8], order)
    for number in range(int.from_bytes(exif[at : at + 2], order)):
        entry = exif[at + 2 + 12 * number :][:12]
        if len(entry) < 12:
            break
        if int.from_bytes(entry[:2], order) == 0x0112:
            return int.from_bytes(entry[8:10], order)
    return 1


def _decode_jpeg(data: bytes, min_side: int) -> np.ndarray:
    header = _jpeg_header(data)
    shortest, factor = min(header.height, header.width), 1
    if min_side > 0:
        factor = next((factor for factor in (8, 4, 2) if shortest // factor >= min_side), 1)
    film, data = _jpeg_pixels(data, header, factor)
    if not header.turned and header.components != 4:
        return film
    # It is whole, as has just been seen, and OpenCV knows how to turn it and how inks make a grey.
    flags = {
        1: cv2.IMREAD_GRAYSCALE,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    return _imdecode(data, flags[factor], "JPEG")


def _jpeg_pixels(data: bytes, header: _Jpeg, factor: int = 1) -> tuple[np.ndarray, bytes]:
    """A film of 8 bits, reduced by `factor`, as it lies (inks, where there are four, as [H, W, 4]); and the JPEG that
    it was read from: `data`, or that without what no pixel hangs on.
    """
    if header.precision != 8:
        raise FilmError(f"the JPEG has {header.precision} bits a sample; only 8 are read")
    if header.frame > 0xC2:
        raise FilmError("the JPEG is lossless, hierarchical or arithmetic-coded, which is not read")

    def read(jpeg: bytes) -> np.ndarray:
        height, width = -(-header.height // factor), -(-header.width // factor)
        colours = "CMYK" if header.components == 4 else "GRAY"
        pixels = simplejpeg.decode_jpeg(jpeg, colours, min_factor=factor, min_height=height, min_width=width)
        return np.asarray(pixels if header.components == 4 else pixels[..., 0])

    try:
        return read(data), data
    except ValueError:  # whatever libjpeg complains of
        pass
    try:
        return read(mended := _without_oddities(data, header)), mended
    except ValueError:
        raise FilmError("the JPEG is damaged or cut short") from None


def _without_oddities(data: bytes, header: _Jpeg) -> bytes:
    """The same JPEG without what decoders complain of although no pixel hangs on it: bytes between its segments, zeros
    that fill up a scan, an end marker that is missing, and fields of the header for which libjpeg has an answer of its
    own (ITU-T T.81, B.2; JFIF 1.02).
    """
    mended, at = bytearray(b"\xff\xd8"), 2
    while (at := data.find(b"\xff", at)) >= 0:
        marker, end = data[at + 1 : at + 2], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == b"\xd9":
            break
        if marker in (b"\x00", b"\x01", b"\xff") or b"\xd0" <= marker <= b"\xd8":  # no segment
            at += 1 if marker == b"\xff" else 2
            continue
        segment = bytearray(data[at:end])
        if len(segment) < 4 or len(segment) < end - at:
            break
        if marker == b"\xe0" and segment[4:9] == b"JFIF\0" and len(segment) > 9:
            segment[9] = 1  # its version, where another is not known
        elif marker == b"\xee" and segment[4:9] == b"Adobe" and len(segment) > 15 and segment[15] > 2:
            segment[15] = 2 if header.components == 4 else 1  # the transform of colours
        at = end
        if marker == b"\xda":
            if header.frame != 0xC2:
                segment[-3:] = b"\x00\x3f\x00"
            while (end := data.find(b"\xff", end)) >= 0 and data[end + 1 : end + 2] in _IN_SCANS:
                end += 2
            end = len(data) if end < 0 else end
            scan = data[at:end]
            filled = len(scan) - len(scan.rstrip(b"\0"))
            segment += scan[: len(scan) - filled + 1] if filled else scan  # the first may belong to an \xff before it
            at = end
        mended += segment
    return bytes(mended + b"\xff\xd9")


_IN_SCANS = {b"\x00", *(bytes([0xD0 + number]) for number in range(8))}  # what follows an \xff there


def _decode_png(data: bytes) -> np.ndarray:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise FilmError("the PNG is damaged or cut short")
    data = _checked_png(data)
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    transparent = colour in (4, 6) or b"tRNS" in data[: max(data.find(b"IDAT"), 0)]
    _check_bounds(height, width, height * width * (4 if transparent or colour else 1) * (2 if depth == 16 else 1))
    if transparent:
        if b"eXIf" in data:
            raise FilmError("the PNG is both transparent and rotated by EXIF, which is not read")
        layers = _imdecode(data, cv2.IMREAD_UNCHANGED, "PNG")
        if layers.ndim == 3 and layers.shape[2] == 4:
            film = cv2.cvtColor(layers, cv2.COLOR_BGRA2GRAY)
            film = cv2.multiply(film, cv2.extractChannel(layers, 3), scale=1 / np.iinfo(layers.dtype).max)
        else:
            film = layers if layers.ndim == 2 else cv2.cvtColor(layers, cv2.COLOR_BGR2GRAY)
    else:
        film = _imdecode(data, cv2.IMREAD_ANYDEPTH, "PNG")  # grey, 8 or 16 bits
    return film if film.dtype == np.uint8 else _to_8_bit(film, np.arange(2**16))


def _checked_png(data: bytes) -> bytes:
    """The PNG with those chunks alone that make its pixels; libpng complains of others on the server's stderr."""
    at, kept = 8, [data[:8]]
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"):
            chunk = data[at : at + 12 + length]
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
                break
            kept.append(chunk)
            if name == b"IEND":
                return b"".join(kept)
        at += 12 + length
    raise FilmError("the PNG is damaged or cut short")


def _to_8_bit(codes_hw: np.ndarray, values: np.ndarray, padding: np.ndarray | None = None) -> np.ndarray:
    """Stretches a film's own grey values over 0 to 255.

    12-bit data in a 16-bit file would otherwise be nearly black. `TAIL` keeps a hot pixel from deciding the contrast.

    Args:
        codes_hw: uint8 or uint16 [H, W], as stored.
        values: [256 or 65536], the grey value that each code stands for, in any unit.
        padding: bool, likewise, whether a code stands for no picture: black, whatever its value.
    """
    counts = cv2.calcHist([codes_hw], [0], None, [len(values)], [0, len(values)]).ravel()
    if padding is not None:
        counts[padding] = 0
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order], dtype=np.float64)
    low, high = values[order[np.searchsorted(upto, (TAIL * upto[-1], (1 - TAIL) * upto[-1]))]]
    if not (low < high and upto[-1]):
        raise FilmError("the film holds no picture: it is one even grey")
    greys = np.rint((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)
    if padding is not None:
        greys[padding] = 0
    return cv2.LUT(codes_hw, greys)


# -------------------------------------------------------------------------------------------------------------- DICOM

_NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}
_RADIOGRAPHS = {"CR", "DX", "DR", "RG"}  # computed, digital (two codes) and scanned radiographs
_CHEST = ("CHEST", "THORAX", "TORAX", "LUNG")
_ABOUT = ("Modality", "BodyPartExamined", "ViewPosition", "PresentationLUTShape", "BurnedInAnnotation")
_LAYOUT = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration")
_BITS = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_GREYS: tuple[Any, ...] = (
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)


class _Meter(io.BytesIO):
    """Stops a header of millions of tiny or nested elements: each would become an object of some hundred bytes."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > 100_000:  # a film's header takes some hundreds
            raise FilmError("the DICOM header has too many elements")
        return super().read(size)


def warning_of(data: bytes) -> str:
    """What is doubtful about a film that `decode` has read, in a sentence; empty where nothing is.

    Doubtful is what only a DICOM says of itself: that it is another kind of image than a chest radiograph (it is read
    all the same if `any_dicom` asks for it), seen from another side than the front or the back, inverted once more
    when it is shown, or written on.
    """
    if kind(data[:1024]) != "DICOM":
        return ""
    header = _header(data, _ABOUT, "PhotometricInterpretation")
    words = {name: " ".join(_words(header, name)) for name in (*_ABOUT, "PhotometricInterpretation")}
    doubts = [_stranger(header)]
    if re.search(r"\bLAT|\b[LR]L\b|\b[LR]L[DO]\b|OBL|DECUB", words["ViewPosition"]):
        doubts.append("the film is not a frontal view, by its ViewPosition")
    if words["PresentationLUTShape"] == "INVERSE" and words["PhotometricInterpretation"] != "MONOCHROME1":
        doubts.append("its PresentationLUTShape asks viewers to invert it, which was not done")
    if words["BurnedInAnnotation"] == "YES":
        doubts.append("letters are burned into it, by its BurnedInAnnotation")
    return "; ".join(filter(None, doubts))


def _stranger(header: pydicom.Dataset) -> str:
    """Why a DICOM says that it is no radiograph of a chest; empty if it does not."""
    modality, part = _words(header, "Modality"), " ".join(_words(header, "BodyPartExamined"))
    if modality and not _RADIOGRAPHS.intersection(modality):
        return "the DICOM is not a plain radiograph: its Modality is none of CR, DX, DR, RG"
    if part and not any(word in part for word in _CHEST):
        return "the DICOM is not of a chest, by its BodyPartExamined"
    return ""


def _decode_dicom(data: bytes, any_dicom: bool) -> np.ndarray:
    try:
        return _read_dicom(data, any_dicom)
    except FilmError:
        raise
    # pydicom raises a dozen kinds for damaged files, AttributeError and RecursionError among them.
    except Exception:
        logger.debug("DICOM not read", exc_info=True)
        raise FilmError("the DICOM is damaged, or lacks an element that its pixels need") from None


def _header(data: bytes, *names: tuple[str, ...] | str, pixels: bool = False) -> pydicom.Dataset:
    """The elements called `names` that hold something, with or without the pixels; also of a DICOM without preamble,
    file meta information or transfer syntax.

    Raises:
        FilmError: an element cannot be read, or there are too many.
    """
    if data[:4] == b"DICM":
        data = bytes(128) + data
    file = _Meter(data)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:  # pydicom would inflate it before any check
        raise FilmError("the DICOM is deflated, which is not read")
    wanted: list[Any] = [name for group in names for name in ([group] if isinstance(group, str) else group)]
    header = pydicom.dcmread(
        _Meter(data),
        specific_tags=[*wanted, "PixelData"] if pixels else wanted,
        stop_before_pixels=not pixels,
        force=True,
    )
    for tag in list(header.keys()):
        try:
            element = header[tag]
        except FilmError:
            raise
        except Exception:  # such as a number that is none
            name = pydicom.datadict.keyword_for_tag(tag)
            if name in _ABOUT:
                del header[tag]
                continue
            raise FilmError(f"the DICOM's {name or 'header'} cannot be read") from None
        if element.is_empty:
            del header[tag]
    return header


def _words(header: pydicom.Dataset, name: str) -> list[str]:
    value = header.get(name)
    words = (str(word).strip().upper() for word in (value if isinstance(value, MultiValue) else [value or ""]))
    return [word for word in words if word]


def _number(header: pydicom.Dataset, name: str, default: int | None = None) -> int:
    value = header.get(name, default)
    if value is None:
        raise FilmError(f"the DICOM has no {name}")
    try:
        return int(value)
    except (TypeError, ValueError):
        raise FilmError(f"the DICOM's {name} is no whole number") from None


def _read_dicom(data: bytes, any_dicom: bool) -> np.ndarray:
    film = _header(data, _ABOUT, _LAYOUT, _BITS, _GREYS, pixels=True)
    if "PixelData" not in film:  # compressed frames may lack the mark that ends them, which pydicom looks for
        film = _header(data + b"\xfe\xff\xdd\xe0\0\0\0\0", _ABOUT, _LAYOUT, _BITS, _GREYS, pixels=True)
    if (reason := _stranger(film)) and not any_dicom:
        raise FilmError(f"{reason} (any_dicom reads it all the same)")
    if _number(film, "NumberOfFrames", 1) > 1:
        raise FilmError("the DICOM has more than one frame, by its NumberOfFrames")
    if "PixelData" not in film:
        raise FilmError("the DICOM has no PixelData")
    photometric, samples = " ".join(_words(film, "PhotometricInterpretation")), _number(film, "SamplesPerPixel", 1)
    grey = samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    if not grey and not (samples == 3 and photometric in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")):
        raise FilmError("the DICOM's PhotometricInterpretation is missing, a palette, or of a kind that is not read")
    allocated = _number(film, "BitsAllocated")
    stored = _number(film, "BitsStored", _number(film, "HighBit", allocated - 1) + 1)
    high = _number(film, "HighBit", stored - 1)
    signed = _number(film, "PixelRepresentation", 0) == 1
    if allocated not in (8, 16):
        raise FilmError("the DICOM's BitsAllocated is neither 8 nor 16")
    if not 1 <= stored <= high + 1 <= allocated:
        raise FilmError("the DICOM's BitsStored and HighBit do not fit into its BitsAllocated")
    if not grey and allocated != 8:
        raise FilmError("the DICOM has colours of more than 8 bits (BitsAllocated), which are not read")
    height, width = _number(film, "Rows"), _number(film, "Columns")
    _check_bounds(height, width, height * width * samples * allocated // 8)

    film.PhotometricInterpretation, film.SamplesPerPixel, film.BitsAllocated = photometric, samples, allocated
    film.BitsStored, film.HighBit, film.PixelRepresentation = stored, high, int(signed)
    if film["PixelData"].is_undefined_length:
        codes = _frame(film, height, width, samples, allocated // 8)
    else:
        syntax = str(film.file_meta.get("TransferSyntaxUID", "")).strip() or None
        if syntax is not None and syntax not in _NATIVE:
            raise FilmError("the DICOM's PixelData is not stored as its TransferSyntaxUID says")
        if syntax is None:  # as pydicom found it to be
            implicit, little = film.original_encoding
            film.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            )
        if photometric != "YBR_FULL_422" and len(film.PixelData) < height * width * samples * allocated // 8:
            raise FilmError("the DICOM's PixelData holds fewer bytes than its Rows and Columns take")
        codes = pixel_array(film, index=0, raw=True)
    if codes.ndim == 3:
        codes = cv2.cvtColor(codes, cv2.COLOR_RGB2GRAY) if photometric == "RGB" else cv2.extractChannel(codes, 0)
    if not grey:
        return codes
    # Whatever turns a stored value into a grey depends on that value alone: do it once for each possible value.
    codes = codes.astype(f"u{codes.dtype.itemsize}", copy=False)  # signed or big-endian before
    values = np.arange(2 ** (8 * codes.dtype.itemsize))
    values = (values >> (high + 1 - stored)) & (2**stored - 1)  # without overlays in the other bits
    if signed:  # two's complement
        values = np.where(values < 2 ** (stored - 1), values, values - 2**stored)
    padding = None
    if "PixelPaddingValue" in film:
        first = _number(film, "PixelPaddingValue")
        last = _number(film, "PixelPaddingRangeLimit", first)
        padding = (min(first, last) <= values) & (values <= max(first, last))
    _complete_greys(film)
    values = apply_modality_lut(values, film)
    if "VOILUTSequence" in film:
        values = np.rint(values).astype(np.int64)
    values = apply_voi_lut(values, film)
    return _to_8_bit(codes, -values.astype(np.float64) if photometric == "MONOCHROME1" else values, padding)


def _complete_greys(film: pydicom.Dataset) -> None:
    """What turns stored values into greys, made to be as the standard asks (PS3.3, C.11.1 and C.11.2), which pydicom
    takes for granted: half of a rescale, a slope or a window of 0 and a vendor's word for a function say nothing.
    """
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if name not in film:
            continue
        try:
            whole = _complete_table(film[name].value[0])
        except (TypeError, ValueError):
            raise FilmError(f"the DICOM's {name} cannot be read") from None
        if not whole:
            del film[name]
    if "RescaleSlope" in film or "RescaleIntercept" in film:
        film.RescaleSlope = _decimal(film, "RescaleSlope", 1) or 1.0
        film.RescaleIntercept = _decimal(film, "RescaleIntercept", 0)
    if not {"LINEAR", "LINEAR_EXACT", "SIGMOID"}.intersection(_words(film, "VOILUTFunction")):
        film.VOILUTFunction = "LINEAR"
    least = 1 if film.VOILUTFunction == "LINEAR" else 1e-9
    for centre, width in zip(_numbers(film, "WindowCenter"), _numbers(film, "WindowWidth"), strict=False):
        if math.isfinite(centre) and math.isfinite(width) and width >= least:
            film.WindowCenter, film.WindowWidth = centre, width
            return
    for name in ("WindowCenter", "WindowWidth"):
        film.pop(name, None)


def _numbers(header: pydicom.Dataset, name: str) -> list[float]:
    """The element's values, NaN for each that is no number."""
    value: Any = header.get(name, [])
    found = []
    for text in value if isinstance(value, MultiValue | list) else [value]:
        try:
            found.append(float(text))
        except (TypeError, ValueError):
            found.append(math.nan)
    return found


def _decimal(header: pydicom.Dataset, name: str, default: float) -> float:
    number = next(iter(_numbers(header, name)), default)
    if not math.isfinite(number):
        raise FilmError(f"the DICOM's {name} is no number")
    return number


def _complete_table(item: pydicom.Dataset) -> bool:
    """Makes a look-up table's data what its descriptor says, in entries and in one of the depths that pydicom knows;
    whether there is one.
    """
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None:
        return False
    entries, first, depth = item.LUTDescriptor
    data: Any = item.LUTData
    entries = entries or 2**16
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        data = np.frombuffer(data[: entries * (1 + wide)], "<u2" if wide else "u1").tolist()
    data = [int(value) for value in data][:entries]
    item.add_new("LUTData", "US", data)
    item.LUTDescriptor = [len(data) % 2**16, first, 8 if depth == 8 and max(data) < 256 else 16]
    return bool(data)


def _frame(film: pydicom.Dataset, height: int, width: int, samples: int, sample_bytes: int) -> np.ndarray:
    """The codes of a film's only compressed frame, [H, W] or [H, W, samples]. Told by content, as viewers do, for the
    transfer syntax is not always there, or right.
    """
    frame = get_frame(film.PixelData, 0, number_of_frames=1)
    if frame[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":  # the file format around a codestream
        frame = frame[max(frame.find(b"\xff\x4f\xff\x51"), 0) :]
    if film.file_meta.get("TransferSyntaxUID") == RLELossless:
        return _unpack_rle(frame, height, width, samples, sample_bytes)
    if frame[:2] == b"\xff\xd8":
        header = _jpeg_header(frame)
        shape, layers = (header.height, header.width), header.components
    elif frame[:4] == b"\xff\x4f\xff\x51":
        shape, layers = _jpeg_2000_shape(frame)
    else:
        syntax = film.file_meta.get("TransferSyntaxUID", "")
        name = (
            getattr(syntax, "name", "") if getattr(syntax, "name", "") != str(syntax) else "an unknown transfer syntax"
        )
        raise FilmError(f"the DICOM's pixels are stored as {name or 'an unknown transfer syntax'}, which is not read")
    if shape != (height, width) or layers != samples:
        raise FilmError("the DICOM's pixels have another size than its Rows, Columns and SamplesPerPixel say")
    if frame[:2] == b"\xff\xd8" and header.frame in (0xC3, 0xF7):
        if header.precision > 8 * sample_bytes:
            raise FilmError("the DICOM's compressed pixels have more bits than its BitsAllocated says")
        _check_bounds(height, width, 4 * height * width * samples * sample_bytes)  # GDCM takes 6, and 3 are held here
        return _lossless(frame, header)
    if film.PixelRepresentation == 1:
        raise FilmError("the DICOM's compressed pixels are signed (PixelRepresentation), which is not read")
    if frame[:2] == b"\xff\xd8":
        return _jpeg_pixels(frame, header)[0]
    _check_bounds(height, width, 4 * height * width * samples)  # OpenJPEG holds 4 bytes a sample
    return _imdecode(frame, cv2.IMREAD_ANYDEPTH, "DICOM's compressed image")


# GDCM ends the whole process at some damaged frames, so each is decoded in a process of its own: 0.05 s. What is
# imported here is what `import gdcm` wraps, without 0.1 s for a dictionary of DICOM's tables.
_GDCM = """
import json, sys
from _gdcm import gdcmswig as gdcm
asked = json.loads(sys.stdin.buffer.readline())
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
except ImportError:  # Windows has none
    pass
fragment, fragments, element = gdcm.Fragment(), gdcm.SequenceOfFragments.New(), gdcm.DataElement(gdcm.Tag(0x7FE0, 16))
fragment.SetByteStringValue(sys.stdin.buffer.read())
fragments.AddFragment(fragment)
element.SetValue(fragments.__ref__())
image = gdcm.Image()
image.SetNumberOfDimensions(2)
image.SetDimensions((asked["width"], asked["height"], 1))
image.SetDataElement(element)
kind = gdcm.PhotometricInterpretation.GetPIType("RGB" if asked["samples"] > 1 else "MONOCHROME2")
image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(asked["syntax"])))
bits = asked["bits"]
image.SetPixelFormat(gdcm.PixelFormat(asked["samples"], 8 if bits <= 8 else 16, bits, bits - 1, 0))
sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))
"""


def _lossless(frame: bytes, header: _Jpeg) -> np.ndarray:
    """JPEG Lossless and JPEG-LS by GDCM, which hides what is damaged in the first: [H, W] or [H, W, samples]."""
    height, width, samples, bits = header.height, header.width, header.components, header.precision
    dtype = np.dtype("u1" if bits <= 8 else "<u2")
    asked = {
        **{"width": width, "height": height, "samples": samples, "bits": bits},
        "syntax": JPEGLosslessSV1 if header.frame == 0xC3 else JPEGLSLossless,
        "memory": 3 * MAX_DECODED,
    }
    if find_spec("_gdcm") is None:
        raise FilmError("the DICOM's lossless compression takes python-gdcm to read, which is not installed")
    if header.frame == 0xC3 and samples > 1:  # nothing would tell whether it is damaged
        raise FilmError("the DICOM's lossless JPEG is in colour, which is not read")
    shape = (height, width) if samples == 1 else (height, width, samples)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _GDCM],
            input=json.dumps(asked).encode() + b"\n" + frame + b"\0" * (len(frame) % 2),
            capture_output=True,
            timeout=MAX_SECONDS,
            check=True,
        )
        codes = np.frombuffer(done.stdout, dtype).reshape(shape)
    except (subprocess.SubprocessError, ValueError):
        codes = None
    if codes is None or (header.frame == 0xC3 and not _whole_lossless(frame, codes, bits)):
        raise FilmError("the DICOM's compressed image is damaged or cut short")
    return codes


def _whole_lossless(frame: bytes, codes: np.ndarray, precision: int) -> bool:
    """Whether a lossless JPEG of one component holds as many bits as its pixels [H, W] take (ITU-T T.81, annex H): of a
    damaged one a decoder needs more, which it invents, or fewer.
    """
    at, restart = 2, 0
    lengths: dict[int, dict[int, int]] = {}  # of the codes in bits, by table and category
    while frame[at + 1] != 0xDA:
        marker, end = frame[at + 1], at + 2 + int.from_bytes(frame[at + 2 : at + 4])
        if marker == 0xDD:
            restart = int.from_bytes(frame[at + 4 : at + 6])
        while marker == 0xC4 and at + 4 < end:
            counts = frame[at + 5 : at + 21]
            categories = iter(frame[at + 21 : at + 21 + sum(counts)])
            lengths[frame[at + 4]] = {next(categories): n for n, count in enumerate(counts, 1) for _ in range(count)}
            at += 17 + sum(counts)
        at = end
    table, predictor, shift = frame[at + 6] >> 4, frame[at + 7], frame[at + 9] & 15
    start = end = at + 2 + int.from_bytes(frame[at + 2 : at + 4])
    while (end := frame.find(b"\xff", end)) >= 0 and frame[end + 1 : end + 2] in _IN_SCANS:
        end += 2
    scan = frame[start : end if end >= 0 else len(frame)]
    marks = scan.count(b"\xff") - scan.count(b"\xff\0")

    height, width = codes.shape
    rows = restart // width or height  # between two restarts
    bits = np.array([lengths[table].get(n, 1 << 40) + n % 16 for n in range(17)])  # category 16 has no bits of its own
    taken = []
    for top in range(0, height, 64):  # in bands, to take little memory
        x = codes[max(top - 1, 0) : top + 64].astype(np.int32) >> shift
        expected = np.zeros_like(x)
        left, above, corner = x[1:, :-1], x[:-1, 1:], x[:-1, :-1]
        choices = [left, above, corner, left + above - corner, left + ((above - corner) >> 1)]
        choices += [above + ((left - corner) >> 1), (left + above) >> 1]
        expected[1:, 0], expected[1:, 1:] = x[:-1, 0], choices[predictor - 1]
        fresh = [row for row in range(len(x)) if (row + max(top - 1, 0)) % rows == 0]
        expected[fresh, 1:], expected[fresh, 0] = x[fresh, :-1], 1 << (precision - shift - 1)
        difference = np.abs(((x - expected + 2**15) & (2**16 - 1)) - 2**15)[min(top, 1) :]
        taken.append(bits[np.frexp(difference)[1]].sum(axis=1))
    needed = int((-(-np.add.reduceat(np.concatenate(taken), np.arange(0, height, rows)) // 8)).sum())
    spare = len(scan) - scan.count(b"\xff\0") - 2 * marks - needed
    return spare == 0 or (spare > 0 and not scan[-spare:].strip(b"\0"))


def _jpeg_2000_shape(frame: bytes) -> tuple[tuple[int, int], int]:
    """(Height, width) and samples a pixel by the codestream's SIZ segment (ISO 15444-1, A.5.1)."""
    if len(frame) < 42:
        raise FilmError("the DICOM's JPEG 2000 codestream is damaged")
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    return (bottom - top, right - left), int.from_bytes(frame[40:42])


def _unpack_rle(frame: bytes, height: int, width: int, samples: int, sample_bytes: int) -> np.ndarray:
    """PackBits by byte planes, highest byte first (DICOM PS3.5, annex G), never longer than the film.

    Returns:
        uint8 or uint16 [H, W], or uint8 [H, W, samples].
    """
    pixels, planes = height * width, samples * sample_bytes
    count, *offsets = struct.unpack_from("<16L", frame)
    if count != planes:
        raise FilmError("the DICOM's RLE segments do not match its samples")
    unpacked = np.empty((planes, pixels), np.uint8)
    for plane, start, end in zip(range(planes), offsets, [*offsets[1:planes], len(frame)], strict=False):
        segment, values, at = frame[start:end], bytearray(), 0
        while at < len(segment) and len(values) < pixels:
            code = segment[at]
            if code < 128:
                values += segment[at + 1 : at + 2 + code]
                at += code + 2
            else:  # 128 means nothing
                values += segment[at + 1 : at + 2] * (257 - code) if code > 128 else b""
                at += 2 if code > 128 else 1
        if len(values) < pixels:
            raise FilmError("the DICOM's RLE pixels are cut short")
        unpacked[plane] = np.frombuffer(values, np.uint8, pixels)
    if samples > 1:
        return np.ascontiguousarray(unpacked.T).reshape(height, width, samples)
    return np.ascontiguousarray(unpacked.T).view(f">u{sample_bytes}").astype(f"u{sample_bytes}").reshape(height, width)


# ------------------------------------------------------------------------------------------------ film to probability


class Predictor:
    """A package folder (`package.write`) that scores films; safe to call from several threads.

    Films go through the network one at a time: on one thread a batch is no faster (1.9 ms a film either way at 96 px,
    width 24), and kernels may round otherwise for another batch, so a film's result never depends on its company.
    """

    def __init__(self, folder: Path) -> None:
        """Loads `folder`.

        Raises:
            ValueError: the package is of another format, or was made with another reading of films.
            OSError: a file of the package is missing.
        """
        settings = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        for key, ours in (("format", FORMAT), ("decode_version", DECODE_VERSION)):
            if settings[key] != ours:
                raise ValueError(f"the package has {key} {settings[key]}, but this code reads {ours}: use its own code")
        self.size: int = settings["size"]
        self.classes: tuple[str, str] = tuple(settings["classes"])  # negative, positive
        self.threshold: float = settings["threshold"]
        self.slope: float = settings["calibration"]["slope"]
        self.intercept: float = settings["calibration"]["intercept"]
        self._session = session((folder / "model.onnx").read_bytes())

    def logits(self, films: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] to float64 [N], uncalibrated; the mean of the film's and its mirror image's."""
        return np.array([self.look(film)[0] for film in films], np.float64)

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of the positive class for logits of any shape, by Platt's sigmoid (1999), float64."""
        return 1 / (1 + np.exp(-np.clip(self.slope * logits + self.intercept, -500, 500)))

    def probabilities(self, films: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] to float64 [N]: calibrated, of the positive class."""
        return self.calibrate(self.logits(films))

    def heatmap(self, film_hw: np.ndarray) -> bytes:
        """The class-activation map (Zhou et al. 2016) over the film, as a PNG in the film's aspect.

        Colour grows with the probability that a cell of the last feature maps would give on its own (the mean of the
        cells is the film's logit), on one scale for all films; where it is near zero the film stays grey.

        Args:
            film_hw: uint8 [H, W] from `decode`, at any scale.
        """
        heat = self.calibrate(self.look(stretch(film_hw, self.size))[1])
        scale = min(1.0, HEATMAP_SIDE / max(film_hw.shape))
        width, height = (max(1, round(side * scale)) for side in film_hw.shape[::-1])
        film_hw = cv2.resize(film_hw, (width, height), interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".png", overlay(film_hw, heat))[1])

    def look(self, film: np.ndarray) -> tuple[float, np.ndarray]:
        """Logit and class-activation map float32 [h, w] of one uint8 [S, S]: means over it and its mirror image."""
        pair = standardise(np.stack((film, film[:, ::-1])))
        logits, maps = self._session.run(["logit", "cam"], {"films": pair})
        return (float(logits[0]) + float(logits[1])) / 2, (maps[0] + maps[1][:, ::-1]) / 2


def overlay(film_hw: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A film uint8 [H, W] with the probabilities of a map's cells float [h, w] over it in colour: uint8 [H, W, 3]."""
    heat = cv2.resize(heat, film_hw.shape[::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = 0.6 * heat[..., np.newaxis]
    return np.asarray(np.rint((1 - weight) * film_hw[..., np.newaxis] + weight * colours), np.uint8)


def session(model: bytes) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on one thread of the CPU: servers and workers bring their own parallelism."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# ------------------------------------------------------------------------------------------------------ served model


class RequestError(MlflowException):
    """What the client gets, whole: HTTP 400 (500 for an internal error) and one sentence.

    MLflow prepends the request's data to `message` and would send that; `serialize_as_json` is what it sends.
    """

    def __init__(self, sentence: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(sentence, error_code=error_code)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class ServedModel(PythonModel):
    """A table with a column `image` (base64 text or bytes of one film a record) to a table of predictions."""

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = Predictor(Path(context.artifacts["package"]))

    def predict(  # type: ignore[override]  # MLflow lets `context` be left out
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Scores films.

        Args:
            model_input: column `image`, at most `MAX_RECORDS` rows.
            params: `explain` adds a column `heatmap` (base64 PNG), for at most `MAX_EXPLAINED` rows; `any_dicom` reads
                DICOMs that say that they are no chest radiographs.

        Returns:
            Columns `probability` (of the positive class), `label`, `threshold` and `warning` (see `warning_of`), in the
            order of the records.

        Raises:
            RequestError: one sentence; records count from 0.
        """
        try:
            given = params or {}
            return self._predict(model_input, bool(given.get("explain")), bool(given.get("any_dicom")))
        except RequestError:
            raise
        except Exception:  # the client must not see what an unforeseen error holds; the log does
            logger.exception("prediction failed")
            raise RequestError("the model failed on this request; the server's log says why", INTERNAL_ERROR) from None

    def _predict(self, table: pd.DataFrame, explain: bool, any_dicom: bool) -> pd.DataFrame:
        images = table.get("image")
        if not isinstance(images, pd.Series):  # MLflow drops other columns, and with them the count of the records
            raise RequestError("the request has no records with a column 'image'")
        if len(images) == 1 and isinstance(images.iloc[0], list | np.ndarray):
            # MLflow makes one record of all that stands in a plain list, {"inputs": [film, film]} or nested.
            images = pd.Series(np.array(images.iloc[0], dtype=object).ravel(), dtype=object)
        if not 1 <= len(images) <= MAX_RECORDS:
            raise RequestError(f"a request must hold 1 to {MAX_RECORDS} records, not {len(images)}")
        if explain and len(images) > MAX_EXPLAINED:
            raise RequestError(f"with explain a request may hold {MAX_EXPLAINED} records, not {len(images)}")
        model, logits, warnings, heatmaps = self.predictor, [], [], []
        for record, image in enumerate(images):
            try:
                data = _bytes_of(image)
                film = decode(data, min_side=_min_side(model.size), any_dicom=any_dicom)
                warnings.append(warning_of(data))
            except FilmError as error:
                raise RequestError(f"record {record}: {error}") from None
            logits.append(model.logits(stretch(film, model.size)[np.newaxis])[0])
            if explain:
                heatmaps.append(base64.b64encode(model.heatmap(film)).decode("ascii"))
        probabilities = model.calibrate(np.array(logits))
        columns = {
            "probability": probabilities,
            "label": [model.classes[int(probability >= model.threshold)] for probability in probabilities],
            "threshold": model.threshold,
            "warning": warnings,
        }
        return pd.DataFrame({**columns, "heatmap": heatmaps} if explain else columns)


def _bytes_of(image: object) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if image is None or image is pd.NA or (isinstance(image, float) and math.isnan(image)):
        raise FilmError("the image is missing")
    if isinstance(image, list | np.ndarray) and len(image) == 1:
        return _bytes_of(image[0])
    if not isinstance(image, str):
        several = isinstance(image, list | np.ndarray)
        raise FilmError("the image is a list: give each film a record" if several else "the image must be base64 text")
    if len(image) > MAX_BYTES * 4 / 3 + 4:
        raise FilmError(f"the film is larger than {MAX_BYTES >> 20} MiB")
    # Line breaks, as MIME and the command base64 make them, and what browsers put before it (RFC 2045, RFC 2397).
    if image[:5] == "data:":
        image = re.sub(r"^data:[^,]{0,200};base64,", "", image, count=1)
    for text in (image, "".join(image.split())):
        with suppress(ValueError):  # binascii.Error, or letters outside ASCII
            return binascii.a2b_base64(text, strict_mode=True)
    raise FilmError("the image is not base64 (a path or URL is not read)")


# MLflow runs this file as a module of its own, in no package; as `pneumonia.served` it is only a library.
if __package__ != "pneumonia":
    mlflow.models.set_model(ServedModel())
