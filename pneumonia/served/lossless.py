"""JPEG Lossless and JPEG-LS, by GDCM in a process of its own."""

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless

from pneumonia.served.jpeg import IN_SCANS, JpegHeader
from pneumonia.served.limits import MAX_DECODED, MAX_SECONDS, FilmError

# GDCM ends the whole process at some damaged frames, so each is decoded in a process of its own: 0.05 s. What is
# imported here is what `import gdcm` wraps, without 0.1 s for a dictionary of DICOM's tables.
_GDCM = """
import json, sys
from _gdcm import gdcmswig as gdcm
asked = json.loads(sys.stdin.buffer.readline())
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
except ImportError:  # Windows has none
    pass
fragment, fragments, element = gdcm.Fragment(), gdcm.SequenceOfFragments.New(), gdcm.DataElement(gdcm.Tag(0x7FE0, 16))
fragment.SetByteStringValue(sys.stdin.buffer.read())
fragments.AddFragment(fragment)
element.SetValue(fragments.__ref__())
image = gdcm.Image()
image.SetNumberOfDimensions(2)
image.SetDimensions((asked["width"], asked["height"], 1))
image.SetDataElement(element)
kind = gdcm.PhotometricInterpretation.GetPIType("RGB" if asked["samples"] > 1 else "MONOCHROME2")
image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(asked["syntax"])))
bits = asked["bits"]
image.SetPixelFormat(gdcm.PixelFormat(asked["samples"], 8 if bits <= 8 else 16, bits, bits - 1, 0))
sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))
"""


def decode_lossless(frame: bytes, header: JpegHeader) -> np.ndarray:
    """JPEG Lossless and JPEG-LS by GDCM, which hides what is damaged in the first: [H, W] or [H, W, samples]."""
    height, width, samples, bits = header.height, header.width, header.components, header.precision
    dtype = np.dtype("u1" if bits <= 8 else "<u2")
    asked = {
        **{"width": width, "height": height, "samples": samples, "bits": bits},
        "syntax": JPEGLosslessSV1 if header.frame == 0xC3 else JPEGLSLossless,
        "memory": 3 * MAX_DECODED,
    }
    if find_spec("_gdcm") is None:
        raise FilmError("the DICOM's lossless compression takes python-gdcm to read, which is not installed")
    if header.frame == 0xC3 and samples > 1:  # damage could not be detected
        raise FilmError("the DICOM's lossless JPEG is in colour, which is not read")
    shape = (height, width) if samples == 1 else (height, width, samples)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _GDCM],
            input=json.dumps(asked).encode() + b"\n" + frame + b"\0" * (len(frame) % 2),
            capture_output=True,
            timeout=MAX_SECONDS,
            check=True,
        )
        codes = np.frombuffer(done.stdout, dtype).reshape(shape)
    except (subprocess.SubprocessError, ValueError):
        codes = None
    if codes is None or (header.frame == 0xC3 and not _whole_lossless(frame, codes, bits)):
        raise FilmError("the DICOM's compressed image is damaged or cut short")
    return codes


def _whole_lossless(frame: bytes, codes: np.ndarray, precision: int) -> bool:
    """Whether a lossless JPEG of one component holds as many bits as its pixels [H, W] take (ITU-T T.81, annex H): for
    a damaged one a decoder needs more, which it invents, or fewer.
    """
    at, restart = 2, 0
    lengths: dict[int, dict[int, int]] = {}  # of the codes in bits, by table and category
    while frame[at + 1] != 0xDA:
        marker, end = frame[at + 1], at + 2 + int.from_bytes(frame[at + 2 : at + 4])
        if marker == 0xDD:
            restart = int.from_bytes(frame[at + 4 : at + 6])
        while marker == 0xC4 and at + 4 < end:
            counts = frame[at + 5 : at + 21]
            categories = iter(frame[at + 21 : at + 21 + sum(counts)])
            lengths[frame[at + 4]] = {next(categories): n for n, count in enumerate(counts, 1) for _ in range(count)}
            at += 17 + sum(counts)
        at = end
    table, predictor, shift = frame[at + 6] >> 4, frame[at + 7], frame[at + 9] & 15
    start = end = at + 2 + int.from_bytes(frame[at + 2 : at + 4])
    while (end := frame.find(b"\xff", end)) >= 0 and frame[end + 1 : end + 2] in IN_SCANS:
        end += 2
    scan = frame[start : end if end >= 0 else len(frame)]
    marks = scan.count(b"\xff") - scan.count(b"\xff\0")

    height, width = codes.shape
    rows = restart // width or height  # between two restarts
    bits = np.array([lengths[table].get(n, 1 << 40) + n % 16 for n in range(17)])  # category 16 has no bits of its own
    taken = []
    for top in range(0, height, 64):  # in bands, to take little memory
        x = codes[max(top - 1, 0) : top + 64].astype(np.int32) >> shift
        expected = np.zeros_like(x)
        left, above, corner = x[1:, :-1], x[:-1, 1:], x[:-1, :-1]
        choices = [left, above, corner, left + above - corner, left + ((above - corner) >> 1)]
        choices += [above + ((left - corner) >> 1), (left + above) >> 1]
        expected[1:, 0], expected[1:, 1:] = x[:-1, 0], choices[predictor - 1]
        fresh = [row for row in range(len(x)) if (row + max(top - 1, 0)) % rows == 0]
        expected[fresh, 1:], expected[fresh, 0] = x[fresh, :-1], 1 << (precision - shift - 1)
        difference = np.abs(((x - expected + 2**15) & (2**16 - 1)) - 2**15)[min(top, 1) :]
        taken.append(bits[np.frexp(difference)[1]].sum(axis=1))
    needed = int((-(-np.add.reduceat(np.concatenate(taken), np.arange(0, height, rows)) // 8)).sum())
    spare = len(scan) - scan.count(b"\xff\0") - 2 * marks - needed
    return spare == 0 or (spare > 0 and not scan[-spare:].strip(b"\0"))
