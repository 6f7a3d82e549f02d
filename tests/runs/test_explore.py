"""The exploratory report tells what is in the folder, and looks at no pixel of a test film."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pneumonia.cli import cli
from pneumonia.data import cache
from pneumonia.data.index import Index, scan
from pneumonia.reports import exploration_page
from pneumonia.reports.exploration_figures import figures
from pneumonia.results.exploration import Exploration
from pneumonia.runs import explore
from pneumonia.runs.context import RunContext
from pneumonia.served import FilmError, decode, read_film
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import records
from pneumonia.tracking.store import Tracker
from tests.conftest import NO_SERVER

PNEUMONIA, NORMAL = 1, 0


def film(path: Path, seed: int, *, width: int = 40, height: int = 30, **how: Any) -> Path:
    """A film of noise; `how` is what Pillow saves it by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def dicom(path: Path, *, width: int, height: int) -> Path:
    data = pydicom.Dataset()
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = height, width, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8).tobytes()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def test_each_film_has_a_row_with_the_size_of_its_pixels(explored: Exploration, index: Index) -> None:
    assert explored.films["path"].tolist() == index.table["path"].tolist()
    for row in explored.films.sample(10, random_state=0).itertuples():
        data = (index.root / row.path).read_bytes()
        pixels = decode(data)
        assert (row.height, row.width) == pixels.shape
        assert row.bytes_per_pixel == len(data) / pixels.size


def test_mean_and_variance_are_those_of_the_train_and_val_films(
    explored: Exploration, index: Index, tmp_path: Path
) -> None:
    decoded = cache.decode(index.keep("train", "val"), size=explore.SIDE, home=tmp_path)
    for label in (NORMAL, PNEUMONIA):
        films = decoded.films[decoded.index.table["label"].to_numpy() == label].astype(np.float64)
        np.testing.assert_allclose(explored.mean[label], films.mean(axis=0))
        np.testing.assert_allclose(explored.variance[label], films.var(axis=0), atol=1e-6)
        assert explored.grey[label].sum() == pytest.approx(1)
        assert explored.grey[label] @ np.arange(256) == pytest.approx(films.mean())
    seen = explored.films[explored.films["split"] != "test"]
    np.testing.assert_allclose(seen["grey_mean"], decoded.films.mean(axis=(1, 2)), atol=1e-3)
    np.testing.assert_allclose(seen["grey_sd"], decoded.films.std(axis=(1, 2)), atol=1e-3)


def test_sums_do_not_depend_on_how_many_films_are_summed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    films, labels = rng.integers(0, 256, (23, 8, 8), dtype=np.uint8), np.arange(23) % 2
    whole = explore._pixels(films, labels)
    monkeypatch.setattr(explore, "TOGETHER", 5)
    for one, other in zip(whole, explore._pixels(films, labels), strict=True):
        np.testing.assert_allclose(one, other)


def test_no_pixel_of_a_test_film_is_looked_at(index: Index, tmp_path: Path) -> None:
    """A folder whose test films have a header and nothing behind it is described as the whole one is."""
    root = tmp_path / "films"
    shutil.copytree(index.root, root)
    for path in index.only("test")["path"]:
        whole = (root / path).read_bytes()
        start = whole.index(b"\xff\xda")  # of a JPEG's scan
        (root / path).write_bytes(whole[:start] + bytes(len(whole) - start))
    told = explore.explore(scan(root), home=tmp_path / "home")
    assert told.index.report.corrupt == ()
    test = told.films[told.films["split"] == "test"]
    assert len(test) == len(index.only("test"))
    assert test[["grey_mean", "grey_sd"]].isna().all(axis=None)
    assert all(told.films["split"].iloc[row] != "test" for row, _ in told.samples)
    assert np.isfinite(told.aucs()["test"]["bytes_per_pixel"])


