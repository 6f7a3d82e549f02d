import io
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pneumonia.serving.film_list import FilmList
from pneumonia.serving.prediction_job import Job
from pneumonia.serving.prediction_tables import OutputError
from tests.serving.fake_scorer import FakeScorer, numbered


class Dies(FakeScorer):
    """Is away after some films."""

    def score(self, films):
        if sum(self.asked) > 20:
            raise RuntimeError("the server is away")
        return super().score(films)


def job(folder: Path, scorer: FakeScorer | None = None, **options: Any) -> Job:
    return Job(films=FilmList([str(folder)]), scorer=scorer or FakeScorer(), **options)


def test_a_job_that_failed_goes_on_without_repeating_or_losing_a_film(tmp_path: Path) -> None:
    paths, output = numbered(tmp_path / "films", 60, bad=[3, 50]), tmp_path / "out.csv"
    maps = tmp_path / "maps"
    with pytest.raises(RuntimeError, match="away"):
        job(tmp_path / "films", Dies(), heatmaps=maps).to_file(output)
    assert not output.exists()
    again = FakeScorer()
    done, failed, before = job(tmp_path / "films", again, heatmaps=maps).to_file(output)
    assert (done, failed) == (60, 2)
    assert before > 0
    assert sum(again.asked) == 60 - before
    table = pd.read_csv(output)
    assert table["path"].tolist() == [str(path) for path in paths]
    assert table.index[table["error"].notna()].tolist() == [3, 50]
    assert len(list(maps.iterdir())) == 58
    whole = tmp_path / "whole.csv"
    job(tmp_path / "films").to_file(whole)
    assert whole.read_bytes() == output.read_bytes()


def test_other_films_or_another_model_do_not_go_on_with_a_job(tmp_path: Path) -> None:
    numbered(tmp_path / "films", 60)
    output = tmp_path / "out.jsonl"
    with pytest.raises(RuntimeError, match="away"):
        job(tmp_path / "films", Dies()).to_file(output)
    with pytest.raises(OutputError, match="model: one, now two"):
        job(tmp_path / "films", FakeScorer(about={"model": "two"})).to_file(output)
    (tmp_path / "films" / "new.png").write_bytes(b"1")
    with pytest.raises(OutputError, match=r"films: 60 files .*, now 61 files"):
        job(tmp_path / "films").to_file(output)
    shutil.rmtree(tmp_path / "out.jsonl.part")
    assert job(tmp_path / "films").to_file(output) == (61, 0, 0)


def test_without_an_output_the_table_is_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbered(tmp_path / "films", 3, bad=[1])
    stream = io.StringIO()
    assert job(tmp_path / "films", progress=True).to_stream(stream) == (3, 1)
    header, first, bad, _ = stream.getvalue().splitlines()
    assert header == "path,probability,label,threshold,familiarity,familiar,warning,error"
    assert first == f"{tmp_path}/films/000.png,0.0,PNEUMONIA,0.5,0.25,True,,"
    assert bad == f"{tmp_path}/films/001.png,,,0.5,,,,bad film"
    assert "predict: 100%" in capsys.readouterr().err


def test_heatmaps_of_two_jobs_do_not_mix(tmp_path: Path) -> None:
    numbered(tmp_path / "films", 3)
    job(tmp_path / "films", heatmaps=tmp_path / "maps").to_file(tmp_path / "out.csv")
    for start in (lambda one: one.to_file(tmp_path / "other.csv"), lambda one: one.to_stream(io.StringIO())):
        with pytest.raises(OutputError, match="is not empty: name another"):
            start(job(tmp_path / "films", heatmaps=tmp_path / "maps"))
    assert not (tmp_path / "other.csv.part").exists()
