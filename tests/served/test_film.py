"""Reading films: every format comes out as the same grey film, or is refused in one sentence and bounded memory."""

import threading

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from pneumonia import served
from pneumonia.served import FilmError, decode, read_film, standardise
from tests.conftest import ROOT
from tests.served.conftest import deep, dicom, film, jpeg_2000, refusal, rle, saved

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]

REAL = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_one_even_grey_is_refused(value, format):
    assert "no picture" in refusal(saved(Image.new("L", (64, 64), value), format))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_files_are_refused(format, share):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
    data = saved(Image.fromarray(noise), format)
    assert "damaged" in refusal(data[: int(len(data) * share)])


def assert_a_film_or_a_film_error(draw):
    """Of some film's bytes, changed in up to eight places and cut."""
    whole = draw.draw(st.sampled_from(WHOLE))
    data = bytearray(whole)
    for _ in range(draw.draw(st.integers(1, 8))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    data = data[: draw.draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]
    try:
        found = decode(bytes(data), min_side=20)
    except FilmError as error:
        refused = str(error)
        assert "\n" not in refused
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 2


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_film_or_a_film_error_and_nothing_else(draw):
    assert_a_film_or_a_film_error(draw)


@pytest.mark.long
@settings(max_examples=100_000, deadline=None)
@given(st.data())
def test_bytes_damaged_in_every_way_give_a_film_or_a_film_error_and_nothing_else(draw):
    assert_a_film_or_a_film_error(draw)


@pytest.mark.parametrize("size", [32, 96, 224, 320])
def test_films_of_any_scale_come_out_alike(size):
    large, small = saved(Image.fromarray(film(1200, 1600)), "JPEG"), saved(Image.fromarray(film(224, 224)), "JPEG")
    films = np.stack([read_film(large, size), read_film(small, size)])
    assert films.shape == (2, size, size)
    assert np.abs(np.diff(films.astype(int), axis=0)).mean() < 1.5


def test_small_films_are_enlarged():
    assert read_film(saved(Image.fromarray(film(20, 300))), 96).shape == (96, 96)


def test_standardised_films_have_mean_0_and_deviation_1_whatever_their_batch():
    films = np.random.default_rng(0).integers(0, 256, (7, 96, 96), dtype=np.uint8)
    films[1] //= 8
    together = standardise(films)
    assert together.dtype == np.float32
    assert together.shape == (7, 1, 96, 96)
    np.testing.assert_allclose(together.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(together.std((1, 2, 3)), 1, atol=1e-3)
    for number, one in enumerate(films):
        assert np.array_equal(standardise(one[np.newaxis])[0], together[number])


def test_an_even_film_is_standardised_to_zeros():
    assert not standardise(np.full((1, 8, 8), 200, np.uint8)).any()


WHOLE = [
    saved(Image.fromarray(film()), "JPEG"),
    saved(Image.fromarray(film()).convert("RGB"), "JPEG", progressive=True),
    saved(Image.fromarray(film())),
    cv2.imencode(".png", deep())[1].tobytes(),
    dicom(deep(), BitsStored=12, WindowCenter=2048, WindowWidth=4096),
    rle(film()),
    dicom(saved(Image.fromarray(film()), "JPEG"), JPEGBaseline8Bit),
    dicom(jpeg_2000(film()), JPEG2000Lossless),
]


def test_films_decoded_at_once_are_the_films_decoded_alone():
    alone = [read_film(data, 32) for data in WHOLE]
    failures = []

    def again() -> None:
        for _ in range(20):
            for data, expected in zip(WHOLE, alone, strict=True):
                if not np.array_equal(read_film(data, 32), expected):
                    failures.append(len(data))

    threads = [threading.Thread(target=again) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="the real films of ../shared/data are not here")
def test_full_size_films_and_their_small_copies_come_out_alike():
    differences = []
    for path in sorted((REAL / "full_size" / "train").glob("*/*"))[::7]:
        copy = REAL / "chest_xray" / "train" / path.parent.name / path.name
        pair = standardise(np.stack([read_film(path.read_bytes(), 96), read_film(copy.read_bytes(), 96)]))
        differences.append(np.abs(pair[0] - pair[1]).mean())
    assert np.median(differences) < 0.025
    assert max(differences) < 0.04


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="the real films of ../shared/data are not here")
def test_the_largest_films_are_read():
    for path in sorted((REAL / "originals").glob("*")):
        found = decode(path.read_bytes(), min_side=served.CANONICAL)
        assert min(found.shape) >= served.CANONICAL
        assert found.std() > 20
