"""The checkpoint of a training in its home: each epoch writes it, the same training finds it again, its end removes it.

    checkpoints/KEY/state.safetensors    where the training is, see `training.checkpoint`
    checkpoints/KEY/lock                 held by the process that is at it

KEY is of configuration and films. A trial of a search has no checkpoint: it is tried again.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from pneumonia.config import TrainConfig
from pneumonia.reports.gallery import Look
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import Listener
from pneumonia.tracking.record import Record
from pneumonia.tracking.sync import sent
from pneumonia.tracking.tags import RESUMED_FROM
from pneumonia.training import checkpoint
from pneumonia.training.checkpoint import CheckpointError, State
from pneumonia.training.loop import FitData

FOLDER, STATE, LOCK = "checkpoints", "state.safetensors", "lock"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The checkpoint that this process holds for the training of `record`. `made_by` is what must not have changed for
    a training to go on, `processor` what should not.
    """

    path: Path
    record: Record
    made_by: dict[str, str]
    processor: str
    listener: Listener

    def write(self, state: State, *, looks: Mapping[int, Look]) -> None:
        """After an epoch; `looks` are those of the gallery so far, by epoch, which the end of the training needs.

        Raises:
            DiskFullError: there is no room; the checkpoint of the epoch before stays.
        """
        pictures = {
            f"look.{epoch}.{name}": torch.from_numpy(value)
            for epoch, look in looks.items()
            for name, value in vars(look).items()
        }
        note = {
            "record": str(self.record.folder),
            "run": sent(self.record).get("run_id", self.record.run.key),
            "made_by": self.made_by,
            "processor": self.processor,
            "curves": self.record.metrics,
            "looks": [*looks],
        }
        whole = State(tensors={**state.tensors, **pictures}, facts={**state.facts, "note": note})
        checkpoint.write(self.path, whole)

    def read(self, looks: dict[int, Look]) -> State | None:
        """Where an earlier process left this training, if that can be gone on with; what is not used is told.

        The record gets the curves until there, and a tag that says whose they are; `looks` those of the gallery.
        """
        try:
            state = checkpoint.read(self.path)
            if state is None:
                return None
            self._check(state)
        except CheckpointError as error:
            self.listener.say(f"the checkpoint of an earlier training is not used: {error}")
            return None
        note, record = state.facts["note"], self.record
        if _is_complete(Record(Path(note["record"]))):
            return None
        for line in note["curves"]:
            record.add_metrics(line["metrics"], step=line["step"], time=line["time"])
        record.update(tags={**record.run.tags, RESUMED_FROM: note["run"]})
        for epoch in note["looks"]:
            logits, evidence = (state.tensors[f"look.{epoch}.{name}"].numpy() for name in ("logits", "evidence"))
            looks[epoch] = Look(logits, evidence)
        here, there = self.processor, note["processor"]
        elsewhere = "" if here == there else f"; that was on {there}, this is {here}: the last digits may differ"
        self.listener.say(f"goes on after epoch {len(state.facts['history'])} of run {note['run']}{elsewhere}")
        return state

    def _check(self, state: State) -> None:
        before = state.facts.get("note", {}).get("made_by", {})
        changed = [name for name, now in self.made_by.items() if before.get(name) != now]
        if changed:
            told = ", ".join(f"{name} was {before.get(name)} and is {self.made_by[name]}" for name in changed)
            raise CheckpointError(told)

    def remove(self) -> None:
        """At the end of the training."""
        self.path.unlink(missing_ok=True)


@contextmanager
def held(
    config: TrainConfig, data: FitData, record: Record, context: RunContext, listener: Listener
) -> Iterator[Checkpoint | None]:
    """For a training: its checkpoint, or None for a trial, and where another process holds it.

    Where `context.resume` is false, one that is there is removed first.
    """
    if record.run.role == "trial":
        yield None
        return
    folder = context.home / FOLDER / checkpoint.key(config, data)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        listener.say("another process is at the same training: this one has no checkpoint, and would begin again")
        yield None
        return
    try:
        mine = Checkpoint(
            path=folder / STATE,
            record=record,
            made_by=checkpoint.made_by(config),
            processor=checkpoint.processor(config),
            listener=listener,
        )
        if not context.resume:
            mine.remove()
        yield mine
    finally:
        if not (folder / STATE).exists():
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _is_complete(record: Record) -> bool:
    """Whether a training ended, and was killed before it removed its checkpoint."""
    return record.status is not None and record.status["state"] == "COMPLETE"
