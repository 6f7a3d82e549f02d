import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pneumonia import served
from pneumonia.metrics.calibration import Calibration
from pneumonia.serving import export as package
from pneumonia.serving import predict
from tests.known import known
from tests.served.conftest import deep, dicom


class Tiny(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 4, 5, stride=4)
        self.head = nn.Linear(4, 1)

    def maps(self, films: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(films))

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(films).mean((2, 3)))[:, 0]


def save(folder: Path, *, seed: int = 0, classes: tuple[str, str] = ("NORMAL", "PNEUMONIA")) -> Path:
    network = Tiny(seed)
    package.write(
        folder / "package",
        network,
        size=32,
        classes=classes,
        threshold=0.5,
        calibration=Calibration(3.0, 0.1),
        familiarity=known(network),
    )
    mlflow.pyfunc.save_model(folder / "model", **package.pyfunc_arguments(folder / "package"))
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> predict.Model:
    return predict.load(str(folder))


def film(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (60, 80), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, cv2.GaussianBlur(noise, (0, 0), 1 + seed))[1].tobytes())
    return path


def test_predictions_are_the_package_s_own_whatever_the_number_of_threads(
    model: predict.Model, folder: Path, tmp_path: Path
) -> None:
    paths = [film(tmp_path / f"{i}.png", i) for i in range(8)]
    table = predict.predict(model, paths)
    predictor = served.Predictor(folder / "artifacts" / "package")
    films = np.stack([served.read_film(path.read_bytes(), 32) for path in paths])

    np.testing.assert_allclose(table.probability, predictor.probabilities(films), atol=1e-12)
    assert table.path.tolist() == [str(path) for path in paths]
    assert table.label.tolist() == [model.classes[p >= model.threshold] for p in table.probability]
    assert set(table.threshold) == {0.5}
    assert (table.error == "").all()
    pd.testing.assert_frame_equal(table, predict.predict(model, paths, threads=1))


def test_a_bad_film_is_a_row_that_says_why_and_spoils_no_other(model: predict.Model, tmp_path: Path) -> None:
    good = [film(tmp_path / "a.jpeg", 1), film(tmp_path / "z.jpeg", 2)]
    text, empty, cut, gone = (tmp_path / name for name in ("text.jpeg", "empty.jpeg", "cut.jpeg", "gone.jpeg"))
    text.write_text("<html>not found</html>")
    empty.touch()
    cut.write_bytes(good[0].read_bytes()[:300])
    table = predict.predict(model, [good[0], text, empty, cut, gone, tmp_path, good[1]]).set_index("path")

    assert len(table) == 7
    alone = predict.predict(model, good).set_index("path")
    pd.testing.assert_frame_equal(table.loc[[str(path) for path in good]], alone)
    bad = table.drop(index=[str(path) for path in good])
    assert bad.probability.isna().all()
    assert (bad.label == "").all()
    assert bad.error.str.len().between(5, 120).all()
    assert not bad.error.str.contains("record|Traceback|Error").any()
    assert table.error[str(gone)] == "no such file"
    assert table.error[str(tmp_path)] == "not a file"


