"""All that reads the input of a residual unit in one pass: a sum, folded batch norms with ReLU, 1x1 convolutions.

The normalised maps, as large as the input, exist only block by block in a core's cache. For inference on the CPU in
float32; elsewhere `add_affine_relu` and convolutions do the same in more passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _backend


@dataclass(frozen=True)
class Packed:
    """Norms and convolutions as the kernel of this machine reads them; see `pack`."""

    scale: list[Tensor]
    shift: list[Tensor]
    weight: list[Tensor]
    bias: list[Tensor]
    relu: list[int]


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether there is a kernel for a map and weights."""
    return (
        _backend.native_error is None
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and _backend.choose(x) == "native"
    )


def pack(norms: Sequence[tuple[Tensor | None, Tensor | None]], convs: Sequence[tuple[Tensor, Tensor, bool]]) -> Packed:
    """Prepare the branches.

    Args:
        norms: for each branch scale and shift, (C,) float32, or None for no norm and no ReLU before its convolution.
        convs: for each branch weight (K, C, 1, 1) and bias (K,), float32, and whether a ReLU follows.
    """
    nothing = torch.empty(0)
    return Packed(
        scale=[nothing if scale is None else scale.contiguous() for scale, _ in norms],
        shift=[nothing if shift is None else shift.contiguous() for _, shift in norms],
        weight=[torch.ops.pyranet_fast.pointwise_pack(weight.detach().flatten(1)) for weight, _, _ in convs],
        bias=[bias.detach().contiguous() for _, bias, _ in convs],
        relu=[int(relu) for _, _, relu in convs],
    )


def run(
    x: Tensor,
    other: Tensor | None,
    packed: Packed,
    *,
    residual: Tensor | None = None,
    keep: bool = False,
    pool: bool = False,
) -> list[Tensor]:
    """relu?(conv_j(relu(sum * scale_j + shift_j)) + residual) of every branch j, without gradient.

    Args:
        x: (N, C, H, W) float32, best channels_last.
        other: the sum's second term, as in `add_affine_relu`.
        packed: of `pack`.
        residual: (N, K, H, W), where there is one branch.
        keep: return the sum too, first.
        pool: x is (N, C, 2H, 2W), and the sum is its maximum over windows of 2x2; without ``other``.

    Returns:
        (N, K_j, H, W) for every branch, channels_last.
    """
    p, run = packed, torch.ops.pyranet_fast.fused_pointwise
    return list(run(x, other, p.scale, p.shift, p.weight, p.bias, p.relu, residual, keep, pool))
