"""The listener that is told what happens in a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pneumonia.training.loop import Epoch, Step


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a search is; `running` says for each running trial how many epochs it has done."""

    done: int
    goal: int
    failed: int
    running: dict[int, int]
    best: float | None


class Listener:
    """Told what happens in a run, and by itself silent. What a method raises ends the run."""

    def say(self, line: str) -> None:
        """A sentence on what was done or left out."""

    def on_progress(self, progress: Progress) -> None:
        """How far a search is, once a second while trials run."""

    def on_seed(self, seed: int) -> None:
        """The training with a seed begins."""

    def on_step(self, step: "Step") -> None:
        """A training made a step, on CUDA ten of them."""

    def on_epoch(self, epoch: "Epoch") -> bool | None:
        """A training ended an epoch; True ends it there, with its best epoch so far."""

    def on_results(self) -> None:
        """A training has written its results, and is COMPLETE next."""


SILENT = Listener()
