from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from pneumonia.cli import cli, models
from tests.serving.fake_scorer import FakeScorer, numbered


def predict(*words: object):
    return CliRunner().invoke(cli, ["predict", *map(str, words)])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """How the command asks for its scorer, which is a fake one."""
    asked: list[dict[str, object]] = []

    def scorer(model: str | None, url: str | None, **options: bool) -> FakeScorer:
        asked.append({"model": model, "url": url, **options})
        return FakeScorer()

    monkeypatch.setattr(models, "scorer", scorer)
    return asked


def test_predict_writes_the_table_and_says_what_failed(tmp_path: Path, fake: list[dict[str, object]]) -> None:
    numbered(tmp_path / "films", 5, bad=[2])
    done = predict("--model", "m", "-o", tmp_path / "out.parquet", "--explain", tmp_path / "maps", tmp_path / "films")
    assert done.exit_code == 1
    assert done.stderr == f"5 films, 1 failed: {tmp_path}/out.parquet\n"
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["error"].tolist() == ["", "", "bad film", "", ""]
    assert len(list((tmp_path / "maps").iterdir())) == 4
    assert fake == [{"model": "m", "url": None, "explain": True, "any_dicom": False}]


def test_predict_without_an_output_prints_the_table(tmp_path: Path, fake: list[dict[str, object]]) -> None:
    """With what MLproject gives where a user gives nothing."""
    numbered(tmp_path, 2)
    words = ("--model", "auto", "--url", "http://localhost:5001", "--explain", "none", "--any-dicom", "false")
    done = predict(*words, tmp_path)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 3
    assert fake == [{"model": None, "url": "http://localhost:5001", "explain": False, "any_dicom": False}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "m", "--url", "http://localhost:5001"), "leave --model out"),
        (("-o", "table.xlsx"), "must end in .csv, .jsonl or .parquet, but is table.xlsx"),
        (("nowhere/*.png",), "nowhere/*.png is no file, no folder and no pattern"),
    ],
)
def test_predict_refuses_before_anything_is_loaded(
    words: tuple[str, ...], said: str, tmp_path: Path, fake: list[dict[str, object]]
) -> None:
    numbered(tmp_path, 1)
    done = predict(*words, tmp_path)
    assert done.exit_code == 2
    assert said in done.stderr
    assert fake == []
