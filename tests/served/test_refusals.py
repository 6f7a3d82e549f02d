"""Each sentence of a refusal has a kind."""

import ast
from pathlib import Path

import pytest

from pneumonia import served
from pneumonia.served.formats import name_format
from pneumonia.served.refusals import KINDS, kind_of_refusal


def sentences():
    """Every sentence that the served code refuses a film or a request with; what is filled in is a word."""
    for path in sorted(Path(served.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("FilmError", "RequestError"):
                yield from _texts(node.args[0])


def _texts(node):
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "JPEG" for part in parts)
            if text.startswith("JPEG"):  # record {record}: {error}, and {reason} (any_dicom ...): said elsewhere
                return
            yield text.removeprefix("record JPEG: ")
        case ast.IfExp(body=one, orelse=other):
            yield from _texts(one)
            yield from _texts(other)


@pytest.mark.parametrize("sentence", sorted({text for text in sentences() if text != "JPEG"}))
def test_no_sentence_is_of_no_kind(sentence):
    assert kind_of_refusal(sentence) in KINDS
    assert kind_of_refusal(f"record 12: {sentence}") == kind_of_refusal(sentence)


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("record 3: the image is missing", "missing"),
        (name_format(b""), "missing"),
        (name_format(b"GIF89a"), "other_format"),
        (name_format(b"\x00" * 20), "other_format"),
        ("the image is not base64 (a path or URL is not read)", "not_base64"),
        ("the JPEG is damaged or cut short", "damaged"),
        ("the film is too small: a side has fewer than 16 pixels", "size"),
        ("the DICOM is not of a chest, by its BodyPartExamined (any_dicom reads it all the same)", "no_chest_film"),
        ("the DICOM's JPEG 2000 codestream is damaged", "damaged"),
        ("the DICOM is deflated, which is not read", "unread_dicom"),
        ("the JPEG has 12 bits a sample; only 8 are read", "unread_picture"),
        ("a request must hold 1 to 1000 records, not 0", "request"),
        ("the model failed on this request; the server's log says why", "internal"),
        ("something new", "other"),
        ("", ""),
    ],
)
def test_kinds(sentence, kind):
    assert kind_of_refusal(sentence) == kind