def test_a_pipe_is_refused_instead_of_waited_for(model: predict.Model, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpeg")
    assert predict.predict(model, [tmp_path / "pipe.jpeg"]).error.tolist() == ["not a file"]


def test_a_file_beyond_the_bound_is_not_read(
    model: predict.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "MAX_BYTES", 1 << 20)
    with (tmp_path / "large.jpeg").open("wb") as file:
        file.truncate((1 << 20) + 1)
    assert predict.predict(model, [tmp_path / "large.jpeg"]).error.tolist() == ["the file is larger than 1 MiB"]


def test_two_models_in_one_process_each_run_their_own_code(
    model: predict.Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
    other = save(tmp_path)
    code = other / "served.py"
    code.write_text(code.read_text().replace('"probability": probability,', '"probability": 0.25,'))
    path = film(tmp_path / "a.png")
    before = predict.predict(model, [path])
    assert predict.predict(predict.load(str(other)), [path]).probability.tolist() == [0.25]
    pd.testing.assert_frame_equal(predict.predict(model, [path]), before)
    pd.testing.assert_frame_equal(predict.predict(predict.load(str(folder)), [path]), before)


def test_films_of_files_folders_and_globs_once_each_and_in_order(tmp_path: Path) -> None:
    b, a, deep = (film(tmp_path / name) for name in ("d/b.jpeg", "d/a.PNG", "d/sub/deep/c.jpg"))
    odd = film(tmp_path / "odd [1].jpeg")
    named = tmp_path / "films.txt"
    for hidden in (".DS_Store", "._a.jpeg", ".cache/x.jpeg", "__MACOSX/x.jpeg", "sub/__MACOSX/y.jpeg", "notes.txt"):
        (tmp_path / "d" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / hidden).touch()
    named.touch()
    gif = tmp_path / "d" / "sub" / "x.gif"
    gif.touch()
    (tmp_path / "d" / "sub" / "loop").symlink_to(tmp_path / "d")

    folder = str(tmp_path / "d")
    passed = {".DS_Store": 1, "._*": 1, "in .cache": 1, "__MACOSX": 2, "text (.txt)": 1}
    assert predict.films([folder]) == ([a, b, gif, deep], passed)
    assert predict.films([str(b), folder])[0] == [b, a, gif, deep]
    assert predict.films([f"{folder}/*"])[0] == [a, b, gif, deep]
    assert predict.films([f"{folder}/**"])[0] == [a, b, gif, deep]
    assert predict.films([f"{folder}/**/*.jp*g"]) == ([b, deep], {"__MACOSX": 2})
    assert predict.films([str(odd), str(named)]) == ([odd, named], {})


def test_films_by_content_masks_and_what_is_passed_over(tmp_path: Path) -> None:
    """A hospital's CD, and the folders of the COVID-19 Radiography Database."""
    (tmp_path / "DICOM").mkdir()
    dicom = b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + b"\0" * 400
    for name in ("DICOM/IM000001", "DICOM/1.2.840.113619.2.5", "DICOM/a.IMA"):
        (tmp_path / name).write_bytes(dicom)
    bare = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100\x08\x00\x16\x00UI\x02\x001\x00" + b"\0" * 150
    (tmp_path / "DICOM/b").write_bytes(bare)  # without its preamble
    (tmp_path / "DICOM/DIR").write_bytes(dicom + b"1.2.840.10008.1.3.10\0")  # a DICOMDIR by another name
    (tmp_path / "DICOMDIR").write_bytes(dicom)
    (tmp_path / "README").write_text("see the viewer")
    (tmp_path / "core").write_bytes(b"\x02\x00\x00\x00\x02\x00\x00\x00" * 90)
    (tmp_path / "autorun.inf").touch()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    film(tmp_path / "c.JPG").rename(tmp_path / "c.JFIF")
    for part in ("images", "masks", "labels"):
        film(tmp_path / f"COVID/{part}/COVID-1.png")
    film(tmp_path / "pair/x.png")
    film(tmp_path / "pair/x_mask.png")
    taken, passed = predict.films([str(tmp_path)])
    assert {path.relative_to(tmp_path).as_posix() for path in taken} == {
        "DICOM/IM000001", "DICOM/1.2.840.113619.2.5", "DICOM/a.IMA", "DICOM/b", "c.JFIF",
        "COVID/images/COVID-1.png", "pair/x.png",
    }  # fmt: skip
    assert passed == {
        "DICOMDIR": 2, "text (no suffix)": 1, "unknown (no suffix)": 1, "system (.inf)": 1, "not a file": 1,
        "in masks": 1, "in labels": 1, "mask beside its film": 1,
    }  # fmt: skip
    masks = tmp_path / "COVID/masks"
    for named in (masks, masks / "*.png", masks / "COVID-1.png"):
        assert predict.films([str(named)]) == ([masks / "COVID-1.png"], {}), "what is named is taken"
    image = tmp_path / "COVID/images/COVID-1.png"
    assert predict.films([f"{tmp_path}/COVID/*/*.png"]) == ([image], {"in masks": 1, "in labels": 1})
    assert predict.films([f"{tmp_path}/COVID/*"]) == ([image], {"in masks": 1, "in labels": 1})
    with pytest.raises(ValueError, match=r"nothing.* is no file, no folder and no pattern that matches any"):
        predict.films([f"{tmp_path}/COVID/*", str(tmp_path / "nothing*")])
    with pytest.raises(ValueError, match="is no file"):
        predict.films(["a" * 300])


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.jpeg", "nowhere.jpeg"])
def test_an_input_that_names_nothing_is_said(tmp_path: Path, missing: str) -> None:
    there = film(tmp_path / "a.jpeg")
    with pytest.raises(ValueError, match="nowhere"):
        predict.films([str(there), str(tmp_path / missing)])


def test_no_films_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ValueError, match=r"no film in .*JPEG.* \(skipped: 1 text \(\.txt\)\)"):
        predict.films([str(tmp_path)])
    with pytest.raises(ValueError, match="no film in an empty list"):
        predict.films([])


def test_tables_keep_every_digit_and_every_reason(model: predict.Model, tmp_path: Path) -> None:
    (tmp_path / "bad, or not.jpeg").write_text("text")
    table = predict.predict(model, [film(tmp_path / "ü.png"), tmp_path / "bad, or not.jpeg"])
    predict.write(table, tmp_path / "new" / "table.csv")
    read = pd.read_csv(tmp_path / "new" / "table.csv")
    texts = {"label": "", "warning": "", "error": ""}
    read = read.astype({"warning": "str", "familiar": "boolean"}).fillna(texts)
    pd.testing.assert_frame_equal(read, table, check_exact=True)
    predict.write(table, tmp_path / "table.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert rows[0] == {**table.iloc[0].to_dict(), "warning": rows[0]["warning"] or None, "error": None}
    assert rows[1]["probability"] is rows[1]["label"] is None
    assert rows[1]["error"] == table.error[1]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"table.csv"}


def test_a_name_that_is_not_unicode_can_be_written(model: predict.Model, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    try:
        path.write_bytes(film(tmp_path / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")
    table = predict.predict(model, [path])
    assert (table.error == "").all()
    for suffix in (".csv", ".jsonl"):
        predict.write(table, tmp_path / f"table{suffix}")
        assert "xff.png" in (tmp_path / f"table{suffix}").read_text()


@pytest.mark.parametrize("name", ["table.xlsx", "table", "csv"])
def test_an_unknown_output_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in \.csv or \.jsonl"):
        predict.write(pd.DataFrame(columns=list(predict.COLUMNS)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_as_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        predict.check_output(tmp_path / "a.csv")


def test_a_missing_model_is_named_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(predict.ModelError, match=rf"no model at {tmp_path}/nowhere: looked for .*MLmodel"):
        predict.load("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(predict.ModelError, match="empty"):
        predict.load("empty")


def test_a_model_of_another_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
    code = "import mlflow\nclass M(mlflow.pyfunc.PythonModel):\n    def predict(self, model_input):\n        return 1\n"
    (tmp_path / "code.py").write_text(f"{code}mlflow.models.set_model(M())\n")
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=str(tmp_path / "code.py"), pip_requirements=["mlflow"])
    with pytest.raises(predict.ModelError, match=r"not one of this program's"):
        predict.load(str(tmp_path / "m"))


def test_a_model_that_lost_its_graph_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "artifacts" / "package" / "model.onnx").unlink()
    with pytest.raises(predict.ModelError, match=r"cannot be loaded"):
        predict.load(str(tmp_path / "model"))


@pytest.mark.slow
def test_registered_and_logged_uris(folder: Path, tmp_path: Path, store: str) -> None:
    client = mlflow.MlflowClient(store)
    with mlflow.start_run(experiment_id=client.create_experiment("predict")) as run:
        arguments = package.pyfunc_arguments(folder / "artifacts" / "package")
        info = mlflow.pyfunc.log_model(name="model", registered_model_name="films", **arguments)
    client.set_registered_model_alias("films", "champion", "1")
    path = film(tmp_path / "a.png")
    expected = predict.predict(predict.load(str(folder)), [path])
    for name in ("models:/films@champion", "models:/films/1", info.model_uri, f"runs:/{run.info.run_id}/model"):
        loaded = predict.load(name)
        pd.testing.assert_frame_equal(predict.predict(loaded, [path]), expected)
        assert loaded.metadata.run_id == run.info.run_id
    for name in ("models:/films@nobody", "models:/films/7", "models:/strangers/1", f"runs:/{'0' * 32}/model"):
        with pytest.raises(predict.ModelError, match=name):
            predict.load(name)


def test_without_an_output_the_table_goes_to_standard_output(
    model: predict.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = predict.predict(model, [film(tmp_path / "a.png")], progress=True)
    assert "predict: 100%" in capsys.readouterr().err
    predict.write(table, None)
    header, row = capsys.readouterr().out.splitlines()
    assert header == "path,probability,label,threshold,familiarity,familiar,warning,error"
    assert row.startswith(str(tmp_path / "a.png"))
    predict.predict(model, [])
    assert capsys.readouterr() == ("", "")


def test_any_dicom_is_asked_of_the_model_and_what_is_doubtful_stands_in_the_table(
    model: predict.Model, tmp_path: Path
) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom(deep(), BitsStored=12, Modality="OT", ViewPosition="LL"))
    assert "any_dicom reads it" in predict.predict(model, [path])["error"].item()
    row = predict.predict(model, [path], any_dicom=True).iloc[0]
    assert row["error"] == ""
    assert "Modality" in row["warning"]
    assert "ViewPosition" in row["warning"]
    assert predict.heatmaps(model, [path], any_dicom=True)


def test_a_model_of_before_any_dicom_is_named(model: predict.Model, tmp_path: Path) -> None:
    class Before:
        def get_params_schema(self) -> None:
            return None

    old = replace(model, metadata=Before())
    with pytest.raises(predict.ModelError, match="earlier version, which has no any_dicom"):
        predict.predict(old, [film(tmp_path / "a.png")], any_dicom=True)
    assert predict.predict(old, [film(tmp_path / "a.png")])["error"].item() == ""
