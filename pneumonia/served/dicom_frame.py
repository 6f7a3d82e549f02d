"""A DICOM's compressed pixels: JPEG, JPEG Lossless, JPEG-LS, JPEG 2000 and RLE."""

import struct

import cv2
import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from pneumonia.served.jpeg import jpeg_header, jpeg_pixels
from pneumonia.served.limits import FilmError, check_bounds, imdecode
from pneumonia.served.lossless import decode_lossless


def read_frame(film: pydicom.Dataset) -> np.ndarray:
    """The codes of a film's only compressed frame, [H, W] or [H, W, samples]. The format is detected by content, as
    viewers do, since the transfer syntax may be missing or wrong.
    """
    height, width, samples, sample_bytes = film.Rows, film.Columns, film.SamplesPerPixel, film.BitsAllocated // 8
    frame = get_frame(film.PixelData, 0, number_of_frames=1)
    if frame[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":  # the file format around a codestream
        frame = frame[max(frame.find(b"\xff\x4f\xff\x51"), 0) :]
    if film.file_meta.get("TransferSyntaxUID") == RLELossless:
        return _unpack_rle(frame, height, width, samples, sample_bytes)
    if frame[:2] == b"\xff\xd8":
        header = jpeg_header(frame)
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
        check_bounds(height, width, 4 * height * width * samples * sample_bytes)  # GDCM takes 6, and 3 are held here
        return decode_lossless(frame, header)
    if film.PixelRepresentation == 1:
        raise FilmError("the DICOM's compressed pixels are signed (PixelRepresentation), which is not read")
    if frame[:2] == b"\xff\xd8":
        return jpeg_pixels(frame, header)[0]
    check_bounds(height, width, 4 * height * width * samples)  # OpenJPEG holds 4 bytes a sample
    return imdecode(frame, cv2.IMREAD_ANYDEPTH, "DICOM's compressed image")


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
