"""JPEG Lossless and JPEG-LS come out to the last bit, or are refused."""

import struct

import numpy as np
import pytest

from pneumonia.served import decode
from tests.served.conftest import deep, dicom, lossless, refusal

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]

LOSSLESS = ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEGLSNearLossless"]


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_frames_are_read_to_the_last_bit(name):
    for codes, elements in ((deep(), {}), (deep(), {"PhotometricInterpretation": "MONOCHROME1"})):
        np.testing.assert_array_equal(
            decode(lossless(codes, name, **elements)), decode(dicom(codes, BitsStored=12, **elements))
        )


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("damage", ["cut", "zeros", "junk", "flipped"])
def test_damaged_lossless_frames_are_refused(name, damage, capfd):
    """GDCM hides most of it, and ends its process at some."""
    noise = np.random.default_rng(0).integers(0, 2000, deep().shape, np.uint16)
    data = bytearray(lossless(deep() // 2 + noise, name))
    at = len(data) * 2 // 3
    if damage == "cut":
        del data[at:]
    elif damage == "zeros":
        data[at : at + 100] = bytes(100)
    elif damage == "junk":
        data[at : at + 100] = np.random.default_rng(1).bytes(100)
    else:
        data[at : at + 40] = bytes(byte ^ 8 for byte in data[at : at + 40])
    assert "damaged" in refusal(bytes(data))
    assert not capfd.readouterr().err


def test_a_lossless_frame_of_another_size_or_depth_is_refused():
    """The bounds are those of the DICOM's header; a frame must not be larger."""
    data = lossless(deep(), "JPEGLosslessProcess14_1")
    at = data.index(b"\xff\xc3") + 4  # precision, height, width
    assert "another size" in refusal(data[: at + 1] + struct.pack(">HH", 9_000, 9_000) + data[at + 5 :])
    assert "BitsAllocated" in refusal(data[:at] + b"\x18" + data[at + 1 :])
