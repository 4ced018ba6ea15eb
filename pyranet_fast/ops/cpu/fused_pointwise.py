"""All that reads the input of a residual unit in one pass: a sum, folded batch norms with ReLU, 1x1 convolutions.

The normalized maps, as large as the input, exist only block by block in a core's cache. For inference on the CPU in
float32, and in bfloat16 with sums in float32; elsewhere `add_affine_relu` and convolutions do the same in more passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..registration import describe_inference, without_gradient


@dataclass(frozen=True)
class PrepackedBranches:
    """Norms and convolutions as the kernel of this machine reads them; see `prepack`."""

    scale: list[Tensor]
    shift: list[Tensor]
    weight: list[Tensor]
    bias: list[Tensor]
    relu: list[int]


def prepack(
    norms: Sequence[tuple[Tensor | None, Tensor | None]], convs: Sequence[tuple[Tensor, Tensor, bool]]
) -> PrepackedBranches:
    """Prepare the branches.

    Args:
        norms: for each branch scale and shift, (C,) float32, or None for no norm and no ReLU before its convolution.
        convs: for each branch weight (K, C, 1, 1), float32, or bfloat16 for even C; bias (K,); whether a ReLU follows.
    """
    nothing = torch.empty(0)
    return PrepackedBranches(
        scale=[nothing if scale is None else scale.contiguous() for scale, _ in norms],
        shift=[nothing if shift is None else shift.contiguous() for _, shift in norms],
        weight=[torch.ops.pyranet_fast.pointwise_pack(weight.detach().flatten(1)) for weight, _, _ in convs],
        bias=[bias.detach().float().contiguous() for _, bias, _ in convs],
        relu=[int(relu) for _, _, relu in convs],
    )


def fused_pointwise(
    x: Tensor,
    other: Tensor | None,
    branches: PrepackedBranches,
    *,
    residual: Tensor | None = None,
    keep: bool = False,
    pool: bool = False,
) -> list[Tensor]:
    """relu?(conv_j(relu(sum * scale_j + shift_j)) + residual) of every branch j, without gradient or tangent.

    Args:
        x: (N, C, H, W) in the dtype of the weights, best channels_last.
        other: the sum's second term, as in `add_affine_relu`.
        branches: of `prepack`.
        residual: (N, K, H, W), where there is one branch.
        keep: return the sum too, first.
        pool: x is (N, C, 2H, 2W), and the sum is its maximum over windows of 2x2; without ``other``.

    Returns:
        (N, K_j, H, W) for every branch, channels_last.
    """
    b, operator = branches, torch.ops.pyranet_fast.fused_pointwise
    arguments = (x, other, b.scale, b.shift, b.weight, b.bias, b.relu, residual, keep, pool)
    return list(without_gradient(operator, *arguments))


describe_inference("pointwise_pack", "fused_pointwise")
