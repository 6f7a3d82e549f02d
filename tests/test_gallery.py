from collections import Counter

import cv2
import numpy as np
import pandas as pd

from pneumonia import gallery
from pneumonia.cache import Decoded
from pneumonia.record import Record
from pneumonia.served import Predictor


def rows(negative: int, bacteria: int, virus: int, seed: int = 0) -> pd.DataFrame:
    n = negative + bacteria + virus
    table = pd.DataFrame(
        {
            "label": [0] * negative + [1] * (bacteria + virus),
            "subtype": [""] * negative + ["bacteria"] * bacteria + ["virus"] * virus,
            "sha256": [f"{i * 7919 % 1009:04d}" for i in range(n)],
        }
    )
    return table.sample(frac=1, random_state=seed)


def test_classes_and_subtypes_share_the_places() -> None:
    table = rows(50, 40, 40)
    shown = table.iloc[gallery.chosen(table)]
    assert Counter(shown["subtype"]) == {"": 4, "bacteria": 2, "virus": 2}


def test_the_same_films_whatever_their_order() -> None:
    shown = [set(rows(50, 40, 40, seed).iloc[gallery.chosen(rows(50, 40, 40, seed))]["sha256"]) for seed in (0, 1)]
    assert shown[0] == shown[1]


def test_few_films_are_all_shown_and_a_small_class_leaves_its_places_to_the_other() -> None:
    assert len(gallery.chosen(rows(1, 1, 0))) == 2
    shown = rows(1, 30, 0).iloc[gallery.chosen(rows(1, 30, 0))]
    assert Counter(shown["label"]) == {0: 1, 1: 7}


def test_a_picture_shows_film_and_map(trained: Record, decoded: Decoded) -> None:
    predictor = Predictor(trained.model / "artifacts" / "package")
    film = np.asarray(decoded.films[0])
    png = gallery.draw(predictor, film, "NORMAL: Ω.jpeg")
    picture = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))
    assert picture.shape == (gallery.SIDE + 2 * gallery.LINE, 2 * gallery.SIDE, 3)
    left = picture[: gallery.SIDE, : gallery.SIDE]
    assert (left[..., 0] == left[..., 2]).all()  # grey
    small = cv2.resize(left[..., 0], film.shape, interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), film.ravel())[0, 1] > 0.95
    assert (picture[gallery.SIDE :] < 128).any()  # text


def test_keys_are_the_same_for_the_same_films(trained: Record) -> None:
    keys = sorted(path.relative_to(trained.images).as_posix() for path in trained.images.rglob("*.png"))
    assert len(keys) == 8
    assert keys[0] == "films/1_negative.png"
