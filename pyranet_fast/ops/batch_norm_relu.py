"""Batch norm followed by ReLU, in the fewest passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _backend, reference
from ._common import FLOATS, check_map, memory_format, raise_double_backward


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
    """relu(batch_norm(x)) with the batch's statistics: what ``nn.BatchNorm2d`` and ReLU do in training.

    Two passes forward (statistics, values) and two backward (sums, values); the ReLU's mask is recomputed from
    ``x``, so that only ``x`` is kept for the backward. Sums are formed in a fixed order: two runs give the same
    bits, with any number of threads.

    Args:
        x: (N, C, H, W), float32, float64, bfloat16 or float16, not empty; contiguous and channels_last are read
            as they are. The output has the layout and dtype of ``x``.
        weight, bias: (C,) float32 (float64 for float64 ``x``), or None for 1 and 0.
        running_mean, running_var: (C,) float32, moved in place toward the batch's by ``momentum`` (the variance's
            is unbiased), or None.
        batches: int64 counter, increased by one, or None.
        momentum: share of the batch in the moving averages.
        eps: added to the variance.

    Raises:
        ValueError, TypeError: an argument is not as described; the sentence names it.
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
            raise ValueError(f"{name} has shape {tuple(vector.shape)}; ({c},), one value a channel, is accepted")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var go together: both or neither are accepted")
    if not torch.compiler.is_compiling() and n * h * w <= 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; more than one value a channel is accepted in training")
    if _backend.choose(x) != "native" or not _serves(x, weight, bias, running_mean, running_var, batches):
        return reference.batch_norm_relu(x, weight, bias, running_mean, running_var, batches, momentum, eps)
    y, mean, var = torch.ops.pyranet_fast.batch_norm_relu(x, weight, bias, eps)
    if running_mean is not None:
        torch.ops.pyranet_fast.batch_norm_update_(
            running_mean, running_var, batches, mean.detach(), var.detach(), momentum, n * h * w
        )
    return y


def _serves(x: Tensor, *vectors: Tensor | None) -> bool:
    """Whether a native kernel takes these: parameters in the precision of its sums, a counter beside averages."""
    if x.device.type == "cuda":  # cuDNN's batch norm and a ReLU are what runs there
        return False
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight, bias, mean, var, batches = vectors
    kept = mean is None or (batches is not None and mean.is_contiguous() and var is not None and var.is_contiguous())
    return kept and x.dtype in FLOATS and all(v is None or v.dtype == wide for v in (weight, bias, mean, var))


if _backend.native_error is None:

    @torch.library.register_fake("pyranet_fast::batch_norm_relu")
    def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        statistics = x.new_empty((x.shape[1],), dtype=wide)
        return torch.empty_like(x, memory_format=memory_format(x)), statistics, torch.empty_like(statistics)

    @torch.library.register_fake("pyranet_fast::batch_norm_relu_backward")
    def _(
        grad: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return (
            torch.empty_like(x, memory_format=memory_format(x)),
            torch.empty_like(mean),
            torch.empty_like(mean),
        )

    @torch.library.register_fake("pyranet_fast::batch_norm_update_")
    def _(*_: Any) -> None:
        return None

    def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.eps = inputs
        _, mean, var = output
        ctx.save_for_backward(x, weight, bias, mean, var)
        ctx.set_materialize_grads(False)

    def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        x, weight, bias, mean, var = ctx.saved_tensors
        gx, gw, gb = torch.ops.pyranet_fast.batch_norm_relu_backward(grad, x, weight, bias, mean, var, ctx.eps)
        return gx, None if weight is None else gw, None if bias is None else gb, None

    torch.library.register_autograd("pyranet_fast::batch_norm_relu", _backward, setup_context=_save)
    torch.library.register_autograd(
        "pyranet_fast::batch_norm_relu_backward", lambda ctx, *grads: raise_double_backward("batch_norm_relu")
    )
