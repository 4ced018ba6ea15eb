"""Convolutions for inference: batch norm folded in, ReLU and an addition in the same pass, weights packed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.cpu import fused_pointwise, policy, winograd
from .activation import BatchNormReLU

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fold(conv: nn.Conv2d, bn: BatchNormReLU | None = None, *, shift_share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution followed by a batch norm with fixed statistics.

    Args:
        conv: the convolution.
        bn: the norm of its output, or of a sum that its output is a term of.
        shift_share: the part of the norm's shift that this term brings into the sum.
    """
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if conv.bias is not None:
        bias = conv.bias.detach().double()
    if bn is not None:
        scale, shift = (v.detach().double() for v in bn.folded())
        weight, bias = weight * scale[:, None, None, None], bias * scale + shift * shift_share
    return weight, bias


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN's convolutions with packed weights can be had: on the CPU, in the precisions it computes in."""
    ops = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(ops, name) for name in names):
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


class FoldedConv(nn.Module):
    """relu?(conv(x) + other?), without gradient.

    Args:
        weight, bias: (outputs, inputs, k, k) and (outputs,), of any precision.
        like: the convolution that gives stride, padding and dilation.
        dtype: to compute in.
        relu: apply ReLU at the end.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, like: nn.Conv2d, dtype: torch.dtype, *, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(dtype).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype))
        padding = like.padding
        assert not isinstance(padding, str)
        self.geometry: tuple[Sequence[int], ...] = (list(padding), list(like.stride), list(like.dilation))
        self.relu = relu
        self._small = self.weight.shape[2:] == (3, 3) and self.geometry == ([1, 1], [1, 1], [1, 1])
        self._is_pointwise = self.weight.shape[2:] == (1, 1) and self.geometry == ([0, 0], [1, 1], [1, 1])
        self._prepare()

    def _prepare(self) -> None:
        """Forget what was packed for another device or dtype."""
        self._packed: Tensor | None = None
        self._winograd: Tensor | None = None
        self._pointwise: fused_pointwise.PrepackedBranches | None = None
        self._can_pack = _packs(self.weight)
        self._can_winograd = self._small and policy.supports_winograd(self.weight)

    def __getstate__(self) -> dict[str, Any]:
        packed = dict.fromkeys(("_packed", "_winograd", "_pointwise"))  # opaque tensors cannot be copied
        return {**self.__dict__, **packed}

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self._prepare()
        return self

    def forward(self, x: Tensor, other: Tensor | None = None, *, overwrite: bool = True) -> Tensor:
        """(N, inputs, H, W) and (N, outputs, h, w) to (N, outputs, h, w); ``overwrite``: into ``other``'s memory."""
        padding, stride, dilation = self.geometry
        if self._can_winograd and policy.winograd_pays(x):
            if self._winograd is None:
                self._winograd = winograd.prepack(self.weight)
            return winograd.conv3x3(x, self._winograd, self.bias, other, relu=self.relu)
        if self._is_pointwise and policy.fused_pointwise_alone_pays(x, self.weight):
            if self._pointwise is None:
                self._pointwise = fused_pointwise.prepack([(None, None)], [(self.weight, self.bias, self.relu)])
            return fused_pointwise.fused_pointwise(x, None, self._pointwise, residual=other)[0]
        if not self._can_pack:
            y = F.conv2d(x, self.weight, self.bias, stride, padding, dilation)
            if other is not None:
                y += other
            return y.relu_() if self.relu else y
        ops = torch.ops.mkldnn
        if self._packed is None:
            self._packed = ops._reorder_convolution_weight(self.weight, padding, stride, dilation, 1, list(x.shape))
        places = (self._packed, self.bias, padding, stride, dilation, 1)
        if other is None:
            return ops._convolution_pointwise(x, *places, "relu" if self.relu else "none", [], "")
        end: tuple[Any, ...] = ("add", 1.0, "relu" if self.relu else None, [], None)
        if overwrite:
            return ops._convolution_pointwise_.binary(other, x, *places, *end)
        return ops._convolution_pointwise.binary(x, other, *places, *end)
