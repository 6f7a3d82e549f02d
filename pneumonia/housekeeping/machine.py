"""What the machine has: cores, memory, GPU, disk; and what the environment says."""

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from pneumonia.housekeeping.checkup import Check
from pneumonia.housekeeping.sizes import readable
from pneumonia.runtime.disk import existing
from pneumonia.runtime.environment import cores as cores_seen
from pneumonia.runtime.secrets import is_secret, masked

CGROUP = Path("/sys/fs/cgroup")
WORKER_BYTES = 1 << 30  # about what a worker of a search takes
FULL_BYTES, LOW_BYTES = 200 << 20, 2 << 30  # of a disk: below the first no model can be written
# Variables that the program or what it is built on reads, and whose value says where things go or who asks.
READ = (
    "PNEUMONIA_HOME",
    "PNEUMONIA_ANSWERS",
    "PNEUMONIA_ANSWERS_MB",
    "PNEUMONIA_ANSWERS_FILES",
    "PNEUMONIA_VERSION",
    "PNEUMONIA_TOKEN",
    "PROMETHEUS_MULTIPROC_DIR",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_RUN_ID",
    "MLFLOW_ALLOW_FILE_STORE",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "PGPASSFILE",
    "PGPASSWORD",
    "XDG_DATA_HOME",
    "TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)


def cores(root: Path = CGROUP) -> Check:
    """The cores that this process may use, and the share of them that a container grants.

    Args:
        root: where the system shows control groups.
    """
    seen, granted = cores_seen(), _granted_cores(root)
    if granted is None or granted >= seen:
        return Check("cores", "ok", f"{seen} core{'s' if seen > 1 else ''}")
    workers = max(1, int(granted))
    said = f"{seen} cores are seen, but the control group grants the time of {granted:g}: a search would start {seen}"
    return Check("cores", "warning", f"{said} workers", f"pneumonia search --workers {workers}")


def _granted_cores(root: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()  # version 2
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()  # version 1
        period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        return None if int(quota) < 0 else int(quota) / int(period)
    return None


def memory(root: Path = CGROUP) -> Check:
    """The memory that is free, of the machine or of the control group, against what a worker a core takes."""
    there = psutil.virtual_memory()
    total, free = there.total, there.available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no limit is the word max, or an enormous number
            most = int((root / limit).read_text())
            if most < total:
                total, free = most, min(free, most - int((root / used).read_text()))
    said = f"{readable(free)} of {readable(total)} are free"
    workers = min(cores_seen(), free // WORKER_BYTES)
    if workers >= cores_seen():
        return Check("memory", "ok", said)
    needs = f"{said}, and a search with a worker a core takes about {readable(cores_seen() * WORKER_BYTES)}"
    return Check("memory", "warning", needs, f"pneumonia search --workers {max(1, workers)}")


def gpu() -> Check:
    """The accelerator that trains, or why the one that is there does not."""
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return Check(
            "gpu", "ok", f"{device.name}, {readable(device.total_memory)}{f', one of {count}' if count > 1 else ''}"
        )
    if torch.backends.mps.is_available():
        return Check("gpu", "ok", "Apple's, by MPS")
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return Check("gpu", "note", "none: the processor trains")
    if torch.version.cuda is None:
        said = f"there is an NVIDIA GPU, but torch {torch.__version__} was built without CUDA"
        return Check("gpu", "warning", said, "pip install -I torch torchvision")
    said = f"there is an NVIDIA GPU, but torch {torch.__version__}, for CUDA {torch.version.cuda}, cannot use it"
    return Check("gpu", "warning", f"{said}: its driver may be older, or CUDA_VISIBLE_DEVICES hide it", "nvidia-smi")


def disks(places: Mapping[str, Path]) -> list[Check]:
    """The free room of each file system that something is written to.

    Args:
        places: what is written, and where; a folder that is not there yet counts as the one that it will be made in.
    """
    named: dict[int, tuple[Path, list[str]]] = {}
    for what, path in {**places, "temporary files": Path(tempfile.gettempdir())}.items():
        there = existing(path)
        named.setdefault(there.stat().st_dev, (there, []))[1].append(what)
    found: list[Check] = []
    for path, written in named.values():
        use = shutil.disk_usage(path)
        said = f"{readable(use.free)} of {readable(use.total)} are free at {path} ({', '.join(written)})"
        if use.free >= LOW_BYTES:
            found.append(Check("disk", "ok", said))
        elif use.free >= FULL_BYTES:
            found.append(Check("disk", "warning", said, "pneumonia clean"))
        else:
            found.append(Check("disk", "error", f"{said}: too little for a model", "pneumonia clean"))
    return found


def environment(variables: Mapping[str, str]) -> list[Check]:
    """The variables that the program reads, without secrets, and those that look as if they were meant for it."""
    there = {name: variables[name] for name in READ if variables.get(name)}
    there |= {name: variables[name] for name in map(str.lower, READ[-3:]) if variables.get(name)}
    told = [f"{name} is set" if is_secret(name) else f"{name}={masked(value)}" for name, value in there.items()]
    found = [Check("environment", "ok", ", ".join(told) or "no variable is set that the program reads")]
    found += [
        Check("environment", "warning", f"{name} is set, which nothing reads", f"unset {name}")
        for name in sorted(variables.keys() - set(READ))
        if name.startswith("PNEUMONIA_")
    ]
    uri = variables.get("MLFLOW_TRACKING_URI", "")
    if masked(uri) != uri and uri.startswith("http"):
        said = "MLFLOW_TRACKING_URI holds a password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        found.append(Check("environment", "warning", said, f"export MLFLOW_TRACKING_URI={_without_user(uri)}"))
    return found


def _without_user(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
