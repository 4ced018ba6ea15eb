"""3x3 convolutions in a quarter of the products: Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, CVPR 2016).

On a CPU without matrix units a convolution is bound by its products, and oneDNN's direct 3x3 already runs at the speed
of a matrix product: fewer products are the only way to be faster. Rounding grows a few times, to about 2e-6 of the
result's norm in float32. F(2x2, 3x3) takes 4/9 of the products and reads less than half as many weights, which counts
on small maps; it rounds as the direct method in float32, and in bfloat16, for inference, to 4e-3 of the norm where the
direct method has 2e-3. Infinity and NaN, which the transforms spread over a tile, are found by the kernels on the way;
the convolution is then PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registration import describe_inference, without_gradient
from . import policy


def prepack(weight: Tensor, tile: int | None = None, *, backward: bool = False) -> Tensor:
    """The transformed filters, in the order that the kernel of this machine reads them.

    Args:
        weight: (K, C, 3, 3) float32, or bfloat16 for even C.
        tile: the side of a tile of outputs, 4 (float32 alone) or 2; by default the larger one that the dtype admits.
        backward: for the gradient of the convolution's input; float32.
    """
    if tile is None:
        tile = 2 if weight.dtype == torch.bfloat16 else 4
    filters: Tensor = torch.ops.pyranet_fast.winograd_pack(weight.detach(), tile, backward)
    return filters


def conv3x3(
    x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor | None = None, other: Tensor | None = None, *,
    relu: bool = False, backward: bool = False,
) -> Tensor:  # fmt: skip
    """relu?(conv(x) + bias + other), stride 1, padding 1, without gradient.

    Args:
        x: (N, C, H, W) float32 or bfloat16, best channels_last.
        filters: what `prepack` made of the weight.
        weight: (K, C, 3, 3) in the dtype of x; read where the result is not finite.
        bias: (K,) float32.
        other: (N, K, H, W) in the dtype of x, added.
        relu: apply ReLU at the end.
        backward: as for `prepack`: x has K channels and the result C.

    Returns:
        (N, K, H, W), channels_last.
    """
    operator = torch.ops.pyranet_fast.winograd_conv3x3
    y: Tensor
    y, finite = without_gradient(operator, x, filters, bias, other, weight.shape[1 if backward else 0], relu)
    return y if finite else _direct(x, weight, bias, other, relu, backward)


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool, backward: bool) -> Tensor:
    with torch.no_grad():
        convolve = F.conv_transpose2d if backward else F.conv2d
        y: Tensor = convolve(x, weight, None if bias is None else bias.to(weight.dtype), padding=1)
        y = y if other is None else y + other
        return (F.relu(y) if relu else y).contiguous(memory_format=torch.channels_last)


class _Conv3x3(torch.autograd.Function):
    """Forward and both gradients in the transformed domain: several operators each, so none of them has the gradient.

    1.06 times the step for the input's gradient and 1.6-1.85 times for a large weight's (bench/NOTES.md, training).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return conv3x3(x, prepack(weight), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if torch.is_grad_enabled():  # to be differentiated again: by PyTorch's own convolution
            return _convolution_backward(grad, x, weight, list(ctx.needs_input_grad))
        if wants_x:
            grad_x = conv3x3(grad, prepack(weight, backward=True), weight, backward=True)
        if wants_weight and not policy.winograd_weight_gradient_pays(x):
            _, grad_weight, grad_bias = _convolution_backward(grad, x, weight, [False, True, wants_bias])
        else:
            if wants_weight:
                grad_weight, finite = without_gradient(torch.ops.pyranet_fast.winograd_weight_gradient, x, grad)
                if not finite:
                    grad_weight = _convolution_backward(grad, x, weight, [False, True, False])[1]
            if wants_bias:
                grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    ones, sizes = [1, 1], [len(weight)]
    return torch.ops.aten.convolution_backward(grad, x, weight, sizes, ones, ones, ones, False, [0, 0], 1, wanted)


def differentiable_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1), with its gradients, where `policy.trains_with_winograd`.

    Args:
        x: (N, C, H, W) float32 on the CPU.
        weight: (K, C, 3, 3) float32.
        bias: (K,) float32 or None.
    """
    y: Tensor = _Conv3x3.apply(x, weight, bias)
    return y


describe_inference("winograd_pack", "winograd_conv3x3", "winograd_weight_gradient", "run_folded")
