"""What carries counts of branches where autograd's own backward would add up positions or follow a skip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Spread(torch.autograd.Function):
    """Broadcast a count; backwards the mean over what was broadcast: a pixel's count, not the sum over pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.shape = x.shape
        return x.expand(shape).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.sum(tuple(range(grad.dim() - len(ctx.shape)))) if grad.dim() > len(ctx.shape) else grad
        dims = tuple(d for d, n in enumerate(ctx.shape) if n == 1 and grad.shape[d] != 1)
        return grad.mean(dims, keepdim=True) if dims else grad, None


class OneBranch(torch.autograd.Function):
    """An identity skip: it arrives as one branch, and for what it comes from the addition is one reader."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad != 0).to(grad.dtype)


class Mean(torch.autograd.Function):
    """Mean over axes, which stay with length 1; backwards the same count for all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        ctx.shape = x.shape
        return x.mean(dims, keepdim=True) if dims else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.expand(ctx.shape), None
