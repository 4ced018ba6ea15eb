"""Batch norms with ReLU of one map, as the branches of a residual unit read it, by native kernels in training.

Two kernels, since neither can take the other's place. That of one norm reads any layout and is an operator with a
gradient, so that compilers can have it; a branch's second norm uses it. That of several reads channels_last, forms
statistics once and adds the gradient of the skip on the way, but passes x through, which no operator may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import memory_format, wide_dtype
from ..registration import describe


def update_averages_(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float | None,
    count: int,
) -> None:
    """Move a norm's averages toward a batch's mean and (biased) variance, of ``count`` values a channel."""
    torch.ops.pyranet_fast.batch_norm_update_(running_mean, running_var, batches, mean, var, momentum, count)


class _Shared(torch.autograd.Function):
    """x, relu(batch_norm_j(x)) for every j, and the batch's mean and variance.

    A function of its own since no operator may return its input, and x has to pass: the gradient of the skip joins in
    as grad_x is written, which with the shared passes is 3-5 % of the step (bench/NOTES.md, training).
    """

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
    """relu(batch_norm(x)) with the batch's statistics for several weights and biases.

    Where `policy.supports_shared_batch_norm_relu`. Statistics are formed once, all outputs in one pass; backward reads
    x twice, whatever the number of norms, and adds the gradient of an identity skip on the way.

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


def _fake(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty((x.shape[1],), dtype=wide_dtype(x))
    return torch.empty_like(x, memory_format=memory_format(x)), statistics, torch.empty_like(statistics)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=memory_format(x)), torch.empty_like(mean), torch.empty_like(mean)


def _fake_update(*_: Any) -> None:
    return None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, ctx.eps = inputs
    _, mean, var = output
    ctx.save_for_backward(x, weight, bias, mean, var)
    ctx.set_materialize_grads(False)


def _backward(ops: Any, ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    x, weight, bias, mean, var = ctx.saved_tensors
    gx, gw, gb = ops.batch_norm_relu_backward(grad, x, weight, bias, mean, var, ctx.eps)
    return gx, None if weight is None else gw, None if bias is None else gb, None


describe("batch_norm_relu", _fake, save=_save, backward=_backward, fake_backward=_fake_backward, only="pyranet_fast")
describe("batch_norm_update_", _fake_update, only="pyranet_fast")
