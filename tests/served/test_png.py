"""PNGs: every kind is the same grey film."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.served.conftest import assert_same, film, refusal, saved

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_every_png_is_the_same_grey_film(mode):
    assert_same(saved(Image.fromarray(film()).convert(mode)), film(), within=1)


def test_transparent_pixels_are_black_and_a_fully_transparent_film_is_refused():
    layers = np.dstack([film()] * 3 + [np.full((60, 80), 255, np.uint8)])
    layers[:30, :, 3] = 0
    expected = film()
    expected[:30] = 0
    assert_same(cv2.imencode(".png", layers)[1].tobytes(), expected, within=1)
    layers[..., 3] = 0
    assert "no picture" in refusal(cv2.imencode(".png", layers)[1].tobytes())


def test_one_bit_png():
    assert_same(saved(Image.fromarray(film() > 128)), np.where(film() > 128, 255, 0), within=0)
