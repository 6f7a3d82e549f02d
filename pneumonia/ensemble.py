"""Several trained networks as one: the mean of the best, as many of them as the validation films want."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pneumonia.calibration import epoch_scores
from pneumonia.config import TrainConfig
from pneumonia.model import Ensemble, Network
from pneumonia.train import FitData, Fitted, judges, predict

MOST = 4  # each costs a millisecond a film when it is served


def join(
    networks: Sequence[Network], config: TrainConfig, data: FitData, *, trained: Sequence[Mapping[str, float]] = ()
) -> Fitted:
    """The mean of the first k of `networks` (averaging over a library of models: Caruana et al. 2004), of k up to
    `MOST` the one whose mean logits have the lowest `val/objective`.

    Args:
        networks: on the CPU, in eval mode, for films of one size; the best first.
        config: what the first was trained with.
        trained: metrics of each one's training, perhaps: of `train/loss` and `train/images_per_second` the result has
            the mean over its members, of `train/seconds` the sum.

    Raises:
        ValueError: there is no network, or no validation film.
    """
    if not networks or len(data.val_films) == 0:
        raise ValueError("joining needs networks and validation films")
    shown, real = judges(config, data)
    films = torch.from_numpy(shown)
    # by the film alone, as a training's epochs are judged
    each = np.array([predict(network, films, mirror=False) for network in networks[:MOST]])
    means = [each[:count].mean(axis=0) for count in range(1, len(each) + 1)]
    scores = [epoch_scores(data.val_labels, logits[:real], logits[real:]) for logits in means]
    members = 1 + min(range(len(scores)), key=lambda at: scores[at]["val/objective"])
    network = Ensemble(networks[:members]).eval() if members > 1 else networks[0]
    logits = predict(network, films[:real])
    told = {
        name: [float(each[name]) for each in trained[:members] if name in each]
        for name in ("train/loss", "train/images_per_second", "train/seconds")
    }
    seconds = sum(told.pop("train/seconds"))
    return Fitted(
        network=network,
        config=config,
        history=[],
        best_epoch=0,
        objective=scores[members - 1]["val/objective"],
        loss=scores[members - 1]["val/loss"],
        val_logits=logits[: len(data.val_films)],
        changed_logits=logits[len(data.val_films) :],
        seconds=seconds,
        training={name: float(np.mean(values)) for name, values in told.items() if values},
        device="cpu",
        members=members,
    )
