"""DICOM films of one frame."""

import logging

import cv2
import numpy as np
import pydicom
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pneumonia.served.dicom_frame import read_frame
from pneumonia.served.dicom_header import (
    ABOUT,
    BITS,
    GREYS,
    LAYOUT,
    dicom_header,
    number_of,
    why_no_chest_film,
    words_of,
)
from pneumonia.served.dicom_window import windowed
from pneumonia.served.limits import FilmError, check_bounds

logger = logging.getLogger(__name__)
_NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}


def decode_dicom(data: bytes, any_dicom: bool) -> np.ndarray:
    try:
        return _read_dicom(data, any_dicom)
    except FilmError:
        raise
    # pydicom raises a dozen kinds for damaged files, AttributeError and RecursionError among them.
    except Exception:
        logger.debug("DICOM not read", exc_info=True)
        raise FilmError("the DICOM is damaged, or lacks an element that its pixels need") from None


def _read_dicom(data: bytes, any_dicom: bool) -> np.ndarray:
    film = dicom_header(data, ABOUT, LAYOUT, BITS, GREYS, pixels=True)
    if "PixelData" not in film:  # compressed frames may lack the mark that ends them, which pydicom looks for
        film = dicom_header(data + b"\xfe\xff\xdd\xe0\0\0\0\0", ABOUT, LAYOUT, BITS, GREYS, pixels=True)
    if (reason := why_no_chest_film(film)) and not any_dicom:
        raise FilmError(f"{reason} (any_dicom reads it all the same)")
    if number_of(film, "NumberOfFrames", 1) > 1:
        raise FilmError("the DICOM has more than one frame, by its NumberOfFrames")
    if "PixelData" not in film:
        raise FilmError("the DICOM has no PixelData")
    _check_layout(film)
    codes = read_frame(film) if film["PixelData"].is_undefined_length else _native(film)
    if codes.ndim == 3:
        rgb = film.PhotometricInterpretation == "RGB"
        codes = cv2.cvtColor(codes, cv2.COLOR_RGB2GRAY) if rgb else cv2.extractChannel(codes, 0)
    return windowed(codes, film) if film.SamplesPerPixel == 1 else codes


def _check_layout(film: pydicom.Dataset) -> None:
    """Refuses what is not read, and what breaks a bound; elements that were missing are filled in."""
    photometric, samples = " ".join(words_of(film, "PhotometricInterpretation")), number_of(film, "SamplesPerPixel", 1)
    grey = samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    if not grey and not (samples == 3 and photometric in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")):
        raise FilmError("the DICOM's PhotometricInterpretation is missing, a palette, or of a kind that is not read")
    allocated = number_of(film, "BitsAllocated")
    stored = number_of(film, "BitsStored", number_of(film, "HighBit", allocated - 1) + 1)
    high = number_of(film, "HighBit", stored - 1)
    if allocated not in (8, 16):
        raise FilmError("the DICOM's BitsAllocated is neither 8 nor 16")
    if not 1 <= stored <= high + 1 <= allocated:
        raise FilmError("the DICOM's BitsStored and HighBit do not fit into its BitsAllocated")
    if not grey and allocated != 8:
        raise FilmError("the DICOM has colours of more than 8 bits (BitsAllocated), which are not read")
    height, width = number_of(film, "Rows"), number_of(film, "Columns")
    check_bounds(height, width, height * width * samples * allocated // 8)
    film.PhotometricInterpretation, film.SamplesPerPixel = photometric, samples
    film.BitsAllocated, film.BitsStored, film.HighBit = allocated, stored, high
    film.PixelRepresentation = int(number_of(film, "PixelRepresentation", 0) == 1)
    film.Rows, film.Columns = height, width


def _native(film: pydicom.Dataset) -> np.ndarray:
    """Pixels that are not compressed: [H, W] or [H, W, samples]."""
    syntax = str(film.file_meta.get("TransferSyntaxUID", "")).strip() or None
    if syntax is not None and syntax not in _NATIVE:
        raise FilmError("the DICOM's PixelData is not stored as its TransferSyntaxUID says")
    if syntax is None:  # as pydicom found it to be
        implicit, little = film.original_encoding
        film.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    needed = film.Rows * film.Columns * film.SamplesPerPixel * film.BitsAllocated // 8
    if film.PhotometricInterpretation != "YBR_FULL_422" and len(film.PixelData) < needed:
        raise FilmError("the DICOM's PixelData holds fewer bytes than its Rows and Columns take")
    return pixel_array(film, index=0, raw=True)
