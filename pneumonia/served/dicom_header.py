"""A DICOM's header: the elements that are read, whether it is a chest radiograph, and what is doubtful."""

import io
import math
import re
from typing import Any

import pydicom
from pydicom.filereader import read_dataset, read_preamble
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pneumonia.served.formats import kind
from pneumonia.served.limits import FilmError

# Or it warns of values that it reads all the same.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

_RADIOGRAPHS = {"CR", "DX", "DR", "RG"}  # computed, digital (two codes) and scanned radiographs
_CHEST = ("CHEST", "THORAX", "TORAX", "LUNG")
ABOUT = ("Modality", "BodyPartExamined", "ViewPosition", "PresentationLUTShape", "BurnedInAnnotation")
LAYOUT = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration")
BITS = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
GREYS: tuple[Any, ...] = (
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

    Only a DICOM can be doubtful: it says that it is not a chest radiograph (and is read all the same with `any_dicom`),
    not a frontal view, to be inverted once more when it is shown, or has burned-in letters.
    """
    if kind(data[:1024]) != "DICOM":
        return ""
    header = dicom_header(data, ABOUT, "PhotometricInterpretation")
    words = {name: " ".join(words_of(header, name)) for name in (*ABOUT, "PhotometricInterpretation")}
    doubts = [why_no_chest_film(header)]
    if re.search(r"\bLAT|\b[LR]L\b|\b[LR]L[DO]\b|OBL|DECUB", words["ViewPosition"]):
        doubts.append("the film is not a frontal view, by its ViewPosition")
    if words["PresentationLUTShape"] == "INVERSE" and words["PhotometricInterpretation"] != "MONOCHROME1":
        doubts.append("its PresentationLUTShape asks viewers to invert it, which was not done")
    if words["BurnedInAnnotation"] == "YES":
        doubts.append("letters are burned into it, by its BurnedInAnnotation")
    return "; ".join(filter(None, doubts))


def why_no_chest_film(header: pydicom.Dataset) -> str:
    """Why a DICOM is not a chest radiograph, by its header; empty if it may be one."""
    modality, part = words_of(header, "Modality"), " ".join(words_of(header, "BodyPartExamined"))
    if modality and not _RADIOGRAPHS.intersection(modality):
        return "the DICOM is not a plain radiograph: its Modality is none of CR, DX, DR, RG"
    if part and not any(word in part for word in _CHEST):
        return "the DICOM is not of a chest, by its BodyPartExamined"
    return ""


def dicom_header(data: bytes, *names: tuple[str, ...] | str, pixels: bool = False) -> pydicom.Dataset:
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
            if name in ABOUT:
                del header[tag]
                continue
            raise FilmError(f"the DICOM's {name or 'header'} cannot be read") from None
        if element.is_empty:
            del header[tag]
    return header


def words_of(header: pydicom.Dataset, name: str) -> list[str]:
    value = header.get(name)
    words = (str(word).strip().upper() for word in (value if isinstance(value, MultiValue) else [value or ""]))
    return [word for word in words if word]


def number_of(header: pydicom.Dataset, name: str, default: int | None = None) -> int:
    value = header.get(name, default)
    if value is None:
        raise FilmError(f"the DICOM has no {name}")
    try:
        return int(value)
    except (TypeError, ValueError):
        raise FilmError(f"the DICOM's {name} is no whole number") from None


def numbers_of(header: pydicom.Dataset, name: str) -> list[float]:
    """The element's values, NaN for each that is no number."""
    value: Any = header.get(name, [])
    found = []
    for text in value if isinstance(value, MultiValue | list) else [value]:
        try:
            found.append(float(text))
        except (TypeError, ValueError):
            found.append(math.nan)
    return found


def decimal_of(header: pydicom.Dataset, name: str, default: float) -> float:
    number = next(iter(numbers_of(header, name)), default)
    if not math.isfinite(number):
        raise FilmError(f"the DICOM's {name} is no number")
    return number
