"""Fractional max-pooling of one map to several sizes: all levels and the winners in one launch, the backward in one
that gathers (and one more for the sums of scale and shift). Values and winners are the reference's bit for bit.

A level's windows are a choice among the windows of stride 1, so one byte a pixel says for all levels which element of
the window that starts there is its maximum: 2 * row + column.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import empty_map, memory_format, wide_dtype
from .geometry import quotient, search_margin, window_repeats, window_sample, window_start, window_takers
from .tiles import (
    Layout,
    check_levels,
    dense_offset,
    launch,
    offset,
    power_of_two,
    program_of,
    stride_of,
    strides_of,
    tile_count,
    tile_pixels,
    tile_zeros,
    wide_type,
)

_NAME = "fractional_max_pool_pyramid"
_PARTS = 32  # partial sums that a program adds at a time


@triton.jit
def _windows(samples, level, n, c, here, strides, OWN: tl.constexpr, WIDE: tl.constexpr):
    """Samples (x, y) of a level: of each channel, or one for all."""
    at = samples + level * strides[0] + n * strides[1]
    if OWN:
        at += c * strides[2]
        x, y = tl.load(at, mask=here, other=0.0), tl.load(at + strides[3], mask=here, other=0.0)
    else:
        x, y = tl.load(at), tl.load(at + strides[3])
    return window_sample(x.to(WIDE)), window_sample(y.to(WIDE))


@triton.jit
def _linear(v, scale, shift):
    """The folded batch norm; either part may be None."""
    if scale is not None:
        v = v * scale
    if shift is not None:
        v = v + shift
    return v


@triton.jit
def _element(at, mask, scale, shift, RELU: tl.constexpr, WIDE: tl.constexpr):
    v = _linear(tl.load(at, mask=mask, other=0.0).to(WIDE), scale, shift)
    if RELU:
        v = tl.where(v < 0, 0.0, v)  # NaN stays
    return v


@triton.jit(do_not_specialize=["x_strides", "sample_strides", "sizes", "shape"])
def _forward_kernel(
    x,
    x_strides,
    samples,
    sample_strides,  # of levels, samples, channels and axes
    scale,  # None where there is none, as shift
    shift,
    values,  # one a level, dense
    positions,  # dense; None: not needed
    sizes,  # (h_0, w_0, h_1, w_1, ...)
    shape,
    OWN: tl.constexpr,
    RELU: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """One program: a tile of the positions or of one level's values."""
    WIDE: tl.constexpr = LAYOUT.wide
    n, channel, tile, channels, height, width = program_of(shape, LAYOUT)
    c = channel[None, None, :]

    # Which map: the positions as long as `start` is 0, else a level.
    h, w, level, out = sizes[0], sizes[1], 0, values[0]
    start, after = 0, 0
    if positions is not None:
        start = tile_count(height, width, LAYOUT)
        after = start
    of_positions = tile < start
    for i in tl.static_range(1, len(values)):
        after += tile_count(sizes[2 * i - 2], sizes[2 * i - 1], LAYOUT)
        later = tile >= after
        start = tl.where(later, after, start)
        h, w = tl.where(later, sizes[2 * i], h), tl.where(later, sizes[2 * i + 1], w)
        level, out = tl.where(later, i, level), tl.where(later, values[i], out)
    if positions is not None:
        start = tl.where(of_positions, 0, start)
        row, column = tile_pixels(tile - start, tl.where(of_positions, width, w), LAYOUT)
    else:
        row, column = tile_pixels(tile - start, w, LAYOUT)

    here = c < channels
    u_x, u_y = _windows(samples, level, n, c, here, sample_strides, OWN, WIDE)
    y = window_start(row, height, h, u_y, quotient(height - 2, h - 1, WIDE))
    x0 = window_start(column, width, w, u_x, quotient(width - 2, w - 1, WIDE))
    rows, columns = h, w  # that hold windows
    if positions is not None:
        y, x0 = tl.where(of_positions, row, y), tl.where(of_positions, column, x0)
        rows, columns = tl.where(of_positions, height - 1, h), tl.where(of_positions, width - 1, w)
    mask = (row < rows) & (column < columns) & here

    if scale is not None:
        scale = tl.load(scale + c, mask=here, other=0.0).to(WIDE)
    if shift is not None:
        shift = tl.load(shift + c, mask=here, other=0.0).to(WIDE)
    x += n * stride_of(x_strides, 0, LAYOUT)
    # ATen's rule, in reading order: a later element wins if it is greater or NaN.
    best = _element(x + offset(c, y, x0, x_strides, LAYOUT), mask, scale, shift, RELU, WIDE)
    winner = tile_zeros(LAYOUT, tl.int32)
    for e in tl.static_range(1, 4):
        at = x + offset(c, y + e // 2, x0 + e % 2, x_strides, LAYOUT)
        v = _element(at, mask, scale, shift, RELU, WIDE)
        wins = (v > best) | (v != v)
        best, winner = tl.where(wins, v, best), tl.where(wins, e, winner)

    at = dense_offset(n, c, row, column, channels, h, w, LAYOUT)
    if positions is not None:
        rows = tl.where(of_positions, 0, h)
        tl.store(out + at, best.to(out.dtype.element_ty), mask=mask & (row < rows))
        at = dense_offset(n, c, row, column, channels, height, width, LAYOUT)
        inside = (row < tl.where(of_positions, height, 0)) & (column < width) & here
        tl.store(positions + at, tl.where(mask, winner, 0).to(tl.uint8), mask=inside)  # 0 where no window starts
    else:
        tl.store(out + at, best.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _wins(positions, strides, n, c, row, column, inside, LAYOUT: tl.constexpr):
    """A pixel is element 0 of the window that starts there, 1 of the one to the left, 2 of the one above, 3 of the one
    above to the left: where it is their maximum?"""
    at = positions + n * stride_of(strides, 0, LAYOUT) + offset(c, row, column, strides, LAYOUT)
    left, up = stride_of(strides, 3, LAYOUT), stride_of(strides, 2, LAYOUT)
    wins_0 = tl.load(at, mask=inside, other=255) == 0
    wins_1 = tl.load(at - left, mask=inside & (column > 0), other=255) == 1
    wins_2 = tl.load(at - up, mask=inside & (row > 0), other=255) == 2
    wins_3 = tl.load(at - up - left, mask=inside & (row > 0) & (column > 0), other=255) == 3
    return wins_0, wins_1, wins_2, wins_3


@triton.jit
def _most_takers(samples, strides, n, c, here, height, width, sizes, OWN: tl.constexpr, WIDE: tl.constexpr):
    """At most how many outputs of a level have one window along an axis: hardly ever more than one."""
    twice = 0
    for i in tl.static_range(len(sizes) // 2):
        h, w = sizes[2 * i], sizes[2 * i + 1]
        u_x, u_y = _windows(samples, i, n, c, here, strides, OWN, WIDE)
        y = window_start(h - 2, height, h, u_y, quotient(height - 2, h - 1, WIDE))
        x0 = window_start(w - 2, width, w, u_x, quotient(width - 2, w - 1, WIDE))
        twice += (y == height - 2).to(tl.int32) + (x0 == width - 2).to(tl.int32)
    if OWN:
        twice = tl.max(twice)
    return tl.where(twice > 0, 2, 1)


@triton.jit
def _taken(at, wins, mask, LAYOUT: tl.constexpr):
    """Gradients of outputs, where this pixel wins their window, else 0."""
    WIDE: tl.constexpr = LAYOUT.wide
    if LAYOUT.vector > 1:  # several channels are read at once: which of them win is asked after it
        return tl.where(wins, tl.load(at, mask=mask, other=0.0).to(WIDE), 0.0)
    else:
        return tl.load(at, mask=mask & wins, other=0.0).to(WIDE)


@triton.jit(
    do_not_specialize=["grad_strides", "position_strides", "sample_strides", "x_strides", "sizes", "shape", "parts"]
)
def _backward_kernel(
    grads,  # one a level
    grad_strides,  # (n_0, c_0, y_0, x_0, n_1, ...)
    positions,
    position_strides,
    samples,
    sample_strides,
    x,  # None where there is no affine part
    x_strides,
    scale,
    shift,
    grad_x,  # dense
    sums,  # of scale and shift: (2, parts, channels); None if not needed
    sizes,
    shape,
    parts,  # tiles of all samples
    OWN: tl.constexpr,
    RELU: tl.constexpr,
    REPEATS: tl.constexpr,
    MARGIN: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """One program: a tile of grad_x, gathered from all levels, and its part of the sums for scale and shift."""
    WIDE: tl.constexpr = LAYOUT.wide
    n, channel, tile, channels, height, width = program_of(shape, LAYOUT)
    c = channel[None, None, :]
    row, column = tile_pixels(tile, width, LAYOUT)
    here = c < channels
    inside = (row < height) & (column < width) & here

    wins_0, wins_1, wins_2, wins_3 = _wins(positions, position_strides, n, c, row, column, inside, LAYOUT)
    repeats = REPEATS
    if REPEATS == 0:
        repeats = _most_takers(samples, sample_strides, n, c, here, height, width, sizes, OWN, WIDE)

    total = tile_zeros(LAYOUT, WIDE)
    for i in tl.static_range(len(grads)):
        h, w = sizes[2 * i], sizes[2 * i + 1]
        u_x, u_y = _windows(samples, i, n, c, here, sample_strides, OWN, WIDE)
        above, level, below = window_takers(row, height, h, u_y, repeats, WIDE, MARGIN)
        before, same, behind = window_takers(column, width, w, u_x, repeats, WIDE, MARGIN)
        strides = (grad_strides[4 * i], grad_strides[4 * i + 1], grad_strides[4 * i + 2], grad_strides[4 * i + 3])
        grad = grads[i] + n * stride_of(strides, 0, LAYOUT)
        for k in range(repeats):
            for m in range(repeats):
                in_row, in_row_above = level + k < below, above + k < level
                in_column, in_column_before = same + m < behind, before + m < same
                taken = grad + offset(c, level + k, same + m, strides, LAYOUT)
                total += _taken(taken, wins_0, here & in_row & in_column, LAYOUT)
                taken = grad + offset(c, level + k, before + m, strides, LAYOUT)
                total += _taken(taken, wins_1, here & in_row & in_column_before, LAYOUT)
                taken = grad + offset(c, above + k, same + m, strides, LAYOUT)
                total += _taken(taken, wins_2, here & in_row_above & in_column, LAYOUT)
                taken = grad + offset(c, above + k, before + m, strides, LAYOUT)
                total += _taken(taken, wins_3, here & in_row_above & in_column_before, LAYOUT)

    if x is not None:
        if scale is not None:
            scale = tl.load(scale + c, mask=here, other=0.0).to(WIDE)
        if shift is not None:
            shift = tl.load(shift + c, mask=here, other=0.0).to(WIDE)
        at = x + n * stride_of(x_strides, 0, LAYOUT) + offset(c, row, column, x_strides, LAYOUT)
        v = tl.load(at, mask=inside, other=0.0).to(WIDE)
        if RELU:
            total = tl.where(_linear(v, scale, shift) <= 0, 0.0, total)  # NaN lets the gradient pass, as in PyTorch
        if sums is not None:
            part = sums + (n * shape[4] + tile) * channels + channel
            tl.store(part, tl.sum(tl.sum(total * v, 0), 0), mask=channel < channels)
            part += parts.to(tl.int64) * channels
            tl.store(part, tl.sum(tl.sum(total, 0), 0), mask=channel < channels)
        if scale is not None:
            total *= scale
    at = dense_offset(n, c, row, column, channels, height, width, LAYOUT)
    tl.store(grad_x + at, total.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["parts", "channels"])
def _totals_kernel(
    sums, grad_scale, grad_shift, parts, channels, WIDE: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr
):
    """One program: the sums of some channels over all parts, of scale or of shift, always in the same order."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    which, c = tl.program_id(1), channel[None, :]
    total = tl.zeros([PARTS, CHANNELS], WIDE)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)[:, None]
        at = sums + (which.to(tl.int64) * parts + part) * channels + c
        total += tl.load(at, mask=(part < parts) & (c < channels), other=0.0)
    result, mask = tl.sum(total, 0), channel < tl.where(which == 0, channels, 0)
    if grad_scale is not None:
        tl.store(grad_scale + channel, result.to(grad_scale.dtype.element_ty), mask=mask)
    mask = channel < tl.where(which == 1, channels, 0)
    if grad_shift is not None:
        tl.store(grad_shift + channel, result.to(grad_shift.dtype.element_ty), mask=mask)


def _sample_strides(samples: Tensor) -> tuple[int, ...]:
    """Of the levels, samples, channels and axes; 0 for what is shared."""
    return strides_of(samples)[:3] + samples.stride()[3:]


def _dense(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def forward(
    x: Tensor,
    samples: Tensor,
    output_sizes: Sequence[int],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    with_positions: bool,
) -> tuple[list[Tensor], Tensor]:
    """``pyranet_fast::fractional_max_pool_pyramid``."""
    sizes = list(zip(output_sizes[::2], output_sizes[1::2], strict=True))
    check_levels(_NAME, len(sizes))
    values = [empty_map(x, (*x.shape[:2], h, w)) for h, w in sizes]
    positions = empty_map(x, x.shape, torch.uint8) if with_positions else x.new_empty((0, 0, 0, 0), dtype=torch.uint8)
    own = samples.shape[2] > 1
    layout = Layout.of(x, x, [x], not own)
    tiles = sum(layout.tiles(h, w) for h, w in ([*sizes, x.shape[2:]] if with_positions else sizes))
    launch(
        _forward_kernel,
        layout.programs(x, tiles),
        x,
        x,
        layout.strides(x),
        samples,
        _sample_strides(samples),
        _dense(scale),
        _dense(shift),
        tuple(values),
        positions if with_positions else None,
        tuple(output_sizes),
        layout.shape(x, tiles),
        OWN=own,
        RELU=relu,
        **layout.options(),
    )
    return values, positions


def backward(
    grads: Sequence[Tensor],
    positions: Tensor,
    samples: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``pyranet_fast::fractional_max_pool_pyramid_backward``."""
    check_levels(_NAME, len(grads))
    n, c, h, w = positions.shape
    grad_x = empty_map(positions, positions.shape, grads[0].dtype)
    grad_scale, grad_shift = (grad_x.new_empty(0) if v is None else v.new_empty(v.shape) for v in (scale, shift))
    if scale is None and shift is None and not relu:
        x = None
    own = samples.shape[2] > 1
    # Where channels share windows and lie side by side, larger tiles than usual: where windows start is worked out once
    # for a row or column of a tile. Elsewhere every element of a thread needs registers for that.
    large = not own and memory_format(positions) == torch.channels_last
    layout = Layout.of(positions, grad_x, [positions, *grads, x], not own, elements=1024 if large else 512)
    tiles = layout.tiles(h, w)
    parts, sums = n * tiles, None
    if scale is not None or shift is not None:
        sums = torch.empty((2, parts, c), dtype=wide_dtype(grad_x), device=positions.device)
    launch(
        _backward_kernel,
        layout.programs(positions, tiles),
        positions,
        tuple(grads),
        tuple(stride for grad in grads for stride in layout.strides(grad)),
        positions,
        layout.strides(positions),
        samples,
        _sample_strides(samples),
        x,
        layout.strides(x),
        _dense(scale),
        _dense(shift),
        grad_x,
        sums,
        tuple(size for grad in grads for size in grad.shape[2:]),
        layout.shape(positions, tiles),
        parts,
        OWN=own,
        RELU=relu,
        REPEATS=window_repeats(max(h, w)),
        MARGIN=search_margin(max(h, w)),
        **layout.options(),
    )
    if sums is not None:
        of = min(64, power_of_two(c))
        launch(
            _totals_kernel,
            (triton.cdiv(c, of), 2),
            positions,
            sums,
            None if scale is None else grad_scale,
            None if shift is None else grad_shift,
            parts,
            c,
            WIDE=wide_type(grad_x),
            PARTS=_PARTS,
            CHANNELS=of,
        )
    return grad_x, grad_scale, grad_shift
