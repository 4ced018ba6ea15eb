"""Joint positions from score maps: argmax and refinement in one pass, of one stack or of its mean with a mirrored one.

The order is csrc/common/argmax.h's: NaN before numbers, then the larger value, then the lower flat index. Of Triton's
reductions only the maximum and the minimum of numbers are used: what its argmax does with NaN, and in the interpreter
with ties, is not promised.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import wide_dtype
from .heatmap_tiles import Tile, channel_group, offset_dtype
from .tiles import launch, power_of_two, wide_type


@triton.jit
def _values(maps, mirrored, y, x, width, mask, strides, mirrored_strides, WIDE: tl.constexpr, OFFSET: tl.constexpr):
    """The values that are searched, -inf outside the mask; ``maps`` and ``mirrored`` point at pixel 0 of CHANNELS maps,
    ``y`` and ``x`` broadcast with them."""
    y, x = y.to(OFFSET), x.to(OFFSET)
    values = tl.load(maps + (y * strides[2] + x * strides[3]), mask=mask, other=float("-inf")).to(WIDE)
    if mirrored is not None:
        offset = y * mirrored_strides[2] + (width - 1 - x) * mirrored_strides[3]
        values = (values + tl.load(mirrored + offset, mask=mask, other=float("-inf")).to(WIDE)) * 0.5
    return values


@triton.jit
def _quarter_step(ahead, behind):
    """A quarter of a pixel toward the larger neighbor; equal neighbors, or a NaN, do not move it."""
    return 0.25 * ((ahead > behind).to(tl.float32) - (ahead < behind).to(tl.float32))


@triton.jit(do_not_specialize=["height", "area", "groups"])
def _argmax_kernel(
    maps,
    mirrored,  # None: maps alone are searched
    swap,  # None with it
    coords,
    scores,
    indices,  # None: not wanted
    channels,
    height,
    width,
    area,
    groups,
    strides,  # of maps, (n, k, y, x)
    mirrored_strides,
    QUARTER: tl.constexpr,
    WIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: CHANNELS maps of one image, whole."""
    n = (tl.program_id(0) // groups).to(tl.int64)
    k = tl.program_id(0) % groups * CHANNELS + tl.arange(0, CHANNELS)
    here = k < channels
    maps += n * strides[0] + k.to(tl.int64) * strides[1]
    if mirrored is not None:
        mirrored += n * mirrored_strides[0] + tl.load(swap + k, mask=here, other=0) * mirrored_strides[1]

    # Every element of the tile keeps the first maximum among those it meets: they come in the order of their index.
    row = tl.arange(0, ROWS)[:, None, None]
    column = tl.arange(0, COLUMNS)[None, :, None]
    best = tl.full([ROWS, COLUMNS, CHANNELS], float("-inf"), WIDE)
    best_index = tl.zeros([ROWS, COLUMNS, CHANNELS], OFFSET) + (row.to(OFFSET) * width + column)
    for y0 in range(0, height, ROWS):
        for x0 in range(0, width, COLUMNS):
            y, x = y0 + row, x0 + column
            mask = (y < height) & (x < width) & here
            value = _values(maps, mirrored, y, x, width, mask, strides, mirrored_strides, WIDE, OFFSET)
            better = (value > best) | ((value != value) & (best == best))
            best = tl.where(better, value, best)
            best_index = tl.where(better, y.to(OFFSET) * width + x, best_index)

    best = tl.reshape(best, [ROWS * COLUMNS, CHANNELS])
    best_index = tl.reshape(best_index, [ROWS * COLUMNS, CHANNELS])
    nan = best != best
    any_nan = tl.max(nan.to(tl.int32), 0) > 0
    top = tl.max(tl.where(nan, float("-inf"), best), 0)
    # Elements outside the map hold -inf: where that is the maximum, pixel 0 has it too, and the lowest index.
    index = tl.min(tl.where(tl.where(any_nan, nan, best == top), best_index, area), 0)

    y, x = index // width, index % width
    score = _values(maps, mirrored, y, x, width, here, strides, mirrored_strides, WIDE, OFFSET)
    at_x, at_y = x.to(tl.float32), y.to(tl.float32)
    if QUARTER:
        inside = here & (x > 0) & (x < width - 1)
        right = _values(maps, mirrored, y, x + 1, width, inside, strides, mirrored_strides, WIDE, OFFSET)
        left = _values(maps, mirrored, y, x - 1, width, inside, strides, mirrored_strides, WIDE, OFFSET)
        at_x += _quarter_step(right, left)
        inside = here & (y > 0) & (y < height - 1)
        below = _values(maps, mirrored, y + 1, x, width, inside, strides, mirrored_strides, WIDE, OFFSET)
        above = _values(maps, mirrored, y - 1, x, width, inside, strides, mirrored_strides, WIDE, OFFSET)
        at_y += _quarter_step(below, above)
    m = n * channels + k
    tl.store(coords + 2 * m, at_x, mask=here)
    tl.store(coords + 2 * m + 1, at_y, mask=here)
    tl.store(scores + m, score.to(scores.dtype.element_ty), mask=here)
    if indices is not None:
        tl.store(indices + m, index.to(tl.int64), mask=here)


@triton.jit(do_not_specialize=["channels", "blocks"])
def _gradient_kernel(
    grad_scores, indices, grad, channels, area, blocks, strides, OFFSET: tl.constexpr, BLOCK: tl.constexpr
):
    """One program: BLOCK pixels of one map's gradient, 0 but at the maximum. indices and grad are contiguous."""
    m = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks).to(OFFSET) * BLOCK + tl.arange(0, BLOCK)
    score = tl.load(grad_scores + m // channels * strides[0] + m % channels * strides[1])
    value = tl.where(pixel == tl.load(indices + m), score, 0.0)
    tl.store(grad + m * area + pixel, value.to(grad.dtype.element_ty), mask=pixel < area)


def forward(heatmaps: Tensor, quarter: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``pyranet_fast::heatmap_argmax``."""
    indices = torch.empty(heatmaps.shape[:2], dtype=torch.int64, device=heatmaps.device)
    coords, scores = _search(heatmaps, None, None, quarter, heatmaps.dtype, indices)
    return coords, scores, indices


def forward_mirrored(heatmaps: Tensor, mirrored: Tensor, swap: Tensor, quarter: bool) -> tuple[Tensor, Tensor]:
    """``pyranet_fast::heatmap_argmax_mirrored``."""
    return _search(heatmaps, mirrored, swap.contiguous(), quarter, wide_dtype(heatmaps), None)


def backward(grad_scores: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    """``pyranet_fast::heatmap_argmax_backward``."""
    area = height * width
    grad = torch.empty((*indices.shape, height, width), dtype=grad_scores.dtype, device=grad_scores.device)
    block = min(2048, power_of_two(area))
    blocks = triton.cdiv(area, block)
    launch(
        _gradient_kernel,
        indices.numel() * blocks,
        grad,
        grad_scores,
        indices.contiguous(),
        grad,
        indices.shape[1],
        area,
        blocks,
        grad_scores.stride(),
        OFFSET=offset_dtype(grad),
        BLOCK=block,
        num_warps=max(1, block // 512),
    )
    return grad


def _search(
    heatmaps: Tensor,
    mirrored: Tensor | None,
    swap: Tensor | None,
    quarter: bool,
    score_dtype: torch.dtype,
    indices: Tensor | None,
) -> tuple[Tensor, Tensor]:
    n, k, h, w = heatmaps.shape
    coords = torch.empty((n, k, 2), dtype=torch.float32, device=heatmaps.device)
    scores = torch.empty((n, k), dtype=score_dtype, device=heatmaps.device)
    second = heatmaps if mirrored is None else mirrored
    channels = channel_group(heatmaps)
    # A program reads its maps alone: it gets threads enough to do so in a few steps. Of two stacks a thread has half as
    # many elements: with that many it runs out of registers.
    each = 16 if mirrored is None else 8
    tile = Tile.of(h, w, channels, elements=min(512 * each, max(2048, power_of_two(h * w * channels) // 2)))
    groups = tile.groups(k)
    launch(
        _argmax_kernel,
        n * groups,
        heatmaps,
        heatmaps,
        mirrored,
        swap,
        coords,
        scores,
        indices,
        k,
        h,
        w,
        h * w,
        groups,
        heatmaps.stride(),
        second.stride(),
        QUARTER=quarter,
        WIDE=wide_type(heatmaps),
        OFFSET=offset_dtype(heatmaps, second),
        **tile.options(each),
    )
    return coords, scores
