"""From stored values to greys: rescale, window, tables, inversion and padding."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pneumonia.served import decode
from tests.served.conftest import assert_same, deep, dicom, element, film, put, refusal, twelve

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


def test_monochrome1_is_inverted():
    inverted = (4095 - deep()).astype(np.uint16)
    assert_same(dicom(inverted, BitsStored=12, PhotometricInterpretation="MONOCHROME1"), film(), within=1)


def test_a_rescale_with_a_negative_slope_inverts():
    inverted = (4095 - deep()).astype(np.uint16)
    assert_same(dicom(inverted, BitsStored=12, RescaleSlope=-1, RescaleIntercept=4095), film(), within=1)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -100)])
def test_the_window_is_applied_in_rescaled_units(slope, intercept):
    found = decode(
        dicom(
            deep(),
            BitsStored=12,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            WindowCenter=[2048 * slope + intercept, 1],
            WindowWidth=[1024 * slope, 1],
        )
    )
    expected = np.clip((deep().astype(float) - 1536) / 1024, 0, 1) * 255
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(("padding", "limit"), [(-32768, None), (-32768, -32000), (-32000, -32768)])
def test_padding_is_black_and_does_not_decide_the_contrast(photometric, padding, limit):
    stored, rest = deep().astype(np.int16), film()[:, 12:].astype(float)
    expected = np.zeros(stored.shape)
    expected[:, 12:] = (rest - rest.min()) * 255 / (rest.max() - rest.min())
    if photometric == "MONOCHROME1":
        stored = np.int16(4095) - stored
    stored[:, :12] = -32768
    elements = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    kind = {"BitsStored": 16, "PixelRepresentation": 1, "PhotometricInterpretation": photometric}
    assert_same(
        dicom(stored.view(np.uint16), PixelPaddingValue=padding, **kind, **elements), expected, within=4
    )  # the tails
    stored[:] = -32768
    assert "no picture" in refusal(dicom(stored.view(np.uint16), PixelPaddingValue=padding, **kind, **elements))


def test_a_window_that_leaves_one_grey_is_refused():
    assert "no picture" in refusal(dicom(deep(), BitsStored=12, WindowCenter=60_000, WindowWidth=10))


def test_the_table_of_values_of_interest_is_applied():
    table = Dataset()
    table.LUTDescriptor = [256, 0, 12]
    table.LUTData = np.arange(255, -1, -1, dtype=np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    data = dicom(film(), VOILUTSequence=[table], RescaleSlope=1, RescaleIntercept=0)
    assert_same(data, 255 - film(), within=1)


@pytest.mark.parametrize("word", [b"", b"NORMAL", b"OTHER "])
def test_a_word_for_the_windows_function_that_none_knows_means_linear(word):
    window = {"WindowCenter": 1024, "WindowWidth": 2048}
    odd = put(twelve(**window), element(0x28, 0x1056, b"CS", word))
    np.testing.assert_array_equal(decode(odd), decode(twelve(**window)))


def test_an_empty_limit_of_the_padding_is_none():
    odd = put(twelve(PixelPaddingValue=0), element(0x28, 0x0121, b"US", b""))
    np.testing.assert_array_equal(decode(odd), decode(twelve(PixelPaddingValue=0)))


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_a_modality_table_of_any_depth_is_applied(depth):
    table = Dataset()
    table.ModalityLUTType = "US"
    table.LUTDescriptor = [4096, 0, depth]
    table["LUTDescriptor"].VR = "US"
    values = np.arange(4096)[::-1] >> max(12 - depth, 0)
    table.LUTData = values.astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    assert_same(twelve(ModalityLUTSequence=[table]), 255 - film(), within=1)
