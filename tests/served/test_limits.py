"""Films that are too small or too large are refused, without memory for what they claim."""

import resource
import struct
import subprocess
import sys

import pytest
from PIL import Image

from pneumonia.served import decode
from tests.served.conftest import film, png_bomb, refusal, saved

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_tiny_films_are_refused(format):
    for size in ((1, 1), (15, 400), (400, 15)):
        assert "too small" in refusal(saved(Image.effect_noise(size, 80), format))
    assert decode(saved(Image.effect_noise((16, 16), 80), format)).shape == (16, 16)


def claimed_jpeg(height: int, width: int, marker: int = 0xC0, scans: int = 1) -> bytes:
    """A JPEG that claims a size (and scans) that its few bytes do not hold."""
    data = bytearray(saved(Image.fromarray(film()).convert("RGB"), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1] = marker
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    scan = bytes(data[data.index(b"\xff\xda") : -2])
    return bytes(data[:-2]) + scan * (scans - 1) + b"\xff\xd9"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png_bomb(20_000), id="png"),
        pytest.param(png_bomb(9_000, 16, 6), id="deep transparent png"),
        pytest.param(claimed_jpeg(65_000, 65_000), id="jpeg"),
        pytest.param(claimed_jpeg(9_900, 9_900, marker=0xC2, scans=9), id="progressive jpeg"),
        pytest.param(claimed_jpeg(5_000, 5_000, marker=0xC2, scans=100), id="many scans"),
    ],
)
def test_bombs_are_refused_without_memory(data):
    assert len(data) < 1_500_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "too" in refusal(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB


@pytest.mark.slow
def test_opencv_itself_is_limited():
    # In a process of its own: another test may have loaded OpenCV first.
    command = "from pneumonia import served; import cv2, numpy, sys; b = sys.stdin.buffer.read();"
    command += "cv2.imdecode(numpy.frombuffer(b, numpy.uint8), 0)"
    done = subprocess.run(
        [sys.executable, "-c", command], input=png_bomb(11_000), capture_output=True, check=False, timeout=60
    )
    assert b"OPENCV_IO_MAX_IMAGE_PIXELS" in done.stderr or b"CV_IO_MAX_IMAGE_PIXELS" in done.stderr
