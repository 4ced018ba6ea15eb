"""Mean squared error of score maps against Gaussian targets that are never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import dispatch, reference
from .checks import check_joints, check_map, memory_format, wide_dtype
from .registration import describe


def heatmap_loss(pred: Tensor, joints: Tensor, weight: Tensor, *, sigma: float = 1.0) -> Tensor:
    r"""Compute the loss of one stack's score maps: :math:`\sum_{nk} w (p - G)^2 / (h w \sum w)`.

    G is a Gaussian of peak 1 around the joint (paper section 3, covariance I; ``sigma`` in map pixels).
    With all weights 1 it is the mean squared error. If all weights are 0, loss and gradient are 0. Maps
    of weight 0 are ignored, whatever their values.

    Args:
        pred: (N, K, h, w), float32, float64, bfloat16 or float16.
        joints: (N, K, 2), x and y in map pixels, fractions allowed; no gradient.
        weight: (N, K), at least 0; no gradient.
        sigma: standard deviation in map pixels, above 0.

    Returns:
        A scalar, float32 (float64 for float64 ``pred``); the gradient of ``pred`` has its dtype. Supports
        derivatives of every order for ``pred``, forward mode too, and torch.vmap (one loss after the other).

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
    """
    check_map("pred", pred)
    check_joints(joints, weight, sigma, pred.shape[:2], pred)
    wide = wide_dtype(pred)
    joints, weight = joints.detach().to(wide), weight.detach().to(wide)
    ops = dispatch.operators(pred)
    if ops is None:
        return reference.heatmap_loss(pred, joints, weight, sigma)
    return ops.heatmap_loss(pred, joints, weight, float(sigma))


def _fake(pred: Tensor, joints: Tensor, weight: Tensor, sigma: float) -> Tensor:
    return pred.new_empty((), dtype=wide_dtype(pred))


def _fake_backward(grad: Tensor, pred: Tensor, joints: Tensor, weight: Tensor, sigma: float) -> Tensor:
    return torch.empty_like(pred, memory_format=memory_format(pred))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pred, joints, weight, ctx.sigma = inputs
    ctx.save_for_backward(pred, joints, weight)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return ops.heatmap_loss_backward(grad, *ctx.saved_tensors, ctx.sigma), None, None, None


def _composite(ops: Any, pred: Tensor, joints: Tensor, weight: Tensor, sigma: float) -> Tensor:
    return reference.heatmap_loss(pred, joints.detach(), weight.detach(), sigma)


def _composite_backward(ops: Any, grad: Tensor, pred: Tensor, joints: Tensor, weight: Tensor, sigma: float) -> Tensor:
    return reference.heatmap_loss_backward(grad, pred, joints.detach(), weight.detach(), sigma)


# Each loss has its own sum of weights: torch.vmap takes one after the other.
describe("heatmap_loss", _fake, save=_save, backward=_backward, composite=_composite)
describe("heatmap_loss_backward", _fake_backward, composite=_composite_backward)
