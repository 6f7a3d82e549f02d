"""Reading films: every format comes out as the same grey film, or is refused in one sentence and bounded memory."""

import io
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

import cv2
import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pneumonia import served
from pneumonia.served import FilmError, decode, read_film, standardise
from tests.conftest import ROOT

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]

REAL = ROOT.parent / "shared" / "data"


def film(height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth picture without symmetry, from 0 to 255 with some of both, uint8 [H, W]."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    picture = columns + 0.5 * rows + 0.4 * np.sin(5 * rows * columns)
    picture = 1.1 * (picture - picture.min()) / np.ptp(picture) - 0.05
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_same(data: bytes, expected: np.ndarray, *, within: float) -> None:
    found = decode(data)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= within


def refusal(data: bytes) -> str:
    with pytest.raises(FilmError) as caught:
        decode(data)
    sentence = str(caught.value)
    assert 0 < len(sentence) < 150
    assert "\n" not in sentence
    assert caught.value.__cause__ is None
    return sentence


# ------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_jpeg_is_the_same_grey_film(quality, progressive, mode):
    # Pillow, like Adobe's programs, stores CMYK inverted.
    image = Image.fromarray(film()).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    assert_same(saved(image, "JPEG", quality=quality, progressive=progressive), film(), within=8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_every_png_is_the_same_grey_film(mode):
    assert_same(saved(Image.fromarray(film()).convert(mode)), film(), within=1)


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


def test_transparent_pixels_are_black_and_a_fully_transparent_film_is_refused():
    layers = np.dstack([film()] * 3 + [np.full((60, 80), 255, np.uint8)])
    layers[:30, :, 3] = 0
    expected = film()
    expected[:30] = 0
    assert_same(cv2.imencode(".png", layers)[1].tobytes(), expected, within=1)
    layers[..., 3] = 0
    assert "no picture" in refusal(cv2.imencode(".png", layers)[1].tobytes())


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(format, orientation, turns):
    image = Image.fromarray(film())
    exif = image.getexif()
    exif[0x0112] = orientation
    assert_same(saved(image, format, exif=exif.tobytes()), np.rot90(film(), turns), within=6)


def test_one_bit_png():
    assert_same(saved(Image.fromarray(film() > 128)), np.where(film() > 128, 255, 0), within=0)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_one_even_grey_is_refused(value, format):
    assert "no picture" in refusal(saved(Image.new("L", (64, 64), value), format))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (saved(Image.fromarray(film()), "GIF"), "a GIF"),
        (saved(Image.fromarray(film()), "TIFF"), "a TIFF"),
        (saved(Image.fromarray(film()), "BMP"), "a BMP"),
        (saved(Image.fromarray(film()), "WEBP"), "a WebP"),
        (saved(Image.fromarray(film()), "JPEG2000"), "a JPEG 2000"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"PK\x03\x04" + bytes(40), "a zip"),
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"secret words, not a film", "text"),
        (bytes(range(256)), "not a JPEG, PNG or DICOM"),
    ],
)
def test_other_files_are_refused_by_name(data, word):
    sentence = refusal(data)
    assert word in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_files_are_refused(format, share):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
    data = saved(Image.fromarray(noise), format)
    assert "damaged" in refusal(data[: int(len(data) * share)])


# ------------------------------------------------------------------------------------------ JPEGs, damaged and harmless


