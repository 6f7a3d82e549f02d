"""Compressed frames: RLE, JPEG and JPEG 2000, whole and damaged."""

import resource
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from pneumonia.served import decode
from tests.served.conftest import assert_same, deep, dicom, film, jpeg_2000, refusal, rle, saved

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


def test_run_length_encoding():
    assert_same(rle(deep(), BitsStored=12), film(), within=1)
    assert_same(rle(film()), film(), within=1)
    assert_same(rle(np.dstack([film()] * 3)), film(), within=1)
    flat = film() // 64 * 85  # long runs
    assert_same(rle(flat), flat, within=1)


def test_a_run_length_bomb_is_refused_or_cut_at_the_films_size():
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * 5_000_000  # 640 MB of zeros
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "no picture" in refusal(dicom(frame, RLELossless))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_compressed_frames():
    jpeg = saved(Image.fromarray(film()), "JPEG", quality=95)
    assert_same(dicom(jpeg, JPEGBaseline8Bit), film(), within=4)
    assert_same(dicom(jpeg, JPEGExtended12Bit), film(), within=4)
    colour = saved(Image.fromarray(film()).convert("RGB"), "JPEG", quality=95)
    ybr = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0}
    assert_same(dicom(colour, JPEGBaseline8Bit, **ybr), film(), within=4)
    for syntax in (JPEG2000, JPEG2000Lossless):
        assert_same(dicom(jpeg_2000(film()), syntax), film(), within=1)
        bits = {"BitsAllocated": 16, "BitsStored": 12}
        assert_same(dicom(jpeg_2000(deep()), syntax, **bits), film(), within=1)
        half = decode(dicom(jpeg_2000(deep()), syntax, **bits, WindowCenter=1024, WindowWidth=2048))
        assert np.abs(half - np.clip(deep() / 2048, 0, 1) * 255).max() <= 1


def test_a_frame_of_another_size_than_the_header_says_is_refused():
    for syntax, frame in (
        (JPEGBaseline8Bit, saved(Image.fromarray(film(600, 800)), "JPEG")),
        (JPEG2000Lossless, jpeg_2000(film(600, 800))),
    ):
        assert "another size" in refusal(dicom(frame, syntax))


def test_a_jpeg_2000_in_its_file_format_is_read():
    boxed = saved(Image.fromarray(film()), "JPEG2000")
    assert b"ftypjp2" in boxed
    np.testing.assert_array_equal(
        decode(dicom(boxed, JPEG2000Lossless)), decode(dicom(jpeg_2000(film()), JPEG2000Lossless))
    )


def test_frames_without_their_end_are_read():
    whole = dicom(jpeg_2000(film()), JPEG2000Lossless)
    assert whole.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    np.testing.assert_array_equal(decode(whole[:-8]), decode(whole))
