"""3x3 convolutions in a quarter of the products: Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, CVPR 2016).

On a CPU without matrix units a convolution is bound by its products, and oneDNN's direct 3x3 already runs at the speed
of a matrix product: fewer products are the only way to be faster. Rounding grows a few times, to about 2e-6 of the
result's norm, in float32; lower precisions are not served.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _backend

LEAST_CHANNELS = 32
LEAST_TILES = 32


def serves(weight: Tensor) -> bool:
    """Whether there is a kernel for a weight (K, C, 3, 3): float32 on the CPU, enough channels to pay."""
    return (
        _backend.native_error is None
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and _backend.choose(weight) == "native"
    )


def pays(x: Tensor) -> bool:
    """Whether a map is large enough for its tiles of 4x4 to outweigh the reading of 36 / 9 times the weights."""
    return x.shape[0] * (-(-x.shape[2] // 4)) * (-(-x.shape[3] // 4)) >= LEAST_TILES


def pack(weight: Tensor, *, backward: bool = False) -> Tensor:
    """The transformed filters, in the order that the kernel of this machine reads them.

    Args:
        weight: (K, C, 3, 3) float32.
        backward: for the gradient of the convolution's input.
    """
    packed: Tensor = torch.ops.pyranet_fast.winograd_pack(weight.detach(), backward)
    return packed


def conv3x3(
    x: Tensor, packed: Tensor, bias: Tensor | None = None, other: Tensor | None = None, *,
    outputs: int | None = None, relu: bool = False,
) -> Tensor:  # fmt: skip
    """relu?(conv(x) + bias + other), stride 1, padding 1, without gradient.

    Args:
        x: (N, C, H, W) float32, best channels_last.
        packed: what `pack` made of the weight.
        bias: (K,) float32.
        other: (N, K, H, W) float32, added.
        outputs: K; may be left out where there is a bias.
        relu: apply ReLU at the end.

    Returns:
        (N, K, H, W), channels_last.
    """
    if outputs is None:
        assert bias is not None
        outputs = len(bias)
    y: Tensor = torch.ops.pyranet_fast.winograd_conv3x3(x, packed, bias, other, outputs, relu)
    return y
