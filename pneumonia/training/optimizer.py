"""The optimizer: AdamW whose learning rate and momentum go through one cycle.

Both are torch's own, step for step, without its `Optimizer` class: the first of these that a process makes imports
torch's compiler, which takes more than a second, or three where Python may not write bytecode.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETA2, EPSILON = 0.999, 1e-8
WARM_UP = 0.25  # share of the steps in which the learning rate rises
START, END = 1 / 25, 1 / 250_000  # of the peak learning rate
MAX_MOMENTUM, MIN_MOMENTUM = 0.95, 0.85  # momentum (beta1) at either end, and where the learning rate is highest


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """Learning rate, as a share of its peak, and momentum at `step` (from 0) of `steps`; Smith and Topin 2018, in
    the form of torch's OneCycleLR: two halves of a cosine each.
    """
    top = max(WARM_UP * (steps + 1), 2) - 1  # the rise takes at least one step
    if step <= top:
        return _cosine(START, 1.0, step / top), _cosine(MAX_MOMENTUM, MIN_MOMENTUM, step / top)
    done = (step - top) / (steps - top)
    return _cosine(1.0, END, done), _cosine(MIN_MOMENTUM, MAX_MOMENTUM, done)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) by torch's fused kernel, over the parameters that have a gradient.

    Only kernels decay: pulling a norm's scale or a bias to 0 only costs range. `param_groups` and `step` are what
    torch's GradScaler asks of an optimizer. The scaler sets `found_inf` here for the kernel, which then moves nothing,
    without waiting for the device.
    """

    _step_supports_amp_scaling = True
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, network: nn.Module, *, lr: float, weight_decay: float, steps: int) -> None:
        self.lr, self.beta1 = 0.0, MAX_MOMENTUM
        self._peak, self._steps = lr, steps
        kernels = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        self.param_groups: list[dict[str, Any]] = [
            {"params": kernels, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._state: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = {
            p: (torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), device=p.device)) for p in [*kernels, *others]
        }
        self.at(0)

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers of each parameter, by the parameter's place in `param_groups`: its moments, its steps."""
        names = ("mean", "square", "count")
        return {
            f"{place}.{name}": tensor
            for place, state in enumerate(self._state.values())
            for name, tensor in zip(names, state, strict=True)
        }

    def at(self, step: int) -> None:
        """Sets learning rate and momentum for `step` (from 0)."""
        share, self.beta1 = one_cycle(step, self._steps)
        self.lr = self._peak * share

    @torch.no_grad()
    def step(self) -> None:
        """Moves the parameters along their gradients."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            means, squares, counts = zip(*(self._state[p] for p in moved), strict=True) if moved else ((), (), ())
            adamw(
                moved, [p.grad for p in moved], list(means), list(squares), [], list(counts), fused=True,
                amsgrad=False, maximize=False, lr=self.lr, beta1=self.beta1, beta2=BETA2,
                weight_decay=group["weight_decay"], eps=EPSILON, grad_scale=self.grad_scale, found_inf=self.found_inf,
            )  # fmt: skip
