"""How a setting is declared: the metadata of a configuration's field, and what follows from it."""

import math
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a number may be: from `low` to `high`, these included unless it must lie `above` or `below` them."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    multiple: int = 1

    def hold(self, value: float) -> bool:
        """Whether the value is allowed; NaN never is."""
        low = self.low < value if self.above else self.low <= value
        high = value < self.high if self.below else value <= self.high
        return low and high and not (self.multiple > 1 and value % self.multiple)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low}"
        if self.above or self.below:
            ends = "above" if self.above else "at least", "below" if self.below else "at most"
            return f"{ends[0]} {self.low} and {ends[1]} {self.high}"
        return f"{f'a multiple of {self.multiple} ' if self.multiple > 1 else ''}from {self.low} to {self.high}"


SHARE = Bounds(low=0, high=1, below=True)
STRENGTH = Bounds(low=0, high=10)


def setting(
    default: Any,
    help: str,
    bounds: Bounds | None = None,
    *,
    synthetic: Any = None,
    project: bool = True,
    in_name: Literal["always", "never", "changed"] = "always",
) -> Any:
    """A field of a configuration. The values of a `Literal` are its choices.

    Args:
        bounds: of a number.
        synthetic: the default of a search on synthetic films, where it is another.
        project: whether `mlflow run -e train` takes it.
        in_name: whether a study's default name tells it. A setting that comes later is told only when `changed` from
            its default, so that studies that were begun before keep their names.
    """
    metadata = {"help": help, "bounds": bounds, "synthetic": synthetic}
    return field(default=default, metadata={**metadata, "project": project, "in_name": in_name})


def choices(annotation: Any) -> tuple[str, ...]:
    """The values of a `Literal`, or of one that may be None; of other types none."""
    inner = [one for one in get_args(annotation) if one is not NoneType]
    if get_origin(annotation) is Literal:
        return tuple(inner)
    return choices(inner[0]) if len(inner) == 1 else ()


def check(config: Any) -> None:
    """Raises:
    ValueError: a field is out of its bounds, or none of its choices; the sentence names it.
    """
    for one in fields(config):
        value, bounds, allowed = getattr(config, one.name), one.metadata["bounds"], choices(one.type)
        if value is None:
            continue
        if bounds is not None and not bounds.hold(value):
            given = f"{value:g}" if isinstance(value, float) else value
            raise ValueError(f"{one.name} must be {bounds}, not {given}")
        if allowed and value not in allowed:
            raise ValueError(f"{one.name} must be one of {', '.join(allowed)}, not {value!r}")
