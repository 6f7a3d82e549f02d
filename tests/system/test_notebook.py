"""The notebook: stored clean, with its five sections, and it runs from top to bottom."""

import ast
import json
import re
import time
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.conftest import ROOT

NOTEBOOK = ROOT / "experiments" / "pneumonia.ipynb"
REAL = ROOT.parent / "shared" / "data"
SECTIONS = [
    "Exploratory data analysis",
    "Preprocessing",
    "Class imbalance",
    "Building and training the CNN",
    "Performance metrics",
]
THE_LINE = 'DATA = "synthetic"'


@pytest.fixture
def notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call, no-any-return]


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(notebook: NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """Runs all cells, as a kernel that starts in `folder` and keeps everything there; the seconds that took."""
    monkeypatch.setenv("PNEUMONIA_HOME", str(folder / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    began = time.monotonic()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return time.monotonic() - began


def figures(notebook: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for cell in code(notebook) for output in cell.outputs)


def said(notebook: NotebookNode, cell_id: str) -> str:
    """What a cell printed and showed, as text."""
    outputs = next(cell.outputs for cell in notebook.cells if cell.id == cell_id)
    parts = [output.get("text") or output.data.get("text/markdown") or output.data["text/plain"] for output in outputs]
    return "\n".join(parts)


def test_it_is_stored_without_outputs_in_one_form(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code(notebook))
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_it_has_the_five_sections(notebook: NotebookNode) -> None:
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (.+)$", prose, re.MULTILINE) == SECTIONS


def test_every_code_cell_parses_and_one_line_names_the_films(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        ast.parse(TransformerManager().transform_cell(cell.source))  # type: ignore[no-untyped-call]
    lines = [line for cell in code(notebook) for line in cell.source.splitlines()]
    assert [line for line in lines if line.startswith("DATA =")] == [line for line in lines if THE_LINE in line]
    assert sum(THE_LINE in line for line in lines) == 1


@pytest.mark.slow
def test_it_runs_on_synthetic_films_in_two_minutes(
    notebook: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = run(notebook, tmp_path, monkeypatch)
    assert figures(notebook) >= 15
    assert "split by patient: 0%" in said(notebook, "eda-leak")
    assert said(notebook, "imbalance-same").strip() == "WeightedRandomSampler with the same draws: True"
    (auc,) = re.findall(r"^AUC (\S+),", said(notebook, "metrics-scikit-learn"), re.MULTILINE)
    assert re.search(rf"^\| AUC +\| +{auc} ", said(notebook, "metrics-val"), re.MULTILINE)
    assert "208 test films" in said(notebook, "metrics-test")
    answers = said(notebook, "metrics-served-ask")
    assert {"familiarity", "upside down", "warning"} <= set(re.findall(r"upside down|\w+", answers))
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("home", "ipython")] == []
    assert seconds < 120


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="the real films of ../shared/data are not there")
def test_it_runs_on_real_films_by_changing_one_line(
    notebook: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell in code(notebook):
        cell.source = cell.source.replace(THE_LINE, f"DATA = {str(REAL)!r}")
    run(notebook, tmp_path, monkeypatch)
    assert figures(notebook) >= 15
    assert "204 test films" in said(notebook, "metrics-test")
