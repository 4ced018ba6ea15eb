"""The network in plain, idiomatic PyTorch: the baseline of all speed comparisons.

Nothing of pyranet_fast is used. Names of parameters are `PyraNet`'s, so weights load across and parity is a test
(tests/bench). Variants ``"B*"`` and ``"plain"``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """(h, w) of the levels c = 1 ... C of an input: floor(in * 2^(-c/C)), in // 2 for c = C; 1 to in - 1."""

    def pooled(full: int, c: int) -> int:
        return full // 2 if c == levels else max(1, min(full - 1, math.floor(full * 2.0 ** (-c / levels))))

    return [(pooled(size[0], c), pooled(size[1], c)) for c in range(1, levels + 1)]


def windows(x: Tensor, training: bool) -> Tensor:
    """Places of the pooling windows of one level, (N, C, 2): drawn in training, fixed in evaluation."""
    shape = (*x.shape[:2], 2)
    return torch.rand(shape, dtype=x.dtype, device=x.device) if training else x.new_full(shape, 0.5)


class BNReLUConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, preactivate: bool = True) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs) if preactivate else None
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.bn is None else F.relu(self.bn(x)))


class Pyramid(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, levels: int, preactivate: bool) -> None:
        super().__init__()
        self.levels = levels
        self.preactivation = nn.BatchNorm2d(inputs) if preactivate else None
        self.reduce = nn.ModuleList([nn.Conv2d(inputs, width, 1)])
        self.bn = nn.ModuleList([nn.BatchNorm2d(width)])
        self.filters = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1)])
        self.expand = BNReLUConv(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        if self.preactivation is not None:
            x = F.relu(self.preactivation(x))
        x = F.relu(self.bn[0](self.reduce[0](x)))
        total: Tensor | None = None
        for level in level_sizes(size, self.levels):
            pooled = F.fractional_max_pool2d(x, 2, output_size=level, _random_samples=windows(x, self.training))
            y = F.interpolate(self.filters[0](pooled), size=size, mode="bilinear", align_corners=True)
            total = y if total is None else total + y
        assert total is not None
        return self.expand(total)


@dataclass(frozen=True)
class Kind:
    """What the units of a network have in common."""

    pyramids: bool
    levels: int
    base_width: int


class Unit(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kind: Kind,
        pyramid: bool = True,
        project: bool = False,
        preactivate: bool = True,
    ) -> None:
        super().__init__()
        middle, width = outputs // 2, outputs // kind.base_width
        self.reduce = BNReLUConv(inputs, middle, preactivate=preactivate)
        self.filter = BNReLUConv(middle, middle, 3)
        pyramid = pyramid and kind.pyramids
        self.pyramid = Pyramid(inputs, width, middle, kind.levels, preactivate) if pyramid else None
        self.expand = BNReLUConv(middle, outputs)
        self.skip = BNReLUConv(inputs, outputs) if project or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.filter(self.reduce(x))
        if self.pyramid is not None:
            y = y + self.pyramid(x)
        return self.expand(y) + (x if self.skip is None else self.skip(x))


class Hourglass(nn.Module):
    def __init__(self, depth: int, features: int, kind: Kind) -> None:
        super().__init__()
        self.up1 = Unit(features, features, kind, depth >= 2)
        self.low1 = Unit(features, features, kind, depth >= 3)
        inner = Hourglass(depth - 1, features, kind) if depth > 1 else Unit(features, features, kind, False)
        self.low2 = inner
        self.low3 = Unit(features, features, kind, depth >= 3, project=True)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(F.max_pool2d(x, 2))))
        return self.up1(x) + F.interpolate(low, scale_factor=2.0, mode="nearest")


class Stem(nn.Module):
    def __init__(self, features: int, kind: Kind) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, features // 4, 7, stride=2, padding=3)
        self.bn = nn.BatchNorm2d(features // 4)
        self.unit1 = Unit(features // 4, features // 2, kind, preactivate=False)
        self.unit2 = Unit(features // 2, features // 2, kind)
        self.unit3 = Unit(features // 2, features, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit3(self.unit2(F.max_pool2d(self.unit1(F.relu(self.bn(self.conv(x)))), 2)))


class Stack(nn.Module):
    def __init__(self, joints: int, features: int, depth: int, kind: Kind, last: bool) -> None:
        super().__init__()
        self.hourglass = Hourglass(depth, features, kind)
        self.features = BNReLUConv(features, features)
        self.bn = nn.BatchNorm2d(features)
        self.score = nn.Conv2d(features, joints, 1)
        self.from_features = None if last else nn.Conv2d(features, features, 1)
        self.from_score = None if last else nn.Conv2d(joints, features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.bn(self.features(self.hourglass(x))))
        score = self.score(features)
        if self.from_features is not None and self.from_score is not None:
            x = x + self.from_features(features) + self.from_score(score)
        return score, x


class Baseline(nn.Module):
    """As `pyranet_fast.models.PyraNet`, (N, 3, H, W) to the score maps of every stack."""

    def __init__(
        self,
        stacks: int,
        joints: int = 16,
        *,
        features: int = 256,
        variant: str = "B*",
        levels: int = 4,
        depth: int = 4,
        base_width: int = 9,
    ) -> None:
        super().__init__()
        if variant not in ("B*", "plain"):
            raise ValueError(f"variant must be 'B*' or 'plain', got {variant!r}")
        kind = Kind(variant == "B*", levels, base_width)
        self.stem = Stem(features, kind)
        self.stacks = nn.ModuleList(Stack(joints, features, depth, kind, last=i == stacks - 1) for i in range(stacks))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, scores = self.stem(image), []
        for stack in self.stacks:
            score, x = stack(x)
            scores.append(score)
        return scores


def loss(scores: list[Tensor], joints: Tensor) -> Tensor:
    """Mean squared error against Gaussian targets (N, K, h, w) of sigma 1 px, summed over stacks."""
    h, w = scores[0].shape[2:]
    xs, ys = torch.arange(w, device=joints.device), torch.arange(h, device=joints.device)
    row = torch.exp(-((xs - joints[..., 0:1]) ** 2) / 2)[:, :, None, :]
    column = torch.exp(-((ys - joints[..., 1:2]) ** 2) / 2)[:, :, :, None]
    target = column * row
    return torch.stack([F.mse_loss(score.float(), target) for score in scores]).sum()
