"""Films as bytes of every format, and a package of a tiny network."""

import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import gdcm
import mlflow.pyfunc
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    RLELossless,
)
from torch import nn

from pneumonia.metrics.calibration import Calibration
from pneumonia.served import FilmError, decode
from pneumonia.serving import export as package
from tests.known import known


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


def textured() -> bytes:
    """A JPEG whose scan is long enough for damage to show."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 150), np.uint8)
    return saved(Image.fromarray(cv2.GaussianBlur(noise, (5, 5), 0)), "JPEG")


def part(data: bytes, share: float) -> int:
    """A place in the scan of a JPEG."""
    start = data.index(b"\xff\xda") + 12
    return start + int(share * (len(data) - 2 - start))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(side: int, depth: int = 8, colour: int = 0) -> bytes:
    """A valid PNG of side x side black pixels, a thousandth of its size or less."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    squeeze, rows = zlib.compressobj(9), bytes((side * channels * depth // 8 + 1) * 100)
    pixels = b"".join(squeeze.compress(rows) for _ in range(side // 100)) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


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


def rle(pixels: np.ndarray, **elements: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom(pixels, **elements)))
    dataset.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


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


def twelve(**elements: Any) -> bytes:
    return dicom(deep(), BitsStored=12, **elements)


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


SIZE = 32
CLASSES = ("NORMAL", "PNEUMONIA")


class TinyNetwork(nn.Module):
    """Two convolutions, in the form that `package.write` asks for."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()
        )
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(12, 1)
        nn.init.normal_(self.head.weight, std=2.0)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.maps(x).mean((2, 3)))).squeeze(1)


def write(folder: Path, network: nn.Module | None = None, **changes: Any) -> Path:
    network = network or TinyNetwork()
    settings: dict[str, Any] = {
        "size": SIZE,
        "classes": CLASSES,
        "threshold": 0.4,
        "calibration": Calibration(1.5, -0.2),
        "familiarity": known(network, size=SIZE),
    }
    package.write(folder, network, **{**settings, **changes})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("package") / "package")


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (20, SIZE, SIZE), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(film, (0, 0), 2) for film in noise])


def png(film: np.ndarray) -> bytes:
    return cv2.imencode(".png", film)[1].tobytes()


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        mlflow.pyfunc.save_model(path, **package.pyfunc_arguments(folder))
        assert not [file for file in path.rglob("*") if file.suffix in (".pkl", ".pickle") or file.name == "uv.lock"]
        return mlflow.pyfunc.load_model(str(path))


GOOD = png(np.arange(32 * 40, dtype=np.uint16).reshape(32, 40).astype(np.uint8))
