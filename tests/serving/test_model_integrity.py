"""A model whose files are not those that were logged is neither loaded nor run by any command."""

import shutil
from pathlib import Path

import pytest

from pneumonia.registry import scoring
from pneumonia.serving import predict
from pneumonia.serving.model_integrity import check_model
from tests.serving.test_predict import save

RUN = "raise SystemExit('the changed code was run')\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        return save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def test_a_whole_model_passes(model: Path) -> None:
    check_model(model)
    predict.load(str(model))


@pytest.mark.parametrize("name", ["served.py", "artifacts/package/served.py"])
def test_code_that_was_changed_is_not_run(model: Path, name: str) -> None:
    (model / name).write_text(RUN + (model / name).read_text())
    with pytest.raises(predict.ModelError, match=r"cannot be loaded: the (model|package)'s served\.py is not the one"):
        predict.load(str(model))
    with pytest.raises(scoring.Unreadable, match=r"served\.py is not the one"):
        scoring.losses(str(model), None)


def test_a_graph_that_was_changed_is_named(model: Path) -> None:
    graph = model / "artifacts" / "package" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(predict.ModelError, match=r"cannot be loaded: the package's model\.onnx is not the one"):
        predict.load(str(model))


def test_models_of_other_kinds_and_of_before_pass(model: Path, tmp_path: Path) -> None:
    check_model(tmp_path)
    manifest = model / "artifacts" / "package" / "package.json"
    manifest.write_text(manifest.read_text().replace('"sha256"', '"sums_of_another_kind"'))
    (model / "served.py").write_text("")
    check_model(model)
