"""Where a command's runs go, and how each of them begins."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from pneumonia.data.index import Index
from pneumonia.tracking import tags
from pneumonia.tracking.record import Dataset, Record, Run
from pneumonia.tracking.store import Tracker

PURPOSES = {"evaluate": "testing", "compare": "validation", "eda": "eda"}  # what films are for by role, else training


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What all runs of one command have in common.

    `home` holds records and caches. `run_id` is an MLflow run to adopt for the first of them, as `mlflow run` makes
    one, and `parent` the run that all are under. `tags` are given to each. `pictures` says whether their records hold
    pictures of films: where they do not, no film leaves the machine. `resume` says whether a training goes on where a
    killed one of the same configuration and films was. `progress` is for bars on long work.
    """

    home: Path
    tracker: Tracker
    experiment: str = "pneumonia"
    run_id: str | None = None
    parent: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    pictures: bool = True
    resume: bool = True
    progress: bool = False

    def under(self, parent: str) -> "RunContext":
        """The context of the runs that belong to another."""
        return replace(self, parent=parent, run_id=None)

    def begin(self, run: Run, index: Index | None, folder: Path | None = None) -> Record:
        """Starts the record of a run on an index's films, if it has any; what the context knows is filled in.

        Args:
            run: its name, role, description, and tags of its own.
            folder: a new one among the home's records of that role if None.
        """
        folder = folder or self.home / "records" / run.role / str(time.time_ns())
        return Record.create(folder, self.filled_in(run, index))

    def filled_in(self, run: Run, index: Index | None) -> Run:
        """`run` on an index's films, with what the context knows."""
        return replace(
            run,
            experiment=self.experiment,
            run_id=self.run_id,
            parent=self.parent,
            tags={**({} if index is None else data_tags(index)), **self.tags, **run.tags},
            dataset=Dataset() if index is None else dataset_of(index, PURPOSES.get(run.role, "training")),
        )


def dataset_of(index: Index, purpose: str = "training") -> Dataset:
    """The films as MLflow's dataset input: name, digest, source, profile."""
    return {
        "name": index.root.name or "films",
        "digest": index.fingerprint,
        "source": str(index.root),
        "context": purpose,
        "classes": list(index.classes),
        "any_dicom": index.any_dicom,
        "profile": {
            "films": len(index.table),
            **{str(split): int(n) for split, n in index.table["split"].value_counts().sort_index().items()},
        },
    }


def data_tags(index: Index) -> dict[str, str]:
    """The tags that tie a run to its films."""
    negative, positive = index.classes
    named = {
        tags.FINGERPRINT: index.fingerprint,
        tags.CLASSES: "/".join(index.classes),
        tags.NEGATIVE: negative,
        tags.POSITIVE: positive,
    }
    return {**named, tags.ANY_DICOM: "true"} if index.any_dicom else named
