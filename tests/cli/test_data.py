"""`--data` as people have it, on the command itself: what the first lines say, what is trained on, what is refused."""

import csv
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pneumonia.cli import cli
from pneumonia.tracking.store import Tracker
from tests.command import Lab

TINY = ("--size", "32", "--epochs", "1", "--width", "4", "--device", "cpu", "--gallery", "false")

Train = Callable[..., Result]


@pytest.fixture
def train(tracker: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    monkeypatch.setenv("PNEUMONIA_HOME", str(home))
    return lambda *words: CliRunner().invoke(cli, ["train", *TINY, *map(str, words)])


def draw(folder: Path, count: int, name: str = "{}.png") -> Path:
    """Films of noise, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / name.format(number)
        noise = np.random.default_rng(zlib.crc32(bytes(path))).integers(0, 256, (40, 40), np.uint8)
        path.write_bytes(cv2.imencode(".png" if path.suffix == ".png" else ".jpg", noise)[1].tobytes())
    return folder


def tree(root: Path, splits: Mapping[str, int], names: tuple[str, str] = ("NORMAL", "PNEUMONIA")) -> Path:
    for split, count in splits.items():
        for name in names:
            draw(root / split / name, count)
    return root


def test_splits_by_other_words(train: Train, tmp_path: Path) -> None:
    root = tree(tmp_path / "films", {"Train": 8, "Valid": 30, "Testing": 4, "extra": 5})
    said = train("--data", root)
    assert said.exit_code == 0, said.output
    assert (
        "versions before 0.2 read this data differently: the 8 films of Testing were left out; the 60 films of Valid"
        in (said.output.split("  train NORMAL")[0])
    )
    assert "Valid (60 films) is kept as the validation split" in said.output
    assert "extra (10 films) is no folder of training, validation or test films by its name" in said.output
    assert "  val   NORMAL: 30 films" in said.output


def test_films_by_content_masks_and_hidden_folders(train: Train, tmp_path: Path) -> None:
    root = tmp_path / "films"
    for name in ("COVID", "Normal"):
        for part in ("images", "masks", ".thumbnails"):
            draw(root / "train" / name / part, 8)
        draw(root / "train" / name / "images", 1, "IM00000{}")
        draw(root / "train" / name / "images", 1, "a{}.JFIF")
    (root / "train/COVID/images/notes.txt").touch()
    said = train("--data", root)
    assert said.exit_code == 0, said.output
    assert "20 of 20 films used" in said.output
    assert "ignored files: 16 in .thumbnails, 16 in masks, 1 text (.txt)" in said.output


def test_a_manifest_from_a_spreadsheet(train: Train, tmp_path: Path) -> None:
    """Semicolons, also at each end, a byte-order mark, backslashes, a column twice, N/A, a path that is too long."""
    rows = [["Path", "Label", "label", "patient", ""]]
    for label in (0, 1):
        draw(tmp_path / f"films/{label}", 10)
        rows += [[f"films\\{label}\\{n}.png", str(label), str(label), "N/A", ""] for n in range(10)]
    rows.append(["x" * 300 + ".png", "1", "1", "N/A", ""])
    with open(tmp_path / "films.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    said = train("--data", tmp_path / "films.csv")
    assert said.exit_code == 0, said.output
    assert "20 of 21 films used" in said.output
    counts = re.findall(r"^  (?:train|val) +[01]: (\d+) films of (\d+) patients$", said.output, flags=re.MULTILINE)
    assert len(counts) == 4
    assert all(films == patients for films, patients in counts)
    assert "File name too long; film 21 of films.csv (line 22), column path" in said.output


def test_a_manifest_whose_paths_all_miss(train: Train, tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("path,label\n" + "".join(f"D:\\x\\{n}.png,{n % 2}\n" for n in range(6)))
    said = train("--data", tmp_path / "films.csv")
    assert said.exit_code != 0
    assert said.output.count(f"{tmp_path}/D:/x/") == 2


def test_the_positive_class_stands_in_the_first_lines_and_the_tags(
    train: Train, tracker: Tracker, tmp_path: Path
) -> None:
    root = tree(tmp_path / "films", {"train": 8}, ("1_PNEUMONIA", "2_NORMAL"))
    said = train("--data", root)
    assert said.exit_code == 0, said.output
    assert re.search(r"films used\npositive: 1_PNEUMONIA, negative: 2_NORMAL\nnote: versions before 0\.2", said.output)
    (run,) = tracker.client.search_runs([tracker.experiment_id("pneumonia")])
    assert run.data.tags["data.positive"] == "1_PNEUMONIA"
    assert run.data.tags["data.negative"] == "2_NORMAL"


def test_names_without_meaning_are_asked_about(train: Train, tmp_path: Path) -> None:
    root = tree(tmp_path / "films", {"train": 8}, ("group A", "group B"))
    (root / "train/group A/old.tif").touch()
    refused = train("--data", root)
    assert refused.exit_code != 0
    *before, last = refused.output.strip().splitlines()
    assert "ignored files: 1 TIFF" in before
    assert "say so with --positive, such as --positive 'group B'" in last
    said = train("--data", root, "--positive", "GROUP a")
    assert said.exit_code == 0, said.output
    assert "positive: group A, negative: group B" in said.output


@pytest.mark.slow
def test_mlflow_run_hands_the_positive_class_on_in_one_piece(tracker: Tracker, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", tree(tmp_path / "films", {"train": 2}, ("left lung", "right")), tracking=tracker.uri)
    command = lab.search(mlflow_run=True, positive="no lung")
    assert command.end() != 0
    assert "the positive class is to be no lung, but the films are left lung and right: --positive" in command.text()
