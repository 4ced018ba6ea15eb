"""Batch norm followed by ReLU, in the fewest passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .checks import check_map
from .cpu import batch_norm_relu as kernels
from .cpu import policy


def batch_norm_relu(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    batches: Tensor | None = None,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute relu(batch_norm(x)) with batch statistics, as ``nn.BatchNorm2d`` and ReLU do in training.

    Two passes forward (statistics, values) and two backward (sums, values), each one kernel on CUDA; the ReLU mask is
    recomputed, so that only ``x`` is saved for the backward pass. Sums have a fixed order: results are bitwise
    reproducible with any number of threads. Supports derivatives of every order, forward mode too, and torch.vmap:
    each example has its own statistics, and running ones, updated in place, must be vmapped too or None.

    Args:
        x: (N, C, H, W), float32, float64, bfloat16 or float16, not empty; contiguous and channels_last are read
            as they are. The output has the layout and dtype of ``x``.
        weight, bias: (C,) float32 (or float64 for float64 ``x``), or None for 1 and 0.
        running_mean, running_var: (C,) float32 (or float64 for float64 ``x``), updated in place with
            ``momentum`` (unbiased variance), or None.
        batches: int64 counter, incremented in place, or None.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
        RuntimeError: inside torch.vmap, ``x`` is vmapped but ``running_mean`` and ``running_var`` are not.
    """
    check_map("x", x)
    n, c, h, w = x.shape
    for name, vector in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if vector is not None and tuple(vector.shape) != (c,):
            raise ValueError(f"{name} must have shape ({c},), one value per channel, got {tuple(vector.shape)}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given together, got only one of them")
    if not torch.compiler.is_compiling() and n * h * w <= 1:
        raise ValueError(f"x must have more than one value per channel in training, got shape {tuple(x.shape)}")
    if not policy.supports_batch_norm_relu(x, (weight, bias, running_mean, running_var), batches):
        return reference.batch_norm_relu(x, weight, bias, running_mean, running_var, batches, momentum, eps)
    if running_mean is not None and policy.fuses():
        return kernels.batch_norm_relu_update_(x, weight, bias, running_mean, running_var, batches, momentum, eps)
    y, mean, var = torch.ops.pyranet_fast.batch_norm_relu(x, weight, bias, eps)
    if running_mean is not None:
        kernels.update_averages_(running_mean, running_var, batches, mean.detach(), var.detach(), momentum, n * h * w)
    return y
