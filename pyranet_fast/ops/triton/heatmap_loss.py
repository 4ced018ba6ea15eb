"""Mean squared error of score maps against Gaussians that are never stored.

The forward sums every map, or some rows of it, in a program of its own; a second kernel of one program adds these
sums. Both in an order that depends on the shapes alone, without atomics: runs are bitwise equal.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import memory_format
from .heatmap_tiles import Tile, channel_group, gaussian, offset_dtype
from .tiles import launch

_PROGRAMS = 1024  # enough to fill a GPU: maps are divided until there are that many programs
_SUMS = 1024  # that the last program adds at a time


@triton.jit(do_not_specialize=["height", "groups", "parts", "part_rows"])
def _sum_kernel(
    pred,
    joints,
    weight,
    sums,  # (N * K, parts)
    channels,
    height,
    width,
    groups,
    parts,
    part_rows,
    strides,  # of pred, (n, k, y, x)
    two_sigma_squared: tl.float64,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: weight times the sum of squared errors over ``part_rows`` rows of CHANNELS maps of an image."""
    part = tl.program_id(0) % parts
    group = tl.program_id(0) // parts
    n = (group // groups).to(tl.int64)
    k = group % groups * CHANNELS + tl.arange(0, CHANNELS)
    here = k < channels
    m = n * channels + k
    w = tl.load(weight + m, mask=here, other=0.0)
    counted = w > 0  # nothing of the other maps is read: it may be NaN
    joint_x = tl.load(joints + 2 * m, mask=counted, other=0.0)
    joint_y = tl.load(joints + 2 * m + 1, mask=counted, other=0.0)
    maps = pred + n * strides[0] + k.to(tl.int64) * strides[1]
    total = tl.zeros([ROWS, COLUMNS, CHANNELS], w.dtype)
    end = tl.minimum(part * part_rows + part_rows, height)
    for y0 in range(part * part_rows, end, ROWS):
        y = y0 + tl.arange(0, ROWS)
        column = gaussian(joint_y[None, :], y[:, None], two_sigma_squared)
        for x0 in range(0, width, COLUMNS):
            x = x0 + tl.arange(0, COLUMNS)
            row = gaussian(joint_x[None, :], x[:, None], two_sigma_squared)
            inside = (y < end)[:, None, None] & (x < width)[None, :, None] & counted
            offset = y.to(OFFSET)[:, None, None] * strides[2] + x.to(OFFSET)[None, :, None] * strides[3]
            p = tl.load(maps + offset, mask=inside, other=0.0).to(w.dtype)
            error = tl.where(inside, p - column[:, None, :] * row[None, :, :], 0.0)
            total += error * error
    of_map = tl.sum(tl.sum(total, 0), 0)
    tl.store(sums + m * parts + part, tl.where(counted, w * of_map, 0.0), mask=here)


@triton.jit(do_not_specialize=["sum_count", "weight_count", "area"])
def _mean_kernel(sums, weight, loss, sum_count, weight_count, area, BLOCK: tl.constexpr):
    """The only program: all sums, divided by the maps' area and all weights."""
    lanes = tl.arange(0, BLOCK)
    wide = weight.dtype.element_ty
    summed = tl.zeros([BLOCK], wide)
    for start in range(0, sum_count, BLOCK):
        summed += tl.load(sums + start + lanes, mask=start + lanes < sum_count, other=0.0)
    weights = tl.zeros([BLOCK], wide)
    for start in range(0, weight_count, BLOCK):
        weights += tl.load(weight + start + lanes, mask=start + lanes < weight_count, other=0.0)
    total = tl.sum(weights, 0)
    tl.store(loss, tl.where(total > 0, tl.sum(summed, 0) / (tl.cast(area, wide) * total), total * 0))


@triton.jit(do_not_specialize=["height", "groups", "row_tiles", "area"])
def _gradient_kernel(
    grad,
    pred,
    joints,
    weight,
    total_weight,
    grad_pred,
    channels,
    height,
    width,
    groups,
    row_tiles,
    area,
    strides,  # of pred, (n, k, y, x)
    grad_strides,  # of grad_pred
    two_sigma_squared: tl.float64,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: the gradient of ROWS rows of CHANNELS maps of an image."""
    group = tl.program_id(0) // row_tiles
    n = (group // groups).to(tl.int64)
    k = group % groups * CHANNELS + tl.arange(0, CHANNELS)
    here = k < channels
    m = n * channels + k
    w = tl.load(weight + m, mask=here, other=0.0)
    total = tl.load(total_weight)
    scale = tl.where(total <= 0, 0.0, 2 * tl.load(grad) / (tl.cast(area, w.dtype) * total))
    factor = tl.where(w > 0, scale * w, 0.0)
    counted = factor != 0  # of the other maps nothing is read: they may be NaN, their gradient is 0
    joint_x = tl.load(joints + 2 * m, mask=counted, other=0.0)
    joint_y = tl.load(joints + 2 * m + 1, mask=counted, other=0.0)
    maps = pred + n * strides[0] + k.to(tl.int64) * strides[1]
    grads = grad_pred + n * grad_strides[0] + k.to(tl.int64) * grad_strides[1]
    y = tl.program_id(0) % row_tiles * ROWS + tl.arange(0, ROWS)
    column = gaussian(joint_y[None, :], y[:, None], two_sigma_squared)
    for x0 in range(0, width, COLUMNS):
        x = x0 + tl.arange(0, COLUMNS)
        row = gaussian(joint_x[None, :], x[:, None], two_sigma_squared)
        inside = (y < height)[:, None, None] & (x < width)[None, :, None] & here
        offset = y.to(OFFSET)[:, None, None] * strides[2] + x.to(OFFSET)[None, :, None] * strides[3]
        p = tl.load(maps + offset, mask=inside & counted, other=0.0).to(w.dtype)
        value = tl.where(counted, (p - column[:, None, :] * row[None, :, :]) * factor, 0.0)
        offset = y.to(OFFSET)[:, None, None] * grad_strides[2] + x.to(OFFSET)[None, :, None] * grad_strides[3]
        tl.store(grads + offset, value.to(grad_pred.dtype.element_ty), mask=inside)


def forward(pred: Tensor, joints: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """``pyranet_fast::heatmap_loss``."""
    n, k, h, w = pred.shape
    loss = torch.empty((), dtype=weight.dtype, device=pred.device)
    if pred.numel() == 0:
        return loss.zero_()
    joints, weight = joints.contiguous(), weight.contiguous()
    tile = Tile.of(h, w, channel_group(pred))
    groups = tile.groups(k)
    part_rows = tile.rows * triton.cdiv(tile.row_tiles(h), triton.cdiv(_PROGRAMS, n * groups))
    parts = triton.cdiv(h, part_rows)
    sums = torch.empty((n * k, parts), dtype=weight.dtype, device=pred.device)
    launch(
        _sum_kernel,
        n * groups * parts,
        pred,
        pred,
        joints,
        weight,
        sums,
        k,
        h,
        w,
        groups,
        parts,
        part_rows,
        pred.stride(),
        2 * sigma * sigma,
        OFFSET=offset_dtype(pred),
        **tile.options(),
    )
    launch(_mean_kernel, 1, pred, sums, weight, loss, sums.numel(), n * k, h * w, BLOCK=_SUMS, num_warps=4)
    return loss


def backward(grad: Tensor, pred: Tensor, joints: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """``pyranet_fast::heatmap_loss_backward``."""
    n, k, h, w = pred.shape
    grad_pred = torch.empty_like(pred, memory_format=memory_format(pred))
    tile = Tile.of(h, w, channel_group(pred))
    groups, row_tiles = tile.groups(k), tile.row_tiles(h)
    launch(
        _gradient_kernel,
        n * groups * row_tiles,
        pred,
        grad,
        pred,
        joints.contiguous(),
        weight.contiguous(),
        weight.sum(),
        grad_pred,
        k,
        h,
        w,
        groups,
        row_tiles,
        h * w,
        pred.stride(),
        grad_pred.stride(),
        2 * sigma * sigma,
        OFFSET=offset_dtype(pred, grad_pred),
        **tile.options(),
    )
    return grad_pred
