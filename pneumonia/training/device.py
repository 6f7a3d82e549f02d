"""The device that trains, and its fastest number format."""

import torch


def pick_device(wish: str) -> torch.device:
    """The device that `wish` means on this machine.

    Raises:
        ValueError: CUDA or MPS was asked for and is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if there[name]))
    if not there[wish]:
        raise ValueError(f"device {wish} is not available here: use auto")
    return torch.device(wish)


def half_precision(device: torch.device) -> torch.dtype | None:
    """What convolutions compute in: float16 on CUDA; bfloat16 on a CPU with instructions for it, where a step takes
    little over half the time (without them, three to five times as long); None for float32. Weights, their average,
    batch norm's statistics and the result's validation stay float32 everywhere.
    """
    if device.type == "cuda":
        return torch.float16
    can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else None
