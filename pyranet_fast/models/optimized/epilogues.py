"""Convolutions on CUDA whose bias, addition and ReLU happen where their kernel writes, by cuBLAS and cuDNN.

PyTorch's convolution there is followed by kernels of their own for the bias, the addition and the ReLU, each of which
reads and writes the whole map. Which epilogues there are decides where a folded network adds its biases on CUDA:

=======================  ===================================================  ==========================================
what a layer ends in     by                                                   its bias
=======================  ===================================================  ==========================================
ReLU                     ``_addmm_activation`` (1x1), cuDNN's fused one       in the epilogue
bias alone               ``addmm`` (1x1)                                      in the epilogue; a 3x3's: see below
an addition              ``addmm_`` into the map that is added to (1x1)       left out, see below
an addition and a ReLU   cuDNN's fused one                                    in the epilogue
=======================  ===================================================  ==========================================

A bias that does not fit an epilogue moves to the next layer that can add it, exactly: from a 3x3 before a sum to the
1x1 that adds to it, from a pyramid's levels to the upsampling, from the end of a unit to the unit's projected skip or,
with an identity skip, along the residual maps into the shifts of the norms that read them. So on CUDA residual maps
lack a constant a channel; `FoldedConv.cuda_bias` and `Entry.cuda_shift` are what is added there instead of ``bias`` and
``shift``. Whoever asks, asks `applies`: all layers of a network have to agree.

Matrix products are for bfloat16 and float16: those of float32 obey another TF32 switch than convolutions do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.cpu import policy

Geometry = tuple[Sequence[int], ...]


def applies(x: Tensor) -> bool:
    """Whether a network adds its biases as on CUDA, for a map of it."""
    return x.is_cuda


def multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether a 1x1 convolution of a map runs as a matrix product."""
    return (
        policy.fuses()  # first: in a graph sizes may be symbols
        and x.dtype == weight.dtype
        and x.dtype in policy.LOWER_PRECISIONS
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def has_fused_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether cuDNN may have a convolution of a map with bias, ReLU and addition in its epilogue."""
    cudnn = torch.backends.cudnn
    return (
        policy.fuses()
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, *policy.LOWER_PRECISIONS)
        and bool(cudnn.enabled)
        and cudnn.is_available()
    )


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W), channels_last, as a matrix (N H W, C) of the same memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    """relu?(weight . x + bias), (N, C, H, W) to (N, K, H, W), both channels_last; weight (K, C, 1, 1)."""
    n, _, h, w = x.shape
    rows, columns = _rows(x), weight.flatten(1).t()
    if bias is None:
        made = rows @ columns
        made = made.relu_() if relu else made
    else:
        made = torch._addmm_activation(bias, rows, columns) if relu else torch.addmm(bias, rows, columns)
    return made.view(n, h, w, len(weight)).permute(0, 3, 1, 2)


def add_pointwise_(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """total + weight . x in the memory of total, which is channels_last as x is."""
    _rows(total).addmm_(_rows(x), weight.flatten(1).t())
    return total


def fused_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, geometry: Geometry
) -> Tensor:
    """relu(conv(x) + bias + other) by cuDNN; RuntimeError where it has no kernel for it."""
    padding, stride, dilation = geometry
    places = stride, padding, dilation, 1
    if other is None:
        return torch.cudnn_convolution_relu(x, weight, bias, *places)
    return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *places)


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, geometry: Geometry, *, relu: bool
) -> Tensor:
    """relu?(conv(x) + bias + other), each by PyTorch's own operator."""
    padding, stride, dilation = geometry
    y = F.conv2d(x, weight, bias, stride, padding, dilation)
    if other is not None:
        y += other
    return y.relu_() if relu else y
