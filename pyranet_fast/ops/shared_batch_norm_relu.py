"""Several batch norms with ReLU of one map, as the branches of a residual unit read it, in the fewest passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backend
from ._common import FLOATS, memory_format


def serves(x: Tensor, *vectors: Tensor | None) -> bool:
    """Whether there is a kernel: on the CPU, channels_last, parameters in the precision of its sums, in eager mode."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (
        _backend.native_error is None
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in FLOATS
        and x.numel() > x.shape[1]
        and memory_format(x) == torch.channels_last
        and _backend.choose(x) == "native"
        and all(v is not None and v.dtype == wide and v.is_contiguous() for v in vectors)
    )


class _Shared(torch.autograd.Function):
    """x, relu(batch_norm_j(x)) for every j, and the batch's mean and variance."""

    @staticmethod
    def forward(ctx: Any, eps: float, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        count = len(parameters) // 2
        weight, bias = torch.stack(parameters[:count]), torch.stack(parameters[count:])
        outputs, mean, var = torch.ops.pyranet_fast.shared_batch_norm_relu(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, var)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, var)
        return (x, *outputs, mean, var)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, extra: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var = ctx.saved_tensors
        count = len(weight)
        given = [x.new_empty(0) if g is None else g for g in grads[:count]]
        gx, gw, gb = torch.ops.pyranet_fast.shared_batch_norm_relu_backward(
            given, extra, x, weight, bias, mean, var, ctx.eps
        )
        return (None, gx, *gw.unbind(), *gb.unbind())


def shared_batch_norm_relu(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], eps: float
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """relu(batch_norm(x)) with the batch's statistics for several weights and biases, where `serves`.

    Statistics are formed once, all outputs in one pass; backward reads x twice, whatever the number of norms, and adds
    the gradient of an identity skip on the way.

    Args:
        x: (N, C, H, W), channels_last.
        weights, biases: (C,) each.
        eps: added to the variance.

    Returns:
        x, through which readers beside the norms take it, so that their gradient joins in; the outputs; mean and
        (biased) variance, (C,).
    """
    results = _Shared.apply(eps, x, *weights, *biases)
    return results[0], list(results[1:-2]), results[-2], results[-1]
