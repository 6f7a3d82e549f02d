"""PNG films."""

import struct
import zlib

import cv2
import numpy as np

from pneumonia.served.greys import to_8_bit
from pneumonia.served.limits import FilmError, check_bounds, imdecode


def decode_png(data: bytes) -> np.ndarray:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise FilmError("the PNG is damaged or cut short")
    data = _checked_png(data)
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    transparent = colour in (4, 6) or b"tRNS" in data[: max(data.find(b"IDAT"), 0)]
    check_bounds(height, width, height * width * (4 if transparent or colour else 1) * (2 if depth == 16 else 1))
    if transparent:
        if b"eXIf" in data:
            raise FilmError("the PNG is both transparent and rotated by EXIF, which is not read")
        layers = imdecode(data, cv2.IMREAD_UNCHANGED, "PNG")
        if layers.ndim == 3 and layers.shape[2] == 4:
            film = cv2.cvtColor(layers, cv2.COLOR_BGRA2GRAY)
            film = cv2.multiply(film, cv2.extractChannel(layers, 3), scale=1 / np.iinfo(layers.dtype).max)
        else:
            film = layers if layers.ndim == 2 else cv2.cvtColor(layers, cv2.COLOR_BGR2GRAY)
    else:
        film = imdecode(data, cv2.IMREAD_ANYDEPTH, "PNG")  # grey, 8 or 16 bits
    return film if film.dtype == np.uint8 else to_8_bit(film, np.arange(2**16))


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
