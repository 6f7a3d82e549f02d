"""An ensemble of trained networks: the mean logit of the best."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pneumonia.config import TrainConfig
from pneumonia.metrics.objective import epoch_scores
from pneumonia.training.loop import FitData, Fitted, films_to_score, predict
from pneumonia.training.network import Ensemble, Network

MOST = 4  # each costs a millisecond a film when it is served
FAR = 1.5  # a network whose objective is higher than the best one's by this factor is left out


def join(
    networks: Sequence[Network], config: TrainConfig, data: FitData, *, trained: Sequence[Mapping[str, float]] = ()
) -> Fitted:
    """The mean of the logits of the first `MOST` of `networks` (averaging over a library of models: Caruana et al.
    2004), without those that are `FAR` behind the best by `val/objective`.

    Their number is not chosen by the objective: a few dozen validation films rank networks by chance, and the mean is
    better with more of them (see the lab book).

    Args:
        networks: on the CPU, in eval mode, for films of one size; the best first.
        config: what the first was trained with.
        trained: metrics of each one's training, perhaps: of `train/loss` and `train/images_per_second` the result has
            the mean over its members, of `train/seconds` the sum.

    Raises:
        ValueError: there is no network, or no validation film.
    """
    if not networks or len(data.val_films) == 0:
        raise ValueError("an ensemble needs networks and validation films")
    shown, real = films_to_score(config, data)
    films = torch.from_numpy(shown)

    def scored(logits: np.ndarray) -> dict[str, float]:
        return epoch_scores(data.val_labels, logits[:real], logits[real:])

    # on the film alone, as the epochs of a training are scored
    each = [predict(network, films, mirror=False) for network in networks[:MOST]]
    objectives = [scored(logits)["val/objective"] for logits in each]
    taken = [at for at, value in enumerate(objectives) if value <= FAR * min(objectives)]
    scores = scored(np.mean([each[at] for at in taken], axis=0))
    network = Ensemble([networks[at] for at in taken]).eval() if len(taken) > 1 else networks[taken[0]]
    logits = predict(network, films[:real])
    told = {
        name: [float(trained[at][name]) for at in taken if at < len(trained) and name in trained[at]]
        for name in ("train/loss", "train/images_per_second", "train/seconds")
    }
    seconds = sum(told.pop("train/seconds"))
    return Fitted(
        network=network,
        config=config,
        history=[],
        best_epoch=0,
        objective=scores["val/objective"],
        loss=scores["val/loss"],
        val_logits=logits[: len(data.val_films)],
        changed_logits=logits[len(data.val_films) :],
        seconds=seconds,
        training={name: float(np.mean(values)) for name, values in told.items() if values},
        device="cpu",
        members=len(taken),
    )
