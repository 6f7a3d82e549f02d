"""Networks for one grey film: a small residual CNN, and what others (see `backbones`) have in common with it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions around an average-pooled 1x1 shortcut (He et al. 2016; the pooling: He et al. 2019)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)), inplace=True)
        y = self.second_norm(self.second(y))
        return functional.relu(y + self.shortcut(x), inplace=True)


class Network(nn.Module):
    """Feature maps, their global average, dropout, one logit.

    With global average pooling, the head's weights over the last feature maps are the class-activation map
    (Zhou et al. 2016).
    """

    name = "cnn"  # as `--network` takes it
    weights = ""  # where they came from before the training, and under which licence; "" if they were random
    head: nn.Linear

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def maps(self, x: Tensor) -> Tensor:
        """Standardised films x [B, 1, S, S] -> feature maps [B, C, h, w]."""
        raise NotImplementedError

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Standardised films x [B, 1, S, S] -> logits [B]. `generator` makes dropout repeatable (None: torch's own)."""
        pooled = self.maps(x).mean(dim=(2, 3))
        if self.training and self.dropout > 0:
            kept = (
                torch.rand(pooled.shape, generator=generator) >= self.dropout
            )  # functional.dropout takes no generator
            pooled = pooled * (kept / (1 - self.dropout)).to(pooled)
        logits: Tensor = self.head(pooled).squeeze(1)
        return logits


class Cnn(Network):
    """A 5x5 stem, four stages of `width`, 2, 4 and 8 times `width` channels."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(dropout)
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 4 * width, 2),
            Block(4 * width, 8 * width, 2),
        )
        self.head = nn.Linear(8 * width, 1)

    def maps(self, x: Tensor) -> Tensor:
        """Standardised films x [B, 1, S, S] -> feature maps [B, 8 * width, S / 16, S / 16]."""
        features: Tensor = self.stages(self.stem(x))
        return features


class Ensemble(Network):
    """Networks for films of one size, asked together: the logit is the mean of theirs (Lakshminarayanan et al. 2017).

    Its feature maps are theirs, one after the other, and its head holds theirs, divided by
    their number, so that its class-activation map is the mean of theirs.
    """

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__(dropout=0.0)
        self.members = nn.ModuleList(members)
        self.name, self.weights = members[0].name, members[0].weights
        weights = torch.cat([member.head.weight.detach() for member in members], dim=1) / len(members)
        self.head = nn.Linear(weights.shape[1], 1)
        with torch.no_grad():
            self.head.weight.copy_(weights)
            self.head.bias.copy_(torch.stack([member.head.bias.detach() for member in members]).mean(0))

    def maps(self, x: Tensor) -> Tensor:
        """Standardised films x [B, 1, S, S] -> feature maps of all members [B, C, h, w]."""
        return torch.cat([member.maps(x) for member in self.members], dim=1)  # type: ignore[operator]


def build(width: int, dropout: float, *, seed: int) -> Cnn:
    """A CNN whose weights depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Cnn(width, dropout)
