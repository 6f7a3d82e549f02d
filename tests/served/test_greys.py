"""Films of more than 8 bits fill the grey scale."""

import cv2
import numpy as np
import pytest

from pneumonia.served import decode
from tests.served.conftest import assert_same, film

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_pngs_fill_the_grey_scale_whatever_their_bits(bits, channels):
    deep = np.rint(film().astype(float) * (2**bits - 1) / 255).astype(np.uint16)
    layers = np.dstack([deep] * 3 + [np.full_like(deep, 2**16 - 1)])[..., :channels].squeeze()
    assert_same(cv2.imencode(".png", layers)[1].tobytes(), film(), within=1)


def test_one_hot_pixel_does_not_darken_a_deep_png():
    deep = film().astype(np.uint16) * 16
    deep[0, 0] = 2**16 - 1
    found = decode(cv2.imencode(".png", deep)[1].tobytes())
    assert np.abs(found.astype(int) - film())[1:].max() <= 1
