"""A file is told by its first bytes, and one that is no film is refused by name."""

import pytest
from PIL import Image

from pneumonia import served
from tests.served.conftest import deep, dicom, film, refusal, saved, textured

pytestmark = [  # pydicom's, about damaged files
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
]


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
