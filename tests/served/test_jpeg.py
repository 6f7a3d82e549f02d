"""JPEGs: every kind is the same grey film; damaged ones are refused, and bytes that no pixel hangs on are no damage."""

import numpy as np
import pytest
from PIL import Image

from pneumonia.served import FilmError, decode
from tests.served.conftest import assert_same, film, part, refusal, saved, textured

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_jpeg_is_the_same_grey_film(quality, progressive, mode):
    # Pillow, like Adobe's programs, stores CMYK inverted.
    image = Image.fromarray(film()).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    assert_same(saved(image, "JPEG", quality=quality, progressive=progressive), film(), within=8)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(format, orientation, turns):
    image = Image.fromarray(film())
    exif = image.getexif()
    exif[0x0112] = orientation
    assert_same(saved(image, format, exif=exif.tobytes()), np.rot90(film(), turns), within=6)


@pytest.mark.parametrize("min_side", [0, 32])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: part(data, 0.3)] + b"\xff\xd9",
        lambda data: data[: part(data, 0.9)],
        lambda data: data[: part(data, 0.5)] + bytes(300) + data[part(data, 0.5) + 300 :],
        lambda data: data[: part(data, 0.5)] + data[part(data, 0.6) :],
        lambda data: data[: part(data, 0.5)] + b"\xff\xd3" + data[part(data, 0.5) :],
    ],
    ids=["a third and an end", "no end", "a hole", "a piece is gone", "a marker within"],
)
def test_a_jpeg_that_lost_part_of_its_scan_is_refused(damage, min_side, capfd):
    with pytest.raises(FilmError, match="damaged or cut short"):
        decode(damage(textured()), min_side=min_side)
    assert not capfd.readouterr().err


@pytest.mark.parametrize("min_side", [0, 32])
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\xff\xc4", bytes(5) + b"\xff\xc4", 1),
        lambda data: data.replace(b"\xff\xda", b"junk\xff\xda", 1),
        lambda data: data[:-2] + bytes(7) + b"\xff\xd9",
        lambda data: data[:-2],
        lambda data: data + b"a footer",
        lambda data: data.replace(b"JFIF\0\x01", b"JFIF\0\x07", 1),
        lambda data: data.replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
    ],
    ids=["zeros", "junk", "zeros at the end", "no end", "a footer", "a version", "filling"],
)
def test_bytes_that_no_pixel_hangs_on_are_no_damage(change, min_side, capfd):
    good = textured()
    assert change(good) != good
    np.testing.assert_array_equal(decode(change(good), min_side=min_side), decode(good, min_side=min_side))
    assert not capfd.readouterr().err


def test_kinds_of_jpeg_that_are_not_read_are_named():
    data = bytearray(saved(Image.fromarray(film()), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    assert "12 bits" in refusal(bytes(data))
    data[frame + 4], data[frame + 1] = 8, 0xC3
    assert "lossless" in refusal(bytes(data))


def test_a_jpeg_is_reduced_only_while_both_sides_stay_large_enough():
    data = saved(Image.fromarray(film(400, 1000)), "JPEG")
    assert decode(data).shape == (400, 1000)
    for min_side, shape in (
        (401, (400, 1000)),
        (201, (400, 1000)),
        (200, (200, 500)),
        (100, (100, 250)),
        (1, (50, 125)),
    ):
        assert decode(data, min_side=min_side).shape == shape
    assert decode(saved(Image.fromarray(film(400, 1000))), min_side=1).shape == (400, 1000)
