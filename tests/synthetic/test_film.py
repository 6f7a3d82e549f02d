"""Disease is drawn only where lungs are, and no simple number tells it."""

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pneumonia.synthetic.film import Subtype, draw


@pytest.mark.parametrize("subtype", ["bacteria", "virus"])
def test_disease_changes_the_lungs_and_little_else(subtype: Subtype) -> None:
    """With and without disease the body is the same: what brightens lies within the chest, and is part of the film."""
    for seed in range(5):
        well = draw("normal", np.random.default_rng(seed)).astype(np.float64)
        ill = draw(subtype, np.random.default_rng(seed), severity=1.0).astype(np.float64)
        assert well.shape == ill.shape
        change = ill - well
        brighter = change > 0.5 * np.percentile(change, 99.5)
        inside = np.zeros_like(brighter)
        h, w = inside.shape
        inside[int(0.1 * h) : int(0.9 * h), int(0.05 * w) : int(0.95 * w)] = True
        assert np.percentile(change, 99.5) > 30
        assert brighter[inside].sum() > 0.99 * brighter.sum()
        assert 0.005 < brighter.mean() < 0.4


def test_a_worse_disease_shows_more_and_bacteria_more_than_viruses() -> None:
    wells = [draw("normal", np.random.default_rng(s)).astype(np.float64) for s in range(4)]

    def seen(subtype: Subtype, severity: float) -> float:
        ills = [draw(subtype, np.random.default_rng(s), severity=severity) for s in range(4)]
        return float(np.mean([np.percentile(ill - well, 98) for ill, well in zip(ills, wells, strict=True)]))

    bacteria, virus = ([seen(subtype, severity) for severity in (0.0, 0.5, 1.0)] for subtype in ("bacteria", "virus"))
    for faint, middling, severe in (bacteria, virus):
        assert 2 * faint < middling < severe
    assert bacteria[2] > virus[2]


def test_films_of_a_patient_show_one_body_in_another_pose() -> None:
    one, two = (draw("normal", np.random.default_rng(s), build=np.random.default_rng(5)) for s in (1, 2))
    assert one.shape != two.shape or not np.array_equal(one, two)


@pytest.mark.slow
def test_no_simple_number_tells_the_classes_apart() -> None:
    """Size, aspect, brightness, contrast, border and file size alone must not give the label away."""
    rows, labels = [], []
    for k in range(160):
        rng = np.random.default_rng((3, k))
        film = draw(("normal", "normal", "bacteria", "virus")[k % 4], rng)
        quality = int(rng.integers(70, 97))
        size = len(cv2.imencode(".jpeg", film, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])
        border = np.mean([film[0].mean(), film[-1].mean(), film[:, 0].mean(), film[:, -1].mean()])
        rows.append((size / film.size, film.shape[1] / film.shape[0], film.size, film.mean(), film.std(), border))
        labels.append(k % 4 > 1)
    for name, values in zip(("bytes", "aspect", "size", "mean", "std", "border"), np.array(rows).T, strict=True):
        auc = roc_auc_score(labels, values)
        assert max(auc, 1 - auc) < 0.65, f"{name} alone gives AUC {auc:.3f}"
