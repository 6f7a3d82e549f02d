"""JPEG films: their headers, their pixels, and damage that affects no pixel."""

import struct
from typing import Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg

from pneumonia.served.limits import MAX_SCANNED, FilmError, check_bounds, imdecode


class JpegHeader(NamedTuple):
    """What a JPEG's header says; height and width before EXIF rotation."""

    height: int
    width: int
    precision: int  # bits a sample
    components: int
    frame: int  # the marker of its frame header, 0xC0 and so on
    turned: bool  # by EXIF


def jpeg_header(data: bytes) -> JpegHeader:
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
        check_bounds(height, width, height * width * (-(-precision // 8) + coefficients))
        if scans * height * width > MAX_SCANNED:
            raise FilmError("the JPEG has too many scans for its size")
        return JpegHeader(height, width, precision, components, marker, turned)
    raise FilmError("the JPEG is damaged: it has no frame header")


def _orientation(exif: bytes) -> int:
    """A film's orientation, 1 to 8, by the first directory of its EXIF block (a TIFF, as Exif 2.32, 4.6.4 has it)."""
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    at = int.from_bytes(exif[4:8], order)
    for number in range(int.from_bytes(exif[at : at + 2], order)):
        entry = exif[at + 2 + 12 * number :][:12]
        if len(entry) < 12:
            break
        if int.from_bytes(entry[:2], order) == 0x0112:
            return int.from_bytes(entry[8:10], order)
    return 1


def decode_jpeg(data: bytes, min_side: int) -> np.ndarray:
    header = jpeg_header(data)
    shortest, factor = min(header.height, header.width), 1
    if min_side > 0:
        factor = next((factor for factor in (8, 4, 2) if shortest // factor >= min_side), 1)
    film, data = jpeg_pixels(data, header, factor)
    if not header.turned and header.components != 4:
        return film
    # It is whole, as has just been seen, and OpenCV knows how to turn it and how inks make a grey.
    flags = {
        1: cv2.IMREAD_GRAYSCALE,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    return imdecode(data, flags[factor], "JPEG")


def jpeg_pixels(data: bytes, header: JpegHeader, factor: int = 1) -> tuple[np.ndarray, bytes]:
    """A film of 8 bits, reduced by `factor`, as it lies (inks, where there are four, as [H, W, 4]); and the JPEG that
    it was read from: `data`, or a copy without the parts that affect no pixel.
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


def _without_oddities(data: bytes, header: JpegHeader) -> bytes:
    """The same JPEG without what decoders complain of although it affects no pixel: bytes between its segments, zeros
    that fill up a scan, an end marker that is missing, and fields of the header that libjpeg fills in by
    itself (ITU-T T.81, B.2; JFIF 1.02).
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
            while (end := data.find(b"\xff", end)) >= 0 and data[end + 1 : end + 2] in IN_SCANS:
                end += 2
            end = len(data) if end < 0 else end
            scan = data[at:end]
            filled = len(scan) - len(scan.rstrip(b"\0"))
            segment += scan[: len(scan) - filled + 1] if filled else scan  # the first may belong to an \xff before it
            at = end
        mended += segment
    return bytes(mended + b"\xff\xd9")


IN_SCANS = {b"\x00", *(bytes([0xD0 + number]) for number in range(8))}  # what follows an \xff there
