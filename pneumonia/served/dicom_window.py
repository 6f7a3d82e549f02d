"""From a DICOM's stored values to greys: rescale or modality table, window or table of interest, inversion, padding."""

import math
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from pneumonia.served.dicom_header import decimal_of, number_of, numbers_of, words_of
from pneumonia.served.greys import to_8_bit
from pneumonia.served.limits import FilmError


def windowed(codes: np.ndarray, film: pydicom.Dataset) -> np.ndarray:
    """Stored values of any integer type, [H, W], as uint8 [H, W].

    Whatever turns a stored value into a grey depends on that value alone: it is done once for each possible value.
    """
    stored, high = film.BitsStored, film.HighBit
    codes = codes.astype(f"u{codes.dtype.itemsize}", copy=False)  # signed or big-endian before
    values = np.arange(2 ** (8 * codes.dtype.itemsize))
    values = (values >> (high + 1 - stored)) & (2**stored - 1)  # without overlays in the other bits
    if film.PixelRepresentation == 1:  # two's complement
        values = np.where(values < 2 ** (stored - 1), values, values - 2**stored)
    padding = None
    if "PixelPaddingValue" in film:
        first = number_of(film, "PixelPaddingValue")
        last = number_of(film, "PixelPaddingRangeLimit", first)
        padding = (min(first, last) <= values) & (values <= max(first, last))
    _complete_greys(film)
    values = apply_modality_lut(values, film)
    if "VOILUTSequence" in film:
        values = np.rint(values).astype(np.int64)
    values = apply_voi_lut(values, film)
    inverted = film.PhotometricInterpretation == "MONOCHROME1"
    return to_8_bit(codes, -values.astype(np.float64) if inverted else values, padding)


def _complete_greys(film: pydicom.Dataset) -> None:
    """What turns stored values into greys, completed as the standard asks (PS3.3, C.11.1 and C.11.2), which pydicom
    takes for granted: half of a rescale, a slope or window of 0 and a vendor's name for a function are ignored.
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
        film.RescaleSlope = decimal_of(film, "RescaleSlope", 1) or 1.0
        film.RescaleIntercept = decimal_of(film, "RescaleIntercept", 0)
    if not {"LINEAR", "LINEAR_EXACT", "SIGMOID"}.intersection(words_of(film, "VOILUTFunction")):
        film.VOILUTFunction = "LINEAR"
    least = 1 if film.VOILUTFunction == "LINEAR" else 1e-9
    for centre, width in zip(numbers_of(film, "WindowCenter"), numbers_of(film, "WindowWidth"), strict=False):
        if math.isfinite(centre) and math.isfinite(width) and width >= least:
            film.WindowCenter, film.WindowWidth = centre, width
            return
    for name in ("WindowCenter", "WindowWidth"):
        film.pop(name, None)


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
