"""3x3 convolutions in a quarter of the products: Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, CVPR 2016).

On a CPU without matrix units a convolution is bound by its products, and oneDNN's direct 3x3 already runs at the speed
of a matrix product: fewer products are the only way to be faster. Rounding grows a few times, to about 2e-6 of the
result's norm, in float32; lower precisions are not served.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _backend
from ._common import memory_format

LEAST_CHANNELS = 32
LEAST_TILES = 32
LEAST_TILES_OF_WEIGHT_GRADIENT = 64


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
    return _pays(x, LEAST_TILES)


def _pays(x: Tensor, least: int) -> bool:
    return x.shape[0] * (-(-x.shape[2] // 4)) * (-(-x.shape[3] // 4)) >= least


def trains(x: Tensor, weight: Tensor) -> bool:
    """Whether `differentiable_conv3x3` is the faster convolution of a map in eager mode."""
    return (
        x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and serves(weight)
        and pays(x)
        and not torch.is_autocast_enabled("cpu")
        and memory_format(x) == torch.channels_last
    )


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


class _Conv3x3(torch.autograd.Function):
    """Forward and both gradients in the transformed domain."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return conv3x3(x, pack(weight), bias, outputs=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if wants_x:
            grad_x = conv3x3(grad, pack(weight, backward=True), outputs=weight.shape[1])
        if wants_weight and not _pays(x, LEAST_TILES_OF_WEIGHT_GRADIENT):
            _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                grad, x, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, wants_bias]
            )
        else:
            if wants_weight:
                grad_weight = torch.ops.pyranet_fast.winograd_weight_gradient(x, grad)
            if wants_bias:
                grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


def differentiable_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1), with its gradients (once), where `trains`.

    Args:
        x: (N, C, H, W) float32 on the CPU.
        weight: (K, C, 3, 3) float32.
        bias: (K,) float32 or None.
    """
    y: Tensor = _Conv3x3.apply(x, weight, bias)
    return y
