"""Films as people have them, on the commands themselves: one judgement of a film by all of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from pydicom.uid import JPEG2000Lossless

from pneumonia.cli import cli
from pneumonia.tracking.store import Tracker
from tests.conftest import ROOT
from tests.served.conftest import deep, dicom, element, film, jpeg_2000, lossless, part, put, textured
from tests.serving.test_predict import save

FIELD = ROOT.parent / "shared" / "data" / "field"
TINY = ("--size", "32", "--epochs", "1", "--width", "4", "--device", "cpu", "--gallery", "false")

LOST = {
    "third.jpeg": textured()[: part(textured(), 0.3)] + b"\xff\xd9",
    "hole.jpeg": textured()[: part(textured(), 0.5)] + bytes(300) + textured()[part(textured(), 0.5) + 300 :],
}
WHOLE = {
    "zeros.jpeg": textured().replace(b"\xff\xc4", bytes(5) + b"\xff\xc4", 1),
    "IM000001": dicom(deep(), BitsStored=12, WindowCenter=1000, WindowWidth=3000),
    "film.DICOM": put(dicom(deep(), BitsStored=12), element(0x28, 0x1052, b"DS", b"")),
    "no preamble.dic": dicom(deep(11), BitsStored=12)[132:],
    "boxed.dcm": dicom(jpeg_2000(film()), JPEG2000Lossless),
    "lossless.dcm": lossless(deep(), "JPEGLosslessProcess14_1"),
    "ls.dcm": lossless(deep(), "JPEGLSLossless"),
}
STRANGE = {"other.dcm": dicom(deep(), BitsStored=12, Modality="OT", BodyPartExamined="THX", ViewPosition="LL")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def here(home: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))


def pneumonia(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def films(root: Path, odd: dict[str, bytes]) -> Path:
    """Odd films among 30 plain ones in each split's NORMAL, plain ones in PNEUMONIA."""
    for split in ("train", "test"):
        for number, name in enumerate(("NORMAL", "PNEUMONIA")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(30):
                noise = np.random.default_rng([number, n, len(split)]).integers(0, 2000, deep().shape, np.uint16)
                (folder / f"{n}.dcm").write_bytes(dicom(deep() // 2 + noise, BitsStored=12))
        for name, data in odd.items():
            # Another byte behind the end makes it another film than that of the other split.
            (root / split / "NORMAL" / name).write_bytes(data + b"\0\0" * (split == "test"))
    return root


def predicted(model: Path, folder: Path, *words: str) -> pd.DataFrame:
    output = folder.parent / "out.jsonl"
    pneumonia("predict", "--model", model, "-o", output, *words, folder)
    table = pd.read_json(output, lines=True)
    return table.set_index(table["path"].map(lambda path: Path(path).name))


@pytest.mark.slow
def test_one_judgement_by_every_command(model: Path, tracker: Tracker, tmp_path: Path) -> None:
    root = films(tmp_path / "films", {**LOST, **WHOLE, **STRANGE})
    refused = {*LOST, *STRANGE}

    table = predicted(model, root / "train/NORMAL")
    assert set(table.index[table["error"].notna()]) == refused
    assert set(table.index) >= {*WHOLE, *refused}
    assert all("damaged or cut short" in table.loc[name, "error"] for name in LOST)
    assert "any_dicom reads it" in table.loc["other.dcm", "error"]

    trained = pneumonia("train", *TINY, "--data", root)
    assert trained.exit_code == 0, trained.output
    explored = pneumonia("eda", "--data", root, "--json")
    assert explored.exit_code == 0, explored.output
    evaluated = pneumonia("evaluate", "--model", model, "--data", root, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    for said, split, artifact in ((explored, "train", "eda.json"), (evaluated, "test", "evaluation.json")):
        listed = tracker.text_of(json.loads(said.stdout)["run_id"], artifact) or ""
        assert {name for name in {**LOST, **WHOLE, **STRANGE} if f"{split}/NORMAL/{name}" in listed} == refused
    for said in (trained, explored, evaluated):
        assert "Corrupt JPEG" not in said.output
        assert "Warning" not in said.output

    for command in (("train", *TINY), ("eda",), ("evaluate", "--model", model)):
        said = pneumonia(*command, "--data", root, "--any-dicom")
        assert said.exit_code == 0, said.output
        assert "other.dcm" not in said.output
    table = predicted(model, root / "train/NORMAL", "--any-dicom", "true")
    assert set(table.index[table["error"].notna()]) == set(LOST)
    assert "ViewPosition" in table.loc["other.dcm", "warning"]
    assert pd.isna(table["warning"]["film.DICOM"])


@pytest.mark.real
@pytest.mark.skipif(not FIELD.exists(), reason="the small films of ../shared/data/field are not here")
def test_the_films_of_the_field(model: Path) -> None:
    """Each row of their table."""
    table = predicted(model, FIELD)
    damaged = {"third_of_scan_then_end.jpeg", "hole_in_scan.jpeg"}
    assert set(table.index[table["error"].notna()]) == damaged
    scores = table["probability"]
    assert scores["bytes_before_marker.jpeg"] == scores["ok.jpeg"]
    for name in (
        *("rescale_empty.dcm", "window_zero.dcm", "voi_function_empty.dcm", "voi_function_word.dcm"),
        *("no_preamble.dcm", "jp2_wrapper.dcm", "film.dicom", "IM000001"),
    ):
        assert scores[name] == scores["plain.dcm"], name
    assert scores.notna().sum() == len(scores) - len(damaged)
    assert {"film.jfif", "padding_limit_empty.dcm"} <= set(table.index)
