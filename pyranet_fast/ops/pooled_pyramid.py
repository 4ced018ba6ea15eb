"""A unit's pooled pyramid in one call, for inference: pool, 3x3 filters, upsample, add, ReLU, 1x1, add, ReLU.

Pooled and upsampled maps exist only row by row in a core's cache, and the many small maps of an hourglass cost one call
instead of a dozen. Float32 on the CPU with windows of evaluation; elsewhere `fractional_max_pool_pyramid`, convolutions
and `upsample_sum` do the same in more passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._common import memory_format
from .fused_pointwise import serves as _serves


@dataclass(frozen=True)
class Packed:
    """Convolutions as the kernel of this machine reads them; see `pack`."""

    filters: list[Tensor]
    biases: list[Tensor]
    expand: Tensor
    expand_bias: Tensor


def serves(x: Tensor, y: Tensor, weight: Tensor) -> bool:
    """Whether there is a kernel for the pyramid's input, the map that is added to, and weights."""
    return _serves(x, weight) and y.dtype == torch.float32 and memory_format(y) == torch.channels_last


def pack(filters: Sequence[tuple[Tensor, Tensor]], expand: tuple[Tensor, Tensor]) -> Packed:
    """Prepare the convolutions.

    Args:
        filters: weight (K, C, 3, 3) and bias (K,), float32: one for all levels, or one for each.
        expand: weight (D, K, 1, 1) and bias (D,), float32.
    """
    weight, bias = expand
    return Packed(
        filters=[torch.ops.pyranet_fast.pyramid_pack(w.detach()) for w, _ in filters],
        biases=[b.detach().contiguous() for _, b in filters],
        expand=torch.ops.pyranet_fast.pointwise_pack(weight.detach().flatten(1)),
        expand_bias=bias.detach().contiguous(),
    )


def run_(x: Tensor, sizes: Sequence[tuple[int, int]], packed: Packed, y: Tensor) -> Tensor:
    """relu(y + expand(relu(sum over levels of the upsampled filter(pooled x)))), into ``y``, without gradient.

    Args:
        x: (N, C, H, W) float32, best channels_last.
        sizes: (h, w) of every level, each below (H, W); equation 3.
        packed: of `pack`.
        y: (N, D, H, W) float32, channels_last; overwritten.

    Returns:
        ``y``.
    """
    p, flat = packed, [side for size in sizes for side in size]
    torch.ops.pyranet_fast.pooled_pyramid_(x, flat, p.filters, p.biases, p.expand, p.expand_bias, y)
    return y
