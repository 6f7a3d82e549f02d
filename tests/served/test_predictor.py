"""Each film is scored by itself, and its heatmap shows where it looks ill."""

import json
import threading

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from pneumonia import served
from pneumonia.served.heatmap import enlarged
from tests.served.conftest import SIZE, TinyNetwork, write


def test_a_films_result_does_not_depend_on_its_company(folder, films):
    predictor = served.Predictor(folder)
    together = predictor.logits(films)
    assert np.array_equal(together, [predictor.logits(film[np.newaxis])[0] for film in films])
    results = []
    threads = [threading.Thread(target=lambda: results.append(predictor.logits(films))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, together) for result in results)
    assert predictor.logits(films[:0]).shape == (0,)


def test_a_film_and_its_mirror_image_score_the_same(folder, films):
    predictor = served.Predictor(folder)
    np.testing.assert_allclose(predictor.logits(films), predictor.logits(films[:, :, ::-1]), atol=1e-6)


def test_the_logit_is_the_mean_of_the_map(folder, films):
    session = served.session((folder / "model.onnx").read_bytes())
    logits, maps, _ = session.run(None, {"films": served.standardise(films)})
    assert maps.shape == (len(films), SIZE // 4, SIZE // 4)
    np.testing.assert_allclose(maps.mean((1, 2)), logits, atol=1e-5)


def test_calibration_reaches_the_ends_without_overflow(folder):
    with np.errstate(all="raise"):
        assert served.Predictor(folder).calibrate(np.array([-1e6, 1e6])).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize(("shape", "expected"), [((100, 300), (100, 300)), ((1000, 4000), (128, 512))])
def test_the_heatmap_has_the_films_aspect(folder, shape, expected):
    film = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), (0, 0), 9)
    png = served.Predictor(folder).heatmap(film, np.full((8, 8), 0.5))
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape == (*expected, 3)


class Bright(TinyNetwork):
    """Evidence is brightness beyond three quarters of a deviation."""

    def __init__(self, weight: float = 128.0) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        nn.init.constant_(self.head.weight, weight)
        nn.init.constant_(self.head.bias, -5.0)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(torch.relu(x - 0.75), 4)


def spotted(across: int, down: int) -> np.ndarray:
    """A film uint8 [64, 64] with a bright spot."""
    film = np.full((64, 64), 90, np.uint8)
    film[:, 32:] = 110
    film[down - 4 : down + 4, across - 4 : across + 4] = 220
    return film


@pytest.mark.parametrize(("across", "down"), [(12, 20), (45, 50), (32, 32)])
def test_the_heatmap_is_coloured_where_the_evidence_is(tmp_path, across, down):
    film = spotted(across, down)
    predictor = served.Predictor(write(tmp_path / "package", Bright(), size=64))
    (logit,) = predictor.logits(film[np.newaxis])
    heat = predictor.heat(logit, predictor.evidence(film))
    assert 0.5 < heat.max() <= predictor.calibrate(logit)
    overlay = cv2.imdecode(np.frombuffer(predictor.heatmap(film, heat), np.uint8), cv2.IMREAD_COLOR).astype(int)
    colour = np.ptp(overlay, axis=2)
    hottest = np.unravel_index(enlarged(heat, film.shape).argmax(), film.shape)
    assert np.hypot(hottest[0] - down, hottest[1] - across) < 6
    assert colour[hottest] > 50
    rows, columns = np.indices(colour.shape)
    assert colour[np.hypot(rows - down, columns - across) > 28].max() < 15


def test_a_film_that_is_called_normal_stays_grey(tmp_path):
    film = spotted(20, 20)
    predictor = served.Predictor(write(tmp_path / "package", Bright(), size=64))
    falls = predictor.evidence(film)
    assert predictor.heat(8.0, falls).max() > 0.5
    assert predictor.heat(-8.0, falls).max() < 1e-4
    grey = cv2.imdecode(np.frombuffer(predictor.heatmap(film, predictor.heat(-8.0, falls)), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(grey, np.repeat(film[..., np.newaxis], 3, axis=2))


def test_a_network_without_feature_maps_before_its_head_has_heatmaps_too(tmp_path):
    class Pooled(Bright):
        def maps(self, x: torch.Tensor) -> torch.Tensor:
            return super().maps(x).mean((2, 3), keepdim=True)

    film = spotted(12, 20)
    falls = served.Predictor(write(tmp_path / "package", Pooled(), size=64)).evidence(film)
    down, across = np.unravel_index(falls.argmax(), falls.shape)
    assert (down, across) in {(2, 1), (1, 1)}  # the spot lies between two places


def test_what_speaks_against_illness_is_cold(tmp_path):
    film = spotted(20, 20)
    predictor = served.Predictor(write(tmp_path / "package", Bright(-128.0), size=64))
    falls = predictor.evidence(film)
    assert falls.min() < -0.5
    assert predictor.heat(8.0, falls)[falls == falls.min()].max() == 0


@pytest.mark.parametrize("key", ["format", "decode_version"])
def test_a_package_that_needs_other_code_is_refused(folder, tmp_path, key):
    settings = json.loads((folder / "package.json").read_text())
    (tmp_path / "package.json").write_text(json.dumps({**settings, key: 99}))
    with pytest.raises(ValueError, match=f"{key} 99"):
        served.Predictor(tmp_path)
