"""Bytes to the grey film that a network sees: what kind of file it is, its pixels, their size and scale."""

import cv2
import numpy as np

from pneumonia.served.dicom import decode_dicom
from pneumonia.served.formats import kind, name_format
from pneumonia.served.jpeg import decode_jpeg
from pneumonia.served.limits import MAX_BYTES, FilmError
from pneumonia.served.png import decode_png

DECODE_VERSION = 4  # raise it when the same bytes give other grey values: caches and packages are keyed by it
CANONICAL = 224  # side in pixels that larger films are stretched to on the way to the model's size


def decode(data: bytes, *, min_side: int = 0, any_dicom: bool = False) -> np.ndarray:
    """Reads a JPEG, PNG or single-frame DICOM film.

    Dimensions are read from the header and checked before anything is decoded: no input needs more than 3 times
    `MAX_DECODED` of memory (the largest JPEG, PNG and DICOM films that pass took up to 470 MB). Films of more than 8
    bits are stretched to 8 by their own grey values (a DICOM's rescale, window and inversion first). Transparent PNGs
    are laid on black, EXIF rotation is applied. A JPEG that its decoder complains of is refused where a pixel may
    depend on the damage, and read where none does.

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
            film = decode_jpeg(data, min_side)
        case "PNG":
            film = decode_png(data)
        case "DICOM":
            film = decode_dicom(data, any_dicom)
        case _:
            raise FilmError(name_format(data))
    # X-ray films vary by tens of grey levels; a blank or black page would be scored like a film.
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
    return stretch(decode(data, min_side=min_side_of(size), any_dicom=any_dicom), size)


def min_side_of(size: int) -> int:
    return max(size, CANONICAL)  # `stretch` says why


def stretch(film_hw: np.ndarray, size: int) -> np.ndarray:
    """Stretches a film to a square, uint8 [H, W] to uint8 [size, size].

    The film's aspect is lost, and a chest becomes narrower in a wide film; Kermany's ill films are wider, so training
    varies the shape (`disturb`).

    Large films go through 224 px on their way to a smaller size, as the copies of public data sets do. Mean absolute
    difference between 70 films at full size and their 224 px JPEG copies, in standard deviations of the film: at 64, 96
    and 128 px 0.014, 0.021 and 0.025, against 0.015, 0.023 and 0.030 straight to the size (largest single pixel at 96
    px 0.26 against 0.47). Decoding a JPEG reduced to no less than 224 px makes that 0.016, 0.021 and 0.026, over 210
    films, in three quarters of the time that 448 px take; below 224 px it is 0.018, 0.024 and 0.029 for little more
    speed.
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
