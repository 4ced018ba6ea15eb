"""The hourglass: a symmetric encoder-decoder of residual units (paper section 3.4)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import dispatch, fractional_max_pool_pyramid
from ..ops.cpu import policy


class UnitFactory(Protocol):
    """Makes one residual unit; ``pyramid`` is True at the places of the Pyramid Residual Modules."""

    def __call__(
        self,
        inputs: int,
        outputs: int,
        *,
        pyramid: bool,
        project_skip: bool = False,
        preactivate: bool = True,
    ) -> nn.Module: ...


def max_pool(x: Tensor, center: Tensor | None = None) -> Tensor:
    """(N, C, H, W) to (N, C, H / 2, W / 2), H and W even: the hourglass's and the stem's pooling.

    On CUDA by fractional pooling, which at half the size has the same windows for any offset, and keeps a byte a
    pixel where PyTorch writes int64 indices. ``center`` is (1, 1, 1, 2), precomputed offsets.
    """
    if not x.is_cuda or not policy.fuses() or dispatch.operators(x) is None:
        return F.max_pool2d(x, 2)
    if center is None:
        center = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float32, device=x.device)
    return fractional_max_pool_pyramid(x, [(x.shape[2] // 2, x.shape[3] // 2)], center)[0]


def upsample_add(low: Tensor, other: Tensor) -> Tensor:
    """Upsample ``low`` (N, C, h, w) by 2 (nearest neighbor) and add ``other`` (N, C, 2h, 2w)."""
    if low.is_cuda:
        return _add_repeated(low, other)
    y = F.interpolate(low, size=other.shape[2:], mode="nearest")
    y += other
    return y


def _add_repeated(low: Tensor, other: Tensor) -> Tensor:
    """The same as one sum, in which each pixel of ``low`` stands four times.

    CUDA's autocast runs nearest `interpolate` in float32 (the CPU's does not), and all norms that read it after it.
    """
    h, w = low.shape[2:]
    pixels = other.unflatten(3, (w, 2)).unflatten(2, (h, 2))
    return (low.unsqueeze(4).unsqueeze(3) + pixels).flatten(4, 5).flatten(2, 3)


class Hourglass(nn.Module):
    """Hourglass of ``depth`` levels, the outermost first.

    Level n = depth ... 1: ``up1`` at the level's resolution; pooling by 2, ``low1``, the next level (one unit
    at n = 1), ``low3``, upsampling by 2; the sum of both. Units are Pyramid Residual Modules where maps are
    large enough for pyramid levels: ``up1`` at n >= 2, ``low1`` and ``low3`` at n >= 3.

    Args:
        depth: number of levels, at least 1.
        features: channels of every unit.
        make_unit: see `UnitFactory`.
        variance_control: BN-ReLU-1x1 instead of the identity skip of ``low3``, the last unit before the two
            branches are added (section 4.2).
    """

    def __init__(self, depth: int, features: int, make_unit: UnitFactory, *, variance_control: bool = True) -> None:
        super().__init__()
        self.up1 = make_unit(features, features, pyramid=depth >= 2)
        self.low1 = make_unit(features, features, pyramid=depth >= 3)
        self.low2: nn.Module
        if depth > 1:
            self.low2 = Hourglass(depth - 1, features, make_unit, variance_control=variance_control)
        else:
            self.low2 = make_unit(features, features, pyramid=False)
        self.low3 = make_unit(features, features, pyramid=depth >= 3, project_skip=variance_control)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, features, H, W), H and W multiples of 2^depth, to the same shape."""
        low = self.low3(self.low2(self.low1(max_pool(x))))
        return upsample_add(low, self.up1(x))
