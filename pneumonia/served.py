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
import struct
from pathlib import Path
from typing import Any

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
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE  # noqa: E402
from mlflow.pyfunc.model import PythonModel, PythonModelContext  # noqa: E402
from pydicom.encaps import get_frame  # noqa: E402
from pydicom.filereader import read_dataset, read_preamble  # noqa: E402
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut  # noqa: E402
from pydicom.pixels.utils import pixel_array  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

logger = logging.getLogger(__name__)

DECODE_VERSION = 3  # raise it when the same bytes come to give other grey values: caches and packages are keyed by it
FORMAT = 1  # of package.json
MIN_SIDE = 16  # pixels
MAX_BYTES = 128 * 2**20  # of one film as it is sent
MAX_DECODED = 256 * 2**20  # bytes of the largest buffer that a decoder may need for one film
MAX_SCANNED = 1_000_000_000  # pixels times scans of a JPEG: a thousand scans of a large film would take minutes
MAX_RECORDS = 1_000  # films in one request
MAX_EXPLAINED = 64  # films in one request with a heat map each, which weighs some 200 KB
CANONICAL = 224  # side in pixels that larger films are stretched to on the way to the model's size
TAIL = 0.0005  # share of pixels at either end that may saturate when deep films become 8-bit
HEATMAP_SIDE = 512  # pixels, the longer side


class FilmError(ValueError):
    """Bytes that are not a film that can be read. The message is one short sentence and holds nothing of the input."""


# ---------------------------------------------------------------------------------------------------- bytes to film


def decode(data: bytes, *, min_side: int = 0) -> np.ndarray:
    """Reads a JPEG, PNG or single-frame DICOM film.

    Dimensions are read from the header and checked before anything is decoded: no input needs more than 3 times
    `MAX_DECODED` of memory (the largest JPEG, PNG and DICOM films that pass took up to 470 MB). Films of more than 8
    bits are stretched to 8 by their own grey values (a DICOM's rescale, window and inversion first). Transparent PNGs
    are laid on black, EXIF rotation is applied.

    Args:
        data: the file's content.
        min_side: if positive, a JPEG may come out reduced by 2, 4 or 8 while both sides stay at least this (pixels).

    Returns:
        uint8 [H, W], 0 is black.

    Raises:
        FilmError: the bytes are no such film, are damaged, or break a bound.
    """
    if len(data) > MAX_BYTES:
        raise FilmError(f"the film is larger than {MAX_BYTES >> 20} MiB")
    if data[:3] == b"\xff\xd8\xff":
        film = _decode_jpeg(data, min_side)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        film = _decode_png(data)
    elif data[128:132] == b"DICM":
        film = _decode_dicom(data)
    else:
        raise FilmError(_name_the_stranger(data))
    # X-ray films vary by tens of grey levels; a blank page, or all black, would be scored like a film.
    if cv2.meanStdDev(film)[1].item() < 1.0:
        raise FilmError("the film holds no picture: it is one even grey")
    return film


def read_film(data: bytes, size: int) -> np.ndarray:
    """Reads a film for the network: `decode`, then `stretch`.

    Returns:
        uint8 [size, size].

    Raises:
        FilmError: as `decode`.
    """
    return stretch(decode(data, min_side=_min_side(size)), size)


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


def _jpeg_shape(data: bytes) -> tuple[int, int]:
    """Height and width by the frame header, before EXIF rotation; refuses what breaks a bound."""
    at = 2
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
        if not 0xC0 <= marker <= 0xCF or marker in (0xC4, 0xC8, 0xCC):
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
            continue
        precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
        if precision != 8:
            raise FilmError(f"the JPEG has {precision} bits a sample; only 8 are read")
        if marker > 0xC2:
            raise FilmError("the JPEG is lossless, hierarchical or arithmetic-coded, which is not read")
        sampling = data[at + 11 : at + 10 + 3 * components : 3]  # one byte a component: horizontal, vertical factor
        if not height or not sampling or any(not byte >> 4 or not byte & 15 for byte in sampling):
            break
        scans = data.count(b"\xff\xda", at)
        # With more than one scan, libjpeg holds the coefficients of the whole film, 2 bytes each.
        cells = max(byte >> 4 for byte in sampling) * max(byte & 15 for byte in sampling)
        coefficients = 2 * sum((byte >> 4) * (byte & 15) for byte in sampling) / cells if scans > 1 else 0
        _check_bounds(height, width, height * width * (1 + coefficients))
        if scans * height * width > MAX_SCANNED:
            raise FilmError("the JPEG has too many scans for its size")
        return height, width
    raise FilmError("the JPEG is damaged: it has no frame header")


