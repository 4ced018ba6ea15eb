"""1x1 convolutions of small maps as matrix products.

A channels_last map is a matrix of pixels by channels, and a 1x1 convolution its product with the weight. oneDNN's
convolution spends tens of microseconds a call before the first product, and more in the backward; on the small maps of
an hourglass that is most of the time. Large maps stay with oneDNN, which is as fast there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W), channels_last, as (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """(N * H * W, C) as (N, C, H, W), with the other sizes of a map."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, rows.shape[1]).permute(0, 3, 1, 2)


class _Conv1x1(torch.autograd.Function):
    """Three products of PyTorch's, no operator of ours: 1.03 and 1.04 times the step (bench/NOTES.md, training).

    Results are not views, to which nothing could be added in place without copies.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        n, _, h, w = x.shape
        y = torch.empty((n, len(weight), h, w), dtype=x.dtype, memory_format=torch.channels_last)
        filters = weight.flatten(1).t()
        if bias is None:
            torch.mm(_rows(x), filters, out=_rows(y))
        else:
            torch.addmm(bias, _rows(x), filters, out=_rows(y))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = _rows(grad)
        return (
            _map(rows @ weight.flatten(1), grad) if wants_x else None,
            (rows.t() @ _rows(x)).view_as(weight) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d(x, weight, bias), with its gradients, where `policy.trains_with_pointwise`.

    Args:
        x: (N, C, H, W) float32, channels_last.
        weight: (K, C, 1, 1) float32.
        bias: (K,) float32 or None.

    Returns:
        (N, K, H, W), channels_last.
    """
    y: Tensor = _Conv1x1.apply(x, weight, bias)
    return y
