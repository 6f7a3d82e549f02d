"""Several networks as one: what is served is the mean of theirs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pneumonia.data import cache
from pneumonia.metrics.calibration import Calibration
from pneumonia.served import Predictor
from pneumonia.serving import export as package
from pneumonia.training import ensemble
from pneumonia.training.loop import films_to_score, fit, fit_data, predict
from pneumonia.training.network import Ensemble, Network, build
from tests.conftest import TINY
from tests.known import known

PLAIN = Calibration(1.0, 0.0)


def networks(*widths: int) -> list[Network]:
    return [build(width, 0.3, seed=seed).eval() for seed, width in enumerate(widths)]


def test_the_logit_is_the_mean_of_the_members() -> None:
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8))
    members = networks(8, 12, 16)
    mean = np.mean([predict(member, films) for member in members], axis=0)
    assert predict(Ensemble(members).eval(), films) == pytest.approx(mean, abs=1e-6)


def test_an_ensemble_is_packaged_as_a_network_is(tmp_path: Path) -> None:
    members = networks(8, 12)
    films = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    network = Ensemble(members).eval()
    settings = {"size": 32, "classes": ("a", "b"), "threshold": 0.5, "calibration": PLAIN}
    package.write(tmp_path / "both", network, familiarity=known(network), **settings)  # type: ignore[arg-type]
    both = Predictor(tmp_path / "both")
    logits = predict(Ensemble(members).eval(), torch.from_numpy(films))
    assert both.probabilities(films) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)
    alone = []
    for number, member in enumerate(members):
        package.write(tmp_path / str(number), member, familiarity=known(member), **settings)  # type: ignore[arg-type]
        alone.append(Predictor(tmp_path / str(number)).evidence(films[0]))
    assert both.evidence(films[0]) == pytest.approx(np.mean(alone, axis=0), abs=1e-5)


def test_a_packaged_network_is_read_back(tmp_path: Path) -> None:
    (network,) = networks(8)
    settings = {"size": 32, "classes": ("a", "b"), "threshold": 0.5, "calibration": PLAIN}
    package.write(tmp_path, network, familiarity=known(network), **settings)  # type: ignore[arg-type]
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8))
    assert (predict(package.read_network(tmp_path), films) == predict(network, films)).all()


def test_a_bad_member_is_not_taken(decoded: cache.Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fit_data(decoded, changed=True)
    shown, real = films_to_score(TINY, data)
    truth = np.append(np.resize(data.val_labels, real), np.ones(len(shown) - real))
    noise = np.random.default_rng(0).normal(0, 1, (3, len(shown)))
    good, alike, bad = networks(8, 8, 8)
    logits = {good: 2 * truth + noise[0], bad: noise[1], alike: 2 * truth + noise[0] + 0.01 * noise[2]}

    def told(network: Network | Ensemble, films: torch.Tensor, **more: Any) -> np.ndarray:
        return logits.get(network, logits[good])[: len(films)]  # type: ignore[arg-type]

    monkeypatch.setattr(ensemble, "predict", told)
    assert ensemble.join([good, bad], TINY, data).network is good
    joined = ensemble.join([good, bad, alike], TINY, data)
    assert joined.members == 2
    assert isinstance(joined.network, Ensemble)
    assert list(joined.network.members) == [good, alike]


def test_one_alone_is_judged_as_its_training_judged_it(decoded: cache.Decoded) -> None:
    data = fit_data(decoded, changed=True)
    fitted = fit(TINY, data)
    assert isinstance(fitted.network, Network)
    joined = ensemble.join([fitted.network], TINY, data)
    assert (joined.members, joined.network) == (1, fitted.network)
    assert joined.objective == pytest.approx(fitted.objective, abs=1e-6)
    assert joined.val_logits == pytest.approx(fitted.val_logits, abs=1e-6)
    assert joined.changed_logits == pytest.approx(fitted.changed_logits, abs=1e-6)


def test_the_first_four_that_are_near_the_best_are_joined(decoded: cache.Decoded) -> None:
    data = fit_data(decoded, changed=True)
    trained = [fit(replace(TINY, seed=seed), data) for seed in range(5)]
    trained.sort(key=lambda one: one.objective)
    told = [{**one.training, "train/seconds": one.seconds} for one in trained]
    joined = ensemble.join([one.network for one in trained], TINY, data, trained=told)  # type: ignore[misc]
    taken = [one for one in trained[: ensemble.MOST] if one.objective <= ensemble.FAR * trained[0].objective]
    assert joined.members == len(taken) > 1
    assert joined.val_logits == pytest.approx(np.mean([one.val_logits for one in taken], axis=0), abs=1e-5)
    assert joined.history == []
    assert joined.seconds == pytest.approx(sum(one.seconds for one in taken))
    assert joined.training["train/loss"] == pytest.approx(np.mean([one.training["train/loss"] for one in taken]))


def test_joining_needs_networks_and_films(decoded: cache.Decoded) -> None:
    data = fit_data(decoded)
    none = replace(data, val_films=data.val_films[:0], val_labels=data.val_labels[:0])
    with pytest.raises(ValueError, match="needs networks and validation films"):
        ensemble.join([], TINY, data)
    with pytest.raises(ValueError, match="needs networks and validation films"):
        ensemble.join(networks(8), TINY, none)
