"""Batch norms with ReLU of one map, as the branches of a residual unit read it, by native kernels in training.

Two kernels, both on CUDA too, since neither can take the other's place. That of one norm reads any layout and is an
operator with a gradient, so that compilers can have it; a branch's second norm uses it. That of several reads
channels_last, forms statistics once and adds the gradient of the skip on the way, but passes x through, which no
operator may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..checks import memory_format, wide_dtype
from ..registration import describe, describe_inference, folded, without_gradient


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


class _Updating(torch.autograd.Function):
    """relu(batch_norm(x)), moving averages and counter moved in the same call.

    A separate function since what compilers and transforms see must not write in place: it stands for the operators
    `batch_norm_relu` and `batch_norm_update_` in eager training, one call, and on CUDA two kernels, in place of three.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        batches: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        operator = torch.ops.pyranet_fast.batch_norm_relu_update_
        y, mean, var = without_gradient(operator, x, weight, bias, running_mean, running_var, batches, momentum, eps)
        ctx.save_for_backward(x, weight, bias, mean, var)
        ctx.eps = eps
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(torch.ops.pyranet_fast, ctx, grad)[:3], None, None, None, None, None)


def batch_norm_relu_update_(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """`ops.batch_norm_relu` with moving averages, where `policy.fuses` and `policy.supports_batch_norm_relu`."""
    result: Tensor = _Updating.apply(x, weight, bias, running_mean, running_var, batches, momentum, eps)
    return result


class _Shared(torch.autograd.Function):
    """x, relu(batch_norm_j(x)) for every j, and the batch's mean and variance.

    A separate function since no operator may return its input, and x has to pass: the gradient of the skip joins in
    as grad_x is written, which with the shared passes is 3-5 % of the step (bench/NOTES.md, training).
    """

    @staticmethod
    def forward(ctx: Any, eps: float, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        count = len(parameters) // 2
        weight, bias = torch.stack(parameters[:count]), torch.stack(parameters[count:])
        operator = torch.ops.pyranet_fast.shared_batch_norm_relu
        outputs, mean, var = without_gradient(operator, x, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, var, *parameters)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, var)
        return (x, *outputs, mean, var)

    @staticmethod
    def backward(ctx: Any, extra: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var, *parameters = ctx.saved_tensors
        count = len(weight)
        if torch.is_grad_enabled():  # to be differentiated again
            weights, biases = parameters[:count], parameters[count:]
            return _differentiable_backward(ctx.eps, extra, grads[:count], x, weights, biases)
        given = [x.new_empty(0) if g is None else g for g in grads[:count]]
        operator = torch.ops.pyranet_fast.shared_batch_norm_relu_backward
        gx, gw, gb = without_gradient(operator, given, extra, x, weight, bias, mean, var, ctx.eps)
        return (None, gx, *gw.unbind(), *gb.unbind())


def _differentiable_backward(
    eps: float,
    extra: Tensor | None,
    grads: Sequence[Tensor | None],
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    total, of_weights, of_biases = extra, [], []
    for grad, scale, shift in zip(grads, weights, biases, strict=True):
        of_x, of_weight, of_bias = None, torch.zeros_like(scale), torch.zeros_like(shift)
        if grad is not None:
            of_x, of_weight, of_bias = reference.batch_norm_relu_backward(grad, x, scale, shift, eps)
            total = of_x if total is None else total + of_x
        of_weights.append(of_weight)
        of_biases.append(of_bias)
    return None, total, *of_weights, *of_biases


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
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)


def _backward(ops: Any, ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    x, weight, bias, mean, var = ctx.saved_tensors
    gx, gw, gb = ops.batch_norm_relu_backward(grad, x, weight, bias, mean, var, ctx.eps)
    return gx, None if weight is None else gw, None if bias is None else gb, None


def _composite(
    ops: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y = reference.batch_norm_relu(x, weight, bias, None, None, None, 0.0, eps)
    var, mean = torch.var_mean(x.detach().to(wide_dtype(x)), (0, 2, 3), correction=0)
    return y, mean, var


def _composite_backward(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.batch_norm_relu_backward(grad, x, weight, bias, eps)  # mean and var are functions of x


def _batched_update(operator: Any, size: int, dims: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
    if None in dims[:2]:
        raise RuntimeError(
            "batch_norm_relu in training updates running_mean and running_var in place, and in torch.vmap they are not "
            "vmapped although x, weight or bias is; expected vmapped ones (torch.func.stack_module_state), None, or "
            "a module in evaluation mode"
        )
    for i in range(size):
        chosen = [a if d is None else a.select(d, i) for a, d in zip(arguments, dims, strict=True)]
        if dims[2] is None and i > 0:  # one counter for all moves once
            chosen[2] = chosen[2].clone()
        operator(*chosen)
    return None, None


describe(
    "batch_norm_relu", _fake, save=_save, backward=_backward, composite=_composite,
    batched=folded({"x": 1, "weight": 0, "bias": 0}, (1, 0, 0)), only="pyranet_fast",
)  # fmt: skip
describe(
    "batch_norm_relu_backward", _fake_backward, composite=_composite_backward,
    batched=folded({"grad": 1, "x": 1, "weight": 0, "bias": 0, "mean": 0, "var": 0}, (1, 0, 0)), only="pyranet_fast",
)  # fmt: skip
describe("batch_norm_update_", _fake_update, batched=_batched_update, only="pyranet_fast")
describe_inference("batch_norm_relu_update_", "shared_batch_norm_relu", "shared_batch_norm_relu_backward")