def test_weighted_batches_are_half_and_half_whatever_the_folder() -> None:
    labels = np.array([1] * 900 + [0] * 100)
    plain, weighted = explore.draw(labels, "none", 50), explore.draw(labels, "weighted", 50)
    assert plain.shares.mean() == pytest.approx(0.9)
    assert (plain.times == 1).all()
    assert weighted.shares.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(1000))  # four standard errors
    assert weighted.times.sum() == len(labels)
    assert weighted.times[900:].mean() > 3 * weighted.times[:900].mean()
    assert (weighted.times[:900] == 0).any()


def test_headers_of_each_format(tmp_path: Path) -> None:
    jpeg = explore.head(film(tmp_path / "a.jpeg", 0, quality=90))
    assert (jpeg.width, jpeg.height, jpeg.kind) == (40, 30, "JPEG grey")
    assert explore.head(film(tmp_path / "b.jpeg", 0, quality=30)).quantisation > jpeg.quantisation > 1
    png = explore.head(film(tmp_path / "c.png", 0))
    assert (png.width, png.height, png.kind) == (40, 30, "PNG grey")
    assert np.isnan(png.quantisation)
    assert explore.head(dicom(tmp_path / "d.dcm", width=50, height=20))[:3] == (50, 20, "DICOM grey")


def test_a_jpeg_on_its_side_has_the_size_that_it_is_decoded_to(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = film(tmp_path / "a.jpeg", 0, exif=exif)
    assert explore.head(path)[:2] == (30, 40) == decode(path.read_bytes()).shape[::-1]


def test_damaged_exif_costs_no_film(tmp_path: Path) -> None:
    path = film(tmp_path / "a.jpeg", 0, exif=b"Exif\0\0" + bytes(range(20)))
    assert explore.head(path)[:2] == (40, 30)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(200), b"\xff\xd8\xff" + bytes(200), bytes(128) + b"DICM"])
