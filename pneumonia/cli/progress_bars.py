"""Progress bars: of the trials of a search, and of one training."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from pneumonia.runs.listener import Listener, Progress

if TYPE_CHECKING:
    from pneumonia.training.loop import Epoch, Step


class SearchBar:
    """Trials done, the best objective so far, and how far the running trials are."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._done = False
        self._shown: Any = None

    def __call__(self, progress: Progress) -> None:
        if self._done:
            return
        if self._bar is None:
            self._bar = tqdm(total=progress.goal, desc="trials", unit="trial", dynamic_ncols=True)
        self._bar.n = progress.done
        running = " ".join(f"#{number}:{epochs}" for number, epochs in sorted(progress.running.items()))
        parts = {
            "best_objective": "-" if progress.best is None else f"{progress.best:.4f}",
            **({"running(trial:epochs)": running} if running else {}),
            **({"failed": progress.failed} if progress.failed else {}),
        }
        if (progress.done, parts) != self._shown:
            self._shown = (progress.done, parts)
            self._bar.set_postfix(parts)
        if progress.done >= progress.goal:
            self._done = True
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class TrainBar:
    """Steps of one training with the loss, the last val AUC, films per second and the time left; `begin` starts the bar
    of the next training.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._auc = "-"
        self._name = "training"

    def begin(self, name: str) -> None:
        self.close()
        self._auc, self._name = "-", name

    def on_step(self, step: "Step") -> None:
        if self._bar is None:
            layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]"
            self._bar = tqdm(
                total=step.steps,
                initial=step.step - 1,  # of a training that goes on, more than 0
                desc=self._name,
                dynamic_ncols=True,
                bar_format=layout,
                mininterval=0.5,
            )
        self._bar.set_postfix(
            {"loss": f"{step.loss:.3f}", "val_auc": self._auc, "films/s": f"{step.images_per_second:.0f}"},
            refresh=False,
        )
        self._bar.update(step.step - self._bar.n)
        if step.step >= step.steps:
            self.close()

    def on_epoch(self, epoch: "Epoch") -> None:
        self._auc = f"{epoch.metrics['val/auc']:.4f}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class Bars(Listener):
    """A listener that shows what it is told: lines on stderr, and a bar for the trials and for each training."""

    def __init__(self, say: Callable[[str], None], seeds: Sequence[int] = ()) -> None:
        self._say, self._seeds = say, seeds
        self._search, self._train = SearchBar(), TrainBar()

    def say(self, line: str) -> None:
        self._say(line)

    def on_progress(self, progress: Progress) -> None:
        self._search(progress)

    def on_seed(self, seed: int) -> None:
        self._train.begin(f"seed {seed} ({self._seeds.index(seed) + 1} of {len(self._seeds)})")

    def on_step(self, step: "Step") -> None:
        self._train.on_step(step)

    def on_epoch(self, epoch: "Epoch") -> None:
        self._train.on_epoch(epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the terminal on a fresh line whatever ends the block."""
        self._search.close()
        self._train.close()
