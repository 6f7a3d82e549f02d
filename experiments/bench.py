"""What the experiments share: the form of their command lines, and what goes with every figure."""

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pneumonia.tracking.store import source_tags


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line with `--json`; its help is the experiment's docstring, line by line."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return made


def report(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, with what they depend on: the commit, if there is one, and the machine."""
    return {**figures, "commit": commit(), "machine": machine()}


def write(figures: Any, path: Path | None) -> None:
    """As JSON, where a file is asked for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n")


def commit() -> str | None:
    return next(iter(source_tags().values()), None)


def machine() -> dict[str, Any]:
    cpu = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def mean_std(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation, which a single value does not have."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and spread of each figure over the rows; all have the same figures, and perhaps a seed, which is none."""
    names = [name for name in rows[0] if name != "seed"] if rows else []
    return {name: mean_std([row[name] for row in rows]) for name in names}


def spread(value: dict[str, float | None]) -> str:
    """What `mean_std` found, for reading."""
    return f"{value['mean']:.4f}" + ("" if value["std"] is None else f" ± {value['std']:.4f}")


def line(row: dict[str, Any]) -> str:
    """A row of figures, for reading."""
    words = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())
    return "  ".join(words)
