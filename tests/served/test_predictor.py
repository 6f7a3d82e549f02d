"""Each film is scored by itself, and its heat map adds up to its logit."""

import json
import threading

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from pneumonia import served
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
    overlay = cv2.imdecode(np.frombuffer(served.Predictor(folder).heatmap(film), np.uint8), cv2.IMREAD_COLOR)
    assert overlay.shape == (*expected, 3)


def test_the_heatmap_is_coloured_where_the_evidence_is(tmp_path):
    class Bright(TinyNetwork):
        """Evidence is brightness."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1)
            nn.init.constant_(self.head.weight, 8.0)
            nn.init.constant_(self.head.bias, -8.0)

        def maps(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x, 4)

    film = np.full((64, 128), 40, np.uint8)
    film[:, 96:] = 200
    predictor = served.Predictor(write(tmp_path / "package", Bright()))
    overlay = cv2.imdecode(np.frombuffer(predictor.heatmap(film), np.uint8), cv2.IMREAD_COLOR).astype(int)
    colour = np.ptp(overlay, axis=2)
    assert colour[:, 104:].min() > 50
    assert colour[:, :80].max() < 10


@pytest.mark.parametrize("key", ["format", "decode_version"])
def test_a_package_that_needs_other_code_is_refused(folder, tmp_path, key):
    settings = json.loads((folder / "package.json").read_text())
    (tmp_path / "package.json").write_text(json.dumps({**settings, key: 99}))
    with pytest.raises(ValueError, match=f"{key} 99"):
        served.Predictor(tmp_path)
