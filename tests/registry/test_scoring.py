"""What the gate scores on: the same films in the same changes for every model, known by their content."""

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest

from pneumonia import served
from pneumonia.augmentation import stress_tests as stress
from pneumonia.registry import scoring
from pneumonia.registry.gate import CHAMPION
from pneumonia.registry.versions import catch_up
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from tests.registry.conftest import NAME, Register


def test_the_films_of_the_gate_are_known_by_their_content(copy_trained: Callable[..., Record], tmp_path: Path) -> None:
    record = copy_trained("one")
    films = scoring.validation(record)
    assert len(films.films) == len(films.labels) == 11
    assert set(films.labels) == {0, 1}
    images = list(films.images())
    for number, label in enumerate(films.labels):
        own = [image for image in images if image.film == number]
        shown = np.array([served.read_film(base64.b64decode(image.data), 224) for image in own])
        assert np.array_equal(shown[1:3], stress.copies_of(shown[0], number))
        if label == 1:
            assert [image.label for image in own] == [1, 1, 1]
        else:
            assert [image.label for image in own] == [0, 0, 0, 1]
            assert np.array_equal(shown[3], stress.painted_of(shown[0], number))
    moved = tmp_path / "elsewhere"
    shutil.copytree(record.run.dataset["source"], moved)
    record.update(dataset={**record.run.dataset, "source": str(moved)})
    path = record.artifacts / "predictions" / "val.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    again = scoring.validation(record)
    assert again.key == films.key
    assert list(again.images()) == images
    path.write_text("\n".join([header, *rows[1:]]) + "\n")
    assert scoring.validation(record).key != films.key


def test_no_opacity_is_painted_where_they_do_not_tell_the_classes(copy_trained: Callable[..., Record]) -> None:
    record = copy_trained("one")
    painted = scoring.validation(record)
    record.update(dataset={**record.run.dataset, "classes": ["virus", "bacteria"]})
    path = record.artifacts / "predictions" / "val.csv"
    path.write_text(path.read_text().replace("NORMAL,", "virus,").replace("PNEUMONIA,", "bacteria,"))
    films = scoring.validation(record)
    assert set(films.labels) == {0, 1}
    assert [(image.film, image.label) for image in films.images()] == [
        (number, label) for number, label in enumerate(films.labels) for _ in range(3)
    ]
    assert films.key != painted.key


def test_a_film_that_its_change_would_empty_is_scored_as_it_is(copy_trained: Callable[..., Record]) -> None:
    record = copy_trained("one")
    root = shutil.copytree(record.run.dataset["source"], record.folder / "films")
    record.update(dataset={**record.run.dataset, "source": str(root)})
    rows = pd.read_csv(record.artifacts / "predictions" / "val.csv", dtype=str)
    dark = np.random.default_rng(0).integers(0, 12, (64, 64)).astype(np.uint8)
    for path in rows["path"]:
        cv2.imwrite(str(root / path), dark)
    films = scoring.validation(record)
    images = list(films.images())
    for image in images:
        served.decode(base64.b64decode(image.data))  # what a model would refuse ends a registration
        if image.label != films.labels[image.film]:
            assert image.data != images[0].data  # no film counts as normal and as ill
    assert images[2].data == images[0].data  # the first change darkens
    assert images[1].data != images[0].data  # another shape does not


def test_a_film_that_can_no_longer_be_read_is_named_and_stops_no_other(
    tracker: Tracker, copy_trained: Callable[..., Record], home: Path
) -> None:
    for name in ("one", "two"):
        record = copy_trained(name, register=NAME, role="final")
        record.finish("COMPLETE")
        tracker.send(record)
    moved = shutil.copytree(record.run.dataset["source"], record.folder / "films")
    record.update(dataset={**record.run.dataset, "source": str(moved)})
    path = moved / pd.read_csv(record.artifacts / "predictions" / "val.csv", dtype=str)["path"][3]
    path.write_bytes(path.read_bytes()[:200])
    verdicts, missed = catch_up(tracker, home)
    assert [verdict.alias for verdict in verdicts] == [CHAMPION]
    assert len(missed) == 1
    assert f"{path} can no longer be read" in missed[0]


def test_a_films_loss_is_the_mean_over_its_images(
    tracker: Tracker, register: Register, copy_trained: Callable[..., Record]
) -> None:
    register("one", bias=0.0)
    record = copy_trained("two")
    films = scoring.validation(record)
    found = scoring.losses(f"models:/{NAME}/1", films)
    assert found.shape == (11,)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    images = pd.DataFrame(films.images())
    answer = model.predict(pd.DataFrame({"image": images["data"]}))["probability"].to_numpy()
    images["loss"] = -np.log(np.where(images["label"] == 1, answer, 1 - answer))
    assert found == pytest.approx(images.groupby("film")["loss"].mean().to_numpy(), abs=1e-6)
    said = pd.read_csv(record.artifacts / "predictions" / "val.csv").set_index("path")["probability"]
    root = Path(record.run.dataset["source"])
    p = np.array([said[path.relative_to(root).as_posix()] for path, _ in films.films])
    as_it_is = images.groupby("film")["loss"].first().to_numpy()
    assert np.exp(-as_it_is) == pytest.approx(np.where(films.labels == 1, p, 1 - p), abs=1e-4)


def test_a_film_that_goes_while_models_are_scored_is_named(copy_trained: Callable[..., Record]) -> None:
    record = copy_trained("one")
    root = Path(shutil.copytree(record.run.dataset["source"], record.folder / "films"))
    record.update(dataset={**record.run.dataset, "source": str(root)})
    films = scoring.validation(record)
    (second, _), (third, _) = films.films[1:3]
    second.write_bytes(third.read_bytes())
    images = films.images()
    assert [next(images).film for _ in range(3 + (films.labels[0] == 0))] == [0] * (3 + (films.labels[0] == 0))
    with pytest.raises(scoring.FilmGone, match=re.escape(f"{second} was changed while models were scored")):
        next(images)
    films.films[0][0].unlink()
    with pytest.raises(scoring.FilmGone, match="is no longer there"):
        next(films.images())
