"""A unit's pooled pyramid in one call, for inference: pool, 3x3 filters, upsample, add, ReLU, 1x1, add, ReLU.

Pooled and upsampled maps exist only row by row in a core's cache, and the many small maps of an hourglass cost one call
instead of a dozen. It computes in float32, or in bfloat16 with sums in float32; small maps in float16 are converted,
two passes that cost less than the calls. On the CPU with windows of evaluation; elsewhere
`fractional_max_pool_pyramid`, convolutions and `upsample_sum` do the same in more passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..registration import describe_inference, without_gradient
from . import policy


@dataclass(frozen=True)
class PrepackedPyramid:
    """Convolutions as the kernel of this machine reads them; see `prepack`."""

    filters: list[Tensor]
    biases: list[Tensor]
    expand: Tensor
    expand_bias: Tensor


def computed_in(weight: Tensor) -> torch.dtype:
    """The dtype of the products of weights (K, C, ...): bfloat16 where they are, if pairs of channels can be made."""
    return torch.bfloat16 if policy.in_pairs(weight.dtype, *weight.shape[:2]) else torch.float32


def prepack(filters: Sequence[tuple[Tensor, Tensor]], expand: tuple[Tensor, Tensor]) -> PrepackedPyramid:
    """Prepare the convolutions.

    Args:
        filters: weight (K, C, 3, 3) and bias (K,): one for all levels, or one for each.
        expand: weight (D, K, 1, 1) and bias (D,).
    """
    dtype, (weight, bias) = computed_in(filters[0][0]), expand
    return PrepackedPyramid(
        filters=[torch.ops.pyranet_fast.pyramid_pack(w.detach().to(dtype)) for w, _ in filters],
        biases=[b.detach().float().contiguous() for _, b in filters],
        expand=torch.ops.pyranet_fast.pointwise_pack(weight.detach().to(dtype).flatten(1)),
        expand_bias=bias.detach().float().contiguous(),
    )


def pooled_pyramid_(x: Tensor, sizes: Sequence[tuple[int, int]], convs: PrepackedPyramid, y: Tensor) -> Tensor:
    """relu(y + expand(relu(sum over levels of the upsampled filter(pooled x)))), into ``y``, without gradient.

    Args:
        x: (N, C, H, W) float32, bfloat16 or float16, best channels_last.
        sizes: (h, w) of every level, each below (H, W); equation 3.
        convs: of `prepack`.
        y: (N, D, H, W) in the dtype of x, channels_last; overwritten, rounded once.

    Returns:
        ``y``.
    """
    p, flat = convs, [side for size in sizes for side in size]
    operator, dtype = torch.ops.pyranet_fast.pooled_pyramid_, p.expand.dtype
    if y.dtype == dtype:
        without_gradient(operator, x, flat, p.filters, p.biases, p.expand, p.expand_bias, y)
        return y
    made = y.to(dtype)
    without_gradient(operator, x.to(dtype), flat, p.filters, p.biases, p.expand, p.expand_bias, made)
    return y.copy_(made)


describe_inference("pyramid_pack", "pooled_pyramid_")
