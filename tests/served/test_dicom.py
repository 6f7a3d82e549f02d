"""DICOMs of plain pixels, of any depth, sign and colour."""

import zlib

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.served.conftest import assert_same, deep, dicom, film, refusal

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_of_12_bits_fills_the_grey_scale(syntax):
    pixels = deep() if syntax != ExplicitVRBigEndian else deep().byteswap()
    assert_same(dicom(pixels, syntax, BitsStored=12), film(), within=1)


def test_dicom_of_8_bits():
    assert_same(dicom(film()), film(), within=1)


def test_signed_pixels():
    signed = (deep().astype(np.int16) - 2048).view(np.uint16)
    assert_same(dicom(signed, BitsStored=12, PixelRepresentation=1), film(), within=1)
    assert_same(dicom(signed & 0x0FFF, BitsStored=12, PixelRepresentation=1), film(), within=1)


def test_overlays_in_the_unused_high_bits_are_ignored():
    overlaid = deep() | (np.arange(80) % 2 << 13).astype(np.uint16)
    assert_same(dicom(overlaid, BitsStored=12), film(), within=1)


@pytest.mark.parametrize("planar", [0, 1])
def test_dicom_in_colour(planar):
    pixels = np.dstack([film()] * 3)
    stored = pixels if planar == 0 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    data = dicom(pixels, PixelData=stored.tobytes(), PlanarConfiguration=planar)
    assert_same(data, film(), within=1)
    pixels[..., 1:] = 128
    assert_same(dicom(pixels, PhotometricInterpretation="YBR_FULL"), film(), within=1)


def test_deflated_bombs_are_not_inflated():
    head = dicom(film(), DeflatedExplicitVRLittleEndian)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeeze.compress(bytes(10**7)) for _ in range(5)) + squeeze.flush()
    assert "deflated" in refusal(head[:400] + bomb)