def test_what_is_no_film_has_no_header(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpeg").write_bytes(data)
    with pytest.raises(FilmError):
        explore.head(tmp_path / "a.jpeg")


@pytest.fixture
def awkward(tmp_path: Path) -> Index:
    """Only train; ten films a class of several formats, without subtypes or patients' numbers; one is corrupt."""
    root = tmp_path / "awkward" / "train"
    for number in range(10):
        film(root / "healthy" / f"{number}.png", number)
        film(root / "ill" / f"{number}.jpeg", 100 + number, width=60)
    dicom(root / "ill" / "x.dcm", width=50, height=20)
    (root / "ill" / "broken.jpeg").write_bytes(b"\xff\xd8\xff" + bytes(200))
    return scan(tmp_path / "awkward")


def test_a_small_odd_folder_without_test_films_makes_a_page(awkward: Index, tmp_path: Path) -> None:
    told = explore.explore(awkward, home=tmp_path / "home")
    assert told.splits == ["train", "val"]
    ((path, reason),) = told.index.report.corrupt
    assert path.endswith("ill/broken.jpeg")
    assert set(told.films["kind"]) == {"PNG grey", "JPEG grey", "DICOM grey"}
    assert np.isnan(told.aucs()["train"]["quantisation"])  # no film of the one class has any
    exploration_page.write(told, tmp_path / "out")
    page = (tmp_path / "out" / "eda.html").read_text()
    assert "broken.jpeg" in page
    assert reason in page
    table = pd.read_csv(tmp_path / "out" / "films.csv", keep_default_na=False)
    assert table.columns.tolist() == ["path", "split", "label", "patient", "subtype", "bytes", "width", "height"]
    assert set(table["label"]) == {"healthy", "ill"}


def test_films_of_a_manifest_without_jpegs_have_no_figure_of_quantisation(
    tmp_path: Path, explored: Exploration
) -> None:
    films = [film(tmp_path / f"{number}.png", number).name for number in range(20)]
    pd.DataFrame({"path": films, "label": [0, 1] * 10}).to_csv(tmp_path / "films.csv", index=False)
    told = explore.explore(scan(tmp_path / "films.csv"), home=tmp_path / "home")
    assert set(figures(explored)) - set(figures(told)) == {"quantisation"}


def test_a_test_film_without_a_good_header_is_listed_and_left_out(index: Index, tmp_path: Path) -> None:
    root = shutil.copytree(index.root, tmp_path / "films")
    bad = root / index.only("test")["path"].iloc[0]
    bad.write_bytes(b"not a film")
    told = explore.explore(scan(root), home=tmp_path / "home")
    ((path, _),) = told.index.report.corrupt
    assert root / path == bad
    assert path not in set(told.films["path"])
    assert told.named()["data/corrupt"] == 1
    assert told.named()["data/test/films"] == len(index.only("test")) - 1


def test_the_figures_are_those_of_the_index(explored: Exploration, index: Index) -> None:
    named, as_dict = explored.named(), explored.as_dict()
    for split in ("train", "val", "test"):
        rows = index.table[index.table["split"] == split]
        assert named[f"data/{split}/positive"] == (rows["label"] == PNEUMONIA).sum()
        assert named[f"data/{split}/patients"] == rows["patient"].nunique()
        for label, name in enumerate(index.classes):
            sizes = rows[rows["label"] == label].groupby("patient").size()
            (of,) = [one for one in as_dict["films_a_patient"] if (one["split"], one["class"]) == (split, name)]
            assert (of["mean"], of["median"], of["largest"]) == (sizes.mean(), sizes.median(), sizes.max())
    first = explored.films.iloc[0]
    assert first["aspect"] == pytest.approx(first["width"] / first["height"])
    for position, pixels in explored.samples:
        whole = read_film((index.root / explored.films["path"].iloc[position]).read_bytes(), explore.SIDE)
        assert (pixels == whole).all()
    for draws, of in zip(explored.draws, as_dict["sampling"], strict=True):
        assert of["never_drawn"] == pytest.approx(1 - np.count_nonzero(draws.times) / draws.times.size)


def test_one_batch_has_no_spread(awkward: Index, tmp_path: Path) -> None:
    told = explore.explore(awkward, home=tmp_path / "home")
    assert [of["positive_share_sd"] for of in told.as_dict()["sampling"]] == [None, None]
    assert "percentage points" not in exploration_page.html(told, {})


@pytest.mark.figures
def test_the_command_logs_a_run_and_prints_one_json_object(
    tracker: Tracker, index: Index, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    result = CliRunner().invoke(cli, ["eda", "--data", str(index.root), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    run = tracker.client.get_run(told["run_id"])
    page = f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?"
    assert told["link"].startswith(page)
    assert (run.info.status, run.data.tags["role"]) == ("FINISHED", "eda")
    assert run.data.tags["data.fingerprint"] == told["fingerprint"] == index.fingerprint
    (dataset,) = run.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "eda"}
    assert run.data.metrics["data/films"] == told["films"] == len(index.table)
    assert run.data.metrics["data/train/auc_bytes_per_pixel"] == told["aucs"]["train"]["bytes_per_pixel"]

    root = Path(run.info.artifact_uri)
    assert {"balance.png", "mean_films.png", "bytes_per_pixel.png"} < {
        path.name for path in (root / "figures").iterdir()
    }
    assert json.loads((root / "eda.json").read_text())["report"]["used"] == len(index.table)
    table = pd.read_csv(root / "films.csv")
    assert table["path"].tolist() == index.table["path"].tolist()
    assert (table["label"] == "PNEUMONIA").tolist() == (index.table["label"] == PNEUMONIA).tolist()
    page = (root / "eda.html").read_text()
    assert "no pixel of a test film was looked at" in page
    assert page.count("<img ") == len(list((root / "figures").iterdir()))


def test_without_a_store_no_film_is_opened(index: Index, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "explore", lambda *_, **__: pytest.fail("films were opened"))
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        explore.explore_and_record(index, RunContext(home=home, tracker=Tracker(NO_SERVER)))
    assert records(home / "records") == []
