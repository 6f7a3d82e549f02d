"""What a DICOM says of itself: which ones are refused, which are doubtful, and what says nothing."""

import resource
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from pneumonia import served
from pneumonia.served import decode
from tests.served.conftest import deep, dicom, element, film, jpeg_2000, put, refusal, saved, textured, twelve

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: dicom(deep(), Modality="CT"), "not a plain radiograph"),
        (lambda: dicom(deep(), BodyPartExamined="KNEE"), "not of a chest"),
        (lambda: dicom(deep(), NumberOfFrames=2, PixelData=deep().tobytes() * 2), "more than one frame"),
        (lambda: dicom(deep(), PixelData=b""), "no PixelData"),
        (lambda: dicom(film(), PhotometricInterpretation="PALETTE COLOR"), "palette"),
        (lambda: dicom(deep(), BitsAllocated=32), "BitsAllocated"),
        (lambda: dicom(deep(), Rows=20_000, Columns=20_000), "too large"),
        (lambda: dicom(deep(), Rows=1, Columns=1), "too small"),
        (lambda: dicom(deep(), Rows=61), "fewer bytes than its Rows"),
        (lambda: dicom(deep(), DeflatedExplicitVRLittleEndian), "deflated"),
        (lambda: dicom(b"\xff\xd8\xff", JPEGLosslessSV1), "no frame header"),
        (lambda: dicom(b"\0" * 40, JPEGLSLossless), "JPEG-LS"),
        (lambda: dicom(b"\0" * 40, "1.2.3.4.5"), "an unknown transfer syntax"),
        (lambda: dicom(jpeg_2000(film()), JPEG2000, PixelRepresentation=1), "signed"),
        (lambda: bytes(128) + b"DICM", "no PixelData"),
        (lambda: put(twelve(), element(0x28, 0x1053, b"DS", b"1,5 ")), "RescaleSlope is no number"),
        (lambda: put(twelve(), element(0x28, 0x0120, b"US", b"\0")), "PixelPaddingValue cannot be read"),
        (lambda: dicom(deep(), Rows=None), "no Rows"),
        (lambda: dicom(deep())[:400], "DICOM"),
    ],
)
def test_other_dicoms_are_refused_by_name(data, words):
    sentence = refusal(data())
    assert words in sentence
    assert "Doe" not in sentence


def test_elements_that_say_nothing_are_no_reason_to_refuse():
    assert decode(dicom(deep(), Modality="", BodyPartExamined="")).shape == (60, 80)
    assert decode(dicom(deep(), Modality="DX", BodyPartExamined="Thorax PA")).shape == (60, 80)


@pytest.mark.parametrize(
    "change",
    [
        lambda: put(twelve(), element(0x28, 0x1052, b"DS", b""), element(0x28, 0x1053, b"DS", b"")),
        lambda: put(twelve(), element(0x28, 0x1052, b"DS", b"0 ")),
        lambda: put(twelve(), element(0x28, 0x1053, b"DS", b"1 ")),
        lambda: put(twelve(), element(0x28, 0x1053, b"DS", b"0 "), element(0x28, 0x1052, b"DS", b"0 ")),
        lambda: put(twelve(), element(0x28, 0x1050, b"DS", b"0 "), element(0x28, 0x1051, b"DS", b"0 ")),
        lambda: put(twelve(), element(0x28, 0x1050, b"DS", b""), element(0x28, 0x1051, b"DS", b"")),
        lambda: put(twelve(), element(0x28, 0x1050, b"DS", b"9 ")),
        lambda: put(twelve(), element(0x28, 0x1056, b"CS", b"")),
        lambda: put(twelve(), element(0x28, 0x0120, b"US", b""), element(0x28, 0x0121, b"US", b"")),
        lambda: dicom(deep(), BitsStored=12, Modality=["DX", "CR"]),
        lambda: twelve()[132:],
        lambda: twelve()[128:],
        lambda: without_meta(twelve()),
        lambda: dicom(deep(), BitsStored=12, PhotometricInterpretation="MONOCHROME2 "),
        lambda: dicom(deep(), BitsStored=12, WindowCenter=[2048, 9], WindowWidth=[0, 0]),
        lambda: put(twelve(), element(0x28, 0x1050, b"DS", b"wide"), element(0x28, 0x1051, b"DS", b"10")),
        lambda: put(twelve(), element(0x28, 0x1052, b"DS", b"0\\0 "), element(0x28, 0x1053, b"DS", b"1\\1 ")),
        lambda: twelve().replace(b"1.2.840.10008.1.2.1\0", b" " * 20),
        lambda: twelve() + bytes(700),
    ],
    ids=[
        *("rescale empty", "slope alone", "slope alone 1", "slope 0", "window 0", "window empty", "centre alone"),
        *("function empty", "padding empty", "two modalities", "no preamble", "letters first", "no file meta"),
        *("a blank", "windows 0", "a window's word", "rescale twice", "syntax blank", "zeros behind"),
    ],
)
def test_elements_that_say_nothing_change_no_grey(change):
    np.testing.assert_array_equal(decode(change()), decode(twelve()))


def without_meta(data: bytes) -> bytes:
    """Without preamble, file meta information and so without a transfer syntax."""
    return data[data.index(struct.pack("<HH", 0x0008, 0x0016)) :]


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"Modality": "SC"}, "not a plain radiograph"),
        ({"Modality": "OT"}, "not a plain radiograph"),
        *(({"BodyPartExamined": part}, "not of a chest") for part in ("THX", "TORACE", "PULMON", "CXR", "RIBS")),
    ],
)
def test_any_dicom_reads_what_says_that_it_is_no_chest_radiograph(elements, words):
    data = dicom(deep(), BitsStored=12, **elements)
    sentence = refusal(data)
    assert words in sentence
    assert "any_dicom" in sentence
    np.testing.assert_array_equal(decode(data, any_dicom=True), decode(twelve()))
    assert words in served.warning_of(data)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({}, ""),
        ({"ViewPosition": "PA", "PresentationLUTShape": "IDENTITY", "BurnedInAnnotation": "NO"}, ""),
        ({"ViewPosition": "LL"}, "ViewPosition"),
        ({"ViewPosition": "LATERAL"}, "ViewPosition"),
        ({"PresentationLUTShape": "INVERSE"}, "PresentationLUTShape"),
        ({"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"}, ""),
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation"),
    ],
)
def test_what_is_doubtful_about_a_film_is_said(elements, words):
    said = served.warning_of(twelve(**elements))
    assert words in said
    assert bool(said) == bool(words)


def test_other_films_have_no_doubts():
    assert served.warning_of(textured()) == served.warning_of(saved(Image.fromarray(film()))) == ""


def test_a_header_of_millions_of_elements_is_refused_early():
    head = dicom(deep())
    start = head.index(struct.pack("<HH", 0x0008, 0x0016))
    nested = struct.pack("<HH2sHL", 0x0009, 0x0011, b"SQ", 0, 0xFFFFFFFF)
    nested += (struct.pack("<HHL", 0xFFFE, 0xE000, 8) + struct.pack("<HH2sH", 0x0009, 0x0012, b"LO", 0)) * 1_000_000
    for junk in (struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * 2_000_000, nested):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "too many elements" in refusal(head[:start] + junk + head[start:])
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000
