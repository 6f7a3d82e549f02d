"""The status of each file of a data set: used, a duplicate, in two splits, corrupt, or not a film."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pneumonia.runtime.messages import shortened

EXAMPLES = 5  # of each problem that are shown
LONG = 200  # letters of a path that are shown


@dataclass(frozen=True)
class Group:
    """Films that clash, as paths: those kept, those left out, and why."""

    why: str
    kept: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The status of every file: `found` films are `used`, or in a group of `duplicates` or `leaks`, or in
    `corrupt` (path, reason). `classes` is (negative, positive). `ignored` counts files that are no films, by reason.
    `counts` has a row a split, class and subtype."""

    found: int
    used: int
    classes: tuple[str, str] | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    duplicates: tuple[Group, ...] = ()
    leaks: tuple[Group, ...] = ()
    corrupt: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    counts: tuple[dict[str, str | int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @property
    def copies(self) -> int:
        """Films left out as duplicates."""
        return sum(len(group.left_out) for group in self.duplicates)

    @property
    def leaked(self) -> int:
        """Films left out since they, or their patients, are in another split."""
        return sum(len(group.left_out) for group in self.leaks)

    def named(self) -> dict[str, float]:
        """The counts as metrics of a run."""
        return {
            "data/found": self.found,
            "data/used": self.used,
            "data/corrupt": len(self.corrupt),
            "data/duplicates_left_out": self.copies,
            "data/leaks_left_out": self.leaked,
        }

    def flow(self) -> list[tuple[str, int]]:
        """From what was found to what is used: what is counted, and how many."""
        return [
            ("found in the folder", self.found),
            ("left out: copies within a split", self.copies),
            ("left out: the film or its patient is in another split too", self.leaked),
            ("left out: cannot be read", len(self.corrupt)),
            ("in use", self.used),
        ]

    def lines(self) -> list[str]:
        """For people: at most five examples of each problem."""
        lines = [f"{self.used:,} of {self.found:,} films used"]
        if self.classes is not None:
            lines.append(f"positive: {self.classes[1]}, negative: {self.classes[0]}")
        lines += [f"note: {note}" for note in self.notes]
        for row in self.counts:
            name = f"{row['class']} {row['subtype']}".strip()
            lines.append(f"  {row['split']:<5} {name}: {row['films']:,} films of {row['patients']:,} patients")
        if self.ignored:
            lines.append(f"ignored files: {tally(self.ignored)}")
        for title, groups, left_out in (
            ("identical films", self.duplicates, self.copies),
            ("in two splits", self.leaks, self.leaked),
        ):
            shown = [
                f"  {g.why}: "
                + ", ".join(f"{w} {some(p)}" for w, p in (("kept", g.kept), ("left out", g.left_out)) if p)
                for g in groups[:EXAMPLES]
            ]
            lines += _listed(title, shown, len(groups), left_out)
        return lines + _listed(
            "corrupt or missing",
            [f"  {shortened(path, LONG)}: {why}" for path, why in self.corrupt[:EXAMPLES]],
            len(self.corrupt),
            None,
        )


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def tally(counts: dict[str, int]) -> str:
    """Counts as words: 2 GIF, 1 TIFF."""
    return ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items()))


def _listed(title: str, shown: list[str], total: int, left_out: int | None) -> list[str]:
    if not total:
        return []
    head = f"{title}: {total:,}" + ("" if left_out is None else f" groups, {left_out:,} films left out")
    more = [f"  and {total - len(shown):,} more"] if total > len(shown) else []
    return [head, *shown, *more]
