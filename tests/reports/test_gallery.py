from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import safetensors.torch

from pneumonia.data.cache import Decoded
from pneumonia.reports import gallery
from pneumonia.runs.context import RunContext
from pneumonia.runs.train import run_training
from pneumonia.served import Predictor
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.training.network import build
from tests.conftest import NO_SERVER, TINY


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
    look = gallery.look_of(predictor, film[np.newaxis])
    png = gallery.draw(predictor, film, look.logits[0], look.evidence[0], "the model", "NORMAL: Ω.jpeg")
    picture = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))
    assert picture.shape == (gallery.SIDE + 3 * gallery.LINE + 4, 2 * gallery.SIDE, 3)
    left = picture[: gallery.SIDE, : gallery.SIDE]
    assert (left[..., 0] == left[..., 2]).all()  # grey
    small = cv2.resize(left[..., 0], film.shape, interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), film.ravel())[0, 1] > 0.95
    assert (picture[gallery.SIDE :] < 128).any()  # text


def test_keys_are_the_same_for_the_same_films(trained: Record) -> None:
    keys = sorted(path.relative_to(trained.images).as_posix() for path in trained.images.glob("films/?_*tive.png"))
    assert len(keys) == 8
    assert keys[0] == "films/1_negative.png"


def test_the_network_in_training_is_looked_at_as_the_package_looks(trained: Record, decoded: Decoded) -> None:
    package = trained.model / "artifacts" / "package"
    network = build(TINY.width, 0.0, seed=0)
    network.load_state_dict(safetensors.torch.load_file(package / "model.safetensors"))
    films = np.asarray(decoded.films[:5])
    ours, theirs = gallery.look(network.eval(), films), gallery.look_of(Predictor(package), films)
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)
    np.testing.assert_allclose(ours.evidence, theirs.evidence, atol=1e-4)
    assert np.ptp(theirs.evidence, axis=(1, 2)).min() > 1e-3


def test_a_training_is_looked_at_after_up_to_four_epochs_the_first_and_the_last_among_them() -> None:
    assert [gallery.epochs(total) for total in (1, 2, 3, 4, 8, 64)] == [
        (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 3, 6, 8), (1, 22, 43, 64),
    ]  # fmt: skip


def test_every_film_is_there_of_the_model_and_of_the_epochs(trained: Record) -> None:
    steps = Counter(path.stem.partition("@")[2] for path in trained.images.rglob("*.png"))
    assert steps == {"": 8, "1": 8, "2": 8, "3": 8}
    first, last = (trained.images / "films" / f"1_negative@{epoch}.png" for epoch in (1, 3))
    assert first.read_bytes() != last.read_bytes()


def test_without_pictures_no_film_stands_in_the_record(decoded: Decoded, new_record: Callable[..., Record]) -> None:
    record = new_record()
    run_training(
        replace(TINY, epochs=1),
        decoded,
        record,
        RunContext(home=record.folder, tracker=Tracker(NO_SERVER), pictures=False),
    )
    assert record.summary
    assert list(record.images.rglob("*")) == []
