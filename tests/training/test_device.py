"""The device that was asked for or none, and half precision where it does no harm."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pneumonia.config import Device
from pneumonia.training.device import pick_device
from pneumonia.training.loop import FitData, fit, predict
from tests.training.conftest import TINY


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(data: FitData, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device {device} is not available"):
        fit(replace(TINY, device=device), data)
    assert pick_device("auto").type == "cpu"


def test_half_precision_moves_a_logit_little(data: FitData) -> None:
    network, films = fit(replace(TINY, epochs=1), data).network, torch.from_numpy(data.val_films)
    full, half = predict(network, films), predict(network, films, half=torch.bfloat16)
    assert 0 < np.abs(full - half).max() < 0.02
    assert np.array_equal(fit(replace(TINY, epochs=1), data).val_logits, full)  # the result is judged in float32