def textured() -> bytes:
    """A JPEG whose scan is long enough for damage to show."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 150), np.uint8)
    return saved(Image.fromarray(cv2.GaussianBlur(noise, (5, 5), 0)), "JPEG")


def part(data: bytes, share: float) -> int:
    """A place in the scan of a JPEG."""
    start = data.index(b"\xff\xda") + 12
    return start + int(share * (len(data) - 2 - start))


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


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (lambda: textured(), "JPEG"),
        (lambda: saved(Image.fromarray(film())), "PNG"),
        (lambda: dicom(deep()), "DICOM"),
        (lambda: dicom(deep())[132:], "DICOM"),
        (lambda: dicom(deep())[128:], "DICOM"),
        (lambda: b"path,label\na.png,NORMAL\n" * 9, ""),
        (lambda: saved(Image.fromarray(film()), "GIF"), ""),
        (lambda: bytes(1024), ""),
        (lambda: b"", ""),
    ],
)
def test_films_are_told_by_their_first_bytes(data, expected):
    assert served.kind(data()[:1024]) == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_tiny_films_are_refused(format):
    for size in ((1, 1), (15, 400), (400, 15)):
        assert "too small" in refusal(saved(Image.effect_noise(size, 80), format))
    assert decode(saved(Image.effect_noise((16, 16), 80), format)).shape == (16, 16)


def test_kinds_of_jpeg_that_are_not_read_are_named():
    data = bytearray(saved(Image.fromarray(film()), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    assert "12 bits" in refusal(bytes(data))
    data[frame + 4], data[frame + 1] = 8, 0xC3
    assert "lossless" in refusal(bytes(data))


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


# -------------------------------------------------------------------------------------------------------------- bounds


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(side: int, depth: int = 8, colour: int = 0) -> bytes:
    """A valid PNG of side x side black pixels, a thousandth of its size or less."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    squeeze, rows = zlib.compressobj(9), bytes((side * channels * depth // 8 + 1) * 100)
    pixels = b"".join(squeeze.compress(rows) for _ in range(side // 100)) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


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


# ------------------------------------------------------------------------------------------------------ size and scale


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


# --------------------------------------------------------------------------------------------------------------- DICOM


def dicom(pixels: np.ndarray | bytes, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """A DICOM film around pixels (uint8 or uint16 [H, W], uint8 [H, W, 3], or a compressed frame of film())."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.PatientName = "Doe^Jane"
    dataset.Modality, dataset.BodyPartExamined = "CR", "CHEST"
    shape = film().shape if isinstance(pixels, bytes) else pixels.shape
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = 3 if len(shape) == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if len(shape) == 3 else "MONOCHROME2"
    if len(shape) == 3:
        dataset.PlanarConfiguration = 0
    bits = 8 if isinstance(pixels, bytes) else 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0
    if isinstance(pixels, bytes):
        dataset.PixelData = encapsulate([pixels])
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
    for name, value in elements.items():
        setattr(dataset, name, value)
        if name == "BitsStored":
            dataset.HighBit = value - 1
    buffer = io.BytesIO()
    private = {} if syntax.startswith("1.2.840.10008") else {"implicit_vr": False, "little_endian": True}
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True, **private)
    return buffer.getvalue()


def deep(bits: int = 12) -> np.ndarray:
    return np.rint(film().astype(float) * (2**bits - 1) / 255).astype(np.uint16)


def jpeg_2000(codes: np.ndarray) -> bytes:
    """A lossless codestream; uint16 as 12 bits (Pillow writes 16 only, so its level shift is undone)."""
    if codes.dtype == np.uint8:
        return saved(Image.fromarray(codes), "JPEG2000", no_jp2=True)
    data = bytearray(saved(Image.fromarray(codes + np.uint16(2**15 - 2**11)), "JPEG2000", no_jp2=True))
    data[42] = 11  # bits less one, in the SIZ segment
    return bytes(data)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_of_12_bits_fills_the_grey_scale(syntax):
    pixels = deep() if syntax != ExplicitVRBigEndian else deep().byteswap()
    assert_same(dicom(pixels, syntax, BitsStored=12), film(), within=1)


def test_dicom_of_8_bits():
    assert_same(dicom(film()), film(), within=1)


def test_monochrome1_is_inverted():
    inverted = (4095 - deep()).astype(np.uint16)
    assert_same(dicom(inverted, BitsStored=12, PhotometricInterpretation="MONOCHROME1"), film(), within=1)


def test_a_rescale_with_a_negative_slope_inverts():
    inverted = (4095 - deep()).astype(np.uint16)
    assert_same(dicom(inverted, BitsStored=12, RescaleSlope=-1, RescaleIntercept=4095), film(), within=1)


def test_signed_pixels():
    signed = (deep().astype(np.int16) - 2048).view(np.uint16)
    assert_same(dicom(signed, BitsStored=12, PixelRepresentation=1), film(), within=1)
    assert_same(dicom(signed & 0x0FFF, BitsStored=12, PixelRepresentation=1), film(), within=1)


def test_overlays_in_the_unused_high_bits_are_ignored():
    overlaid = deep() | (np.arange(80) % 2 << 13).astype(np.uint16)
    assert_same(dicom(overlaid, BitsStored=12), film(), within=1)


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


@pytest.mark.parametrize("planar", [0, 1])
def test_dicom_in_colour(planar):
    pixels = np.dstack([film()] * 3)
    stored = pixels if planar == 0 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    data = dicom(pixels, PixelData=stored.tobytes(), PlanarConfiguration=planar)
    assert_same(data, film(), within=1)
    pixels[..., 1:] = 128
    assert_same(dicom(pixels, PhotometricInterpretation="YBR_FULL"), film(), within=1)


def rle(pixels: np.ndarray, **elements: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom(pixels, **elements)))
    dataset.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


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


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def put(data: bytes, *elements: bytes) -> bytes:
    """The DICOM with elements of group 0028 more, in their place, which pydicom would not write as they are."""
    for one in elements:
        tag = struct.unpack_from("<HH", one)
        at = (
            min(
                data.index(struct.pack("<HH", 0x0028, number))
                for number in (0x0100, 0x0101, 0x0102, 0x0103)
                if (0x0028, number) > tag
            )
            if tag < (0x0028, 0x0103)
            else data.index(struct.pack("<HH", 0x7FE0, 0x0010))
        )
        data = data[:at] + one + data[at:]
    return data


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


def twelve(**elements: Any) -> bytes:
    return dicom(deep(), BitsStored=12, **elements)


def without_meta(data: bytes) -> bytes:
    """Without preamble, file meta information and so without a transfer syntax."""
    return data[data.index(struct.pack("<HH", 0x0008, 0x0016)) :]


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


def lossless(codes: np.ndarray, name: str, **elements: Any) -> bytes:
    """A DICOM of codes uint16 [H, W] whose pixels GDCM compressed; `name` is that of its transfer syntax there."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = f"{scratch}/a.dcm", f"{scratch}/b.dcm"
        Path(source).write_bytes(dicom(codes, BitsStored=12, **elements))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(source)
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(target)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return Path(target).read_bytes()


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


def test_deflated_bombs_are_not_inflated():
    head = dicom(film(), DeflatedExplicitVRLittleEndian)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeeze.compress(bytes(10**7)) for _ in range(5)) + squeeze.flush()
    assert "deflated" in refusal(head[:400] + bomb)


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


# ---------------------------------------------------------------------------------------------------------- concurrency


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


# ----------------------------------------------------------------------------------------------------------- real films


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
