"""One file of code from several modules: whole, pinned, and each version with its own."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

from pneumonia import served
from pneumonia.serving import bundle
from pneumonia.serving import export as package
from tests.served.conftest import GOOD, SIZE


def test_two_versions_in_one_process_each_run_their_own_code(folder, tmp_path):
    source = bundle.code()
    old = "def standardise(films: np.ndarray) -> np.ndarray:\n"
    assert source.count(old) == 1
    other = tmp_path / "other" / "served.py"
    other.parent.mkdir()
    other.write_text(source.replace(old, f"{old}    films = 255 - films\n"), encoding="utf-8")
    arguments = package.pyfunc_arguments(folder)
    mlflow.pyfunc.save_model(tmp_path / "first", **arguments)
    mlflow.pyfunc.save_model(tmp_path / "second", **{**arguments, "python_model": str(other)})
    models = [mlflow.pyfunc.load_model(str(tmp_path / name)) for name in ("first", "second", "first")]
    first, second, again = (model.predict(pd.DataFrame({"image": [GOOD]}))["probability"].item() for model in models)
    film = served.read_film(GOOD, SIZE)[np.newaxis]
    predictor = served.Predictor(folder)
    assert first == again == predictor.probabilities(film)[0]
    assert second == predictor.probabilities(255 - film)[0]
    assert abs(first - second) > 0.001


def test_what_the_served_file_imports_is_pinned(folder):
    pinned = {requirement.partition("==")[0] for requirement in package.requirements()}
    of_the_server = {"mlflow-skinny", "fastapi", "uvicorn"}
    of_films = {"numpy", "onnxruntime", "opencv-python-headless", "pandas", "pydicom", "python-gdcm", "simplejpeg"}
    assert pinned == of_the_server | of_films | {"prometheus-client"}
    assert "torch" not in bundle.code()
    assert "from pneumonia" not in bundle.code()
    assert package.pyfunc_arguments(folder)["pip_requirements"] == package.requirements()


def test_the_bundle_holds_every_module_of_the_served_code():
    there = {path.stem for path in Path(served.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(bundle.MODULES) == there


def test_two_things_of_one_name_are_not_bundled(tmp_path, monkeypatch):
    for name in bundle.MODULES:
        (tmp_path / f"{name}.py").write_text("LEAST = 1\n" if name != "png" else "LEAST = 2\n")
    monkeypatch.setattr(bundle, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="LEAST is more than one thing"):
        bundle.code()