def _decode_jpeg(data: bytes, min_side: int) -> np.ndarray:
    shortest = min(_jpeg_shape(data))
    flags = cv2.IMREAD_GRAYSCALE
    if min_side > 0:
        for factor, reduced in (
            (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
            (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
            (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
        ):
            if shortest // factor >= min_side:
                flags = reduced
                break
    return _imdecode(data, flags, "JPEG")


def _decode_png(data: bytes) -> np.ndarray:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise FilmError("the PNG is damaged or cut short")
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
_JPEG = {JPEGBaseline8Bit, JPEGExtended12Bit}
_JPEG_2000 = {JPEG2000Lossless, JPEG2000}
_RADIOGRAPHS = {"CR", "DX", "DR", "RG"}  # computed, digital (two codes) and scanned radiographs
_CHEST = ("CHEST", "THORAX", "TORAX", "LUNG")
_TAGS: list[Any] = [
    *("Modality", "BodyPartExamined", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PixelData"),
]


class _Meter(io.BytesIO):
    """Stops a header of millions of tiny or nested elements: each would become an object of some hundred bytes."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > 100_000:  # a film's header takes some hundreds
            raise FilmError("the DICOM header has too many elements")
        return super().read(size)


def _decode_dicom(data: bytes) -> np.ndarray:
    try:
        return _read_dicom(data)
    except FilmError:
        raise
    # pydicom raises a dozen kinds for damaged files, AttributeError and RecursionError among them.
    except Exception:
        logger.debug("DICOM not read", exc_info=True)
        raise FilmError("the DICOM is damaged, or lacks an element that its pixels need") from None


def _read_dicom(data: bytes) -> np.ndarray:
    file = _Meter(data)
    read_preamble(file, force=False)
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    syntax = meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would inflate it whole before any check
        raise FilmError("the DICOM is deflated, which is not read")
    if syntax not in _NATIVE | _JPEG | _JPEG_2000 | {RLELossless}:
        name = syntax.name if syntax.name != str(syntax) else "an unknown transfer syntax"
        raise FilmError(f"the DICOM's pixels are stored as {name}, which is not read")
    film = pydicom.dcmread(_Meter(data), specific_tags=_TAGS)
    if film.get("Modality") and film.Modality not in _RADIOGRAPHS:
        raise FilmError("the DICOM is not a plain radiograph: its modality is none of CR, DX, DR, RG")
    if film.get("BodyPartExamined") and not any(part in str(film.BodyPartExamined).upper() for part in _CHEST):
        raise FilmError("the DICOM is not of a chest, by its body part examined")
    if int(film.get("NumberOfFrames") or 1) != 1:
        raise FilmError("the DICOM has more than one frame")
    if not film.get("PixelData"):
        raise FilmError("the DICOM has no pixel data")
    photometric, samples, allocated = film.PhotometricInterpretation, film.SamplesPerPixel, film.BitsAllocated
    grey = samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    if not grey and not (samples == 3 and photometric in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")):
        raise FilmError("the DICOM's colours are a palette, or of a kind that is not read")
    if allocated not in (8, 16) or not 1 <= film.BitsStored <= allocated or film.HighBit != film.BitsStored - 1:
        raise FilmError("the DICOM's bits are laid out in a way that is not read")
    if not grey and allocated != 8:
        raise FilmError("the DICOM has colours of more than 8 bits, which are not read")
    if film.PixelRepresentation == 1 and syntax in _JPEG | _JPEG_2000:
        raise FilmError("the DICOM's compressed pixels are signed, which is not read")
    height, width = film.Rows, film.Columns
    # OpenJPEG holds 4 bytes a sample.
    _check_bounds(height, width, height * width * samples * (4 if syntax in _JPEG_2000 else allocated // 8))

    if syntax in _NATIVE:
        codes = pixel_array(film, index=0, raw=True)
    elif syntax == RLELossless:
        codes = _unpack_rle(get_frame(film.PixelData, 0, number_of_frames=1), height, width, samples, allocated // 8)
    else:
        frame = get_frame(film.PixelData, 0, number_of_frames=1)
        shape = _jpeg_shape(frame) if syntax in _JPEG else _jpeg_2000_shape(frame, samples)
        if shape != (height, width):
            raise FilmError("the DICOM's pixels have another size than its header says")
        codes = _imdecode(frame, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION, "DICOM's compressed image")
    if codes.ndim == 3:
        codes = cv2.cvtColor(codes, cv2.COLOR_RGB2GRAY) if photometric == "RGB" else cv2.extractChannel(codes, 0)
    if not grey:
        return codes
    # Whatever turns a stored value into a grey depends on that value alone: do it once for each possible value.
    codes = codes.astype(f"u{codes.dtype.itemsize}", copy=False)  # signed or big-endian before
    values = np.arange(2 ** (8 * codes.dtype.itemsize)) & (2**film.BitsStored - 1)  # without overlays in the high bits
    if film.PixelRepresentation == 1:  # two's complement
        values = np.where(values < 2 ** (film.BitsStored - 1), values, values - 2**film.BitsStored)
    padding = None
    if (first := film.get("PixelPaddingValue")) is not None:
        last = film.get("PixelPaddingRangeLimit", first)
        padding = (min(first, last) <= values) & (values <= max(first, last))
    values = apply_modality_lut(values, film)
    if "VOILUTSequence" in film:
        values = np.rint(values).astype(np.int64)
    values = apply_voi_lut(values, film)
    return _to_8_bit(codes, -values.astype(np.float64) if photometric == "MONOCHROME1" else values, padding)


def _jpeg_2000_shape(frame: bytes, samples: int) -> tuple[int, int]:
    """Height and width by the codestream's SIZ segment (ISO 15444-1, A.5.1)."""
    if frame[:4] != b"\xff\x4f\xff\x51" or len(frame) < 42:
        raise FilmError("the DICOM's JPEG 2000 codestream is damaged")
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    if int.from_bytes(frame[40:42]) != samples:
        raise FilmError("the DICOM's pixels have other samples than its header says")
    return bottom - top, right - left


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
        self.flip: bool = settings["flip"]
        self._session = session((folder / "model.onnx").read_bytes())

    def logits(self, films: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] to float64 [N], uncalibrated; the mean of the film's and its mirror's with `flip`."""
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
        """Logit and class-activation map float32 [h, w] of one uint8 [S, S]."""
        pair = standardise(np.stack((film, film[:, ::-1])) if self.flip else film[np.newaxis])
        logits, maps = self._session.run(["logit", "cam"], {"films": pair})
        if not self.flip:
            return float(logits[0]), maps[0]
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
            params: `explain` adds a column `heatmap` (base64 PNG), for at most `MAX_EXPLAINED` rows.

        Returns:
            Columns `probability` (of the positive class), `label`, `threshold`, in the order of the records.

        Raises:
            RequestError: one sentence; records count from 0.
        """
        try:
            return self._predict(model_input, explain=bool((params or {}).get("explain")))
        except RequestError:
            raise
        except Exception:  # the client must not see what an unforeseen error holds; the log does
            logger.exception("prediction failed")
            raise RequestError("the model failed on this request; the server's log says why", INTERNAL_ERROR) from None

    def _predict(self, table: pd.DataFrame, *, explain: bool) -> pd.DataFrame:
        images = table.get("image")
        if not isinstance(images, pd.Series):  # MLflow drops other columns, and with them the count of the records
            raise RequestError("the request has no records with a column 'image'")
        if not 1 <= len(images) <= MAX_RECORDS:
            raise RequestError(f"a request must hold 1 to {MAX_RECORDS} records, not {len(images)}")
        if explain and len(images) > MAX_EXPLAINED:
            raise RequestError(f"with explain a request may hold {MAX_EXPLAINED} records, not {len(images)}")
        model, logits, heatmaps = self.predictor, [], []
        for record, image in enumerate(images):
            try:
                film = decode(_bytes_of(image), min_side=_min_side(model.size))
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
        }
        return pd.DataFrame({**columns, "heatmap": heatmaps} if explain else columns)


def _bytes_of(image: object) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if image is None or image is pd.NA or (isinstance(image, float) and math.isnan(image)):
        raise FilmError("the image is missing")
    if not isinstance(image, str):
        raise FilmError("the image must be base64 text")
    if len(image) > MAX_BYTES * 4 / 3 + 4:
        raise FilmError(f"the film is larger than {MAX_BYTES >> 20} MiB")
    try:
        return binascii.a2b_base64(image, strict_mode=True)
    except ValueError:  # binascii.Error, or letters outside ASCII
        raise FilmError("the image is not base64 (a path or URL is not read)") from None


# MLflow runs this file as a module of its own, in no package; as `pneumonia.served` it is only a library.
if __package__ != "pneumonia":
    mlflow.models.set_model(ServedModel())
