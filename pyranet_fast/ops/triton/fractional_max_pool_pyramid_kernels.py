"""Kernels of fractional_max_pool_pyramid: values and winners of all levels, their gradient, sums over partial sums.

A level's windows are a choice among the windows of stride 1, so one byte a pixel says for all levels which element of
the window that starts there is its maximum: 2 * row + column.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from .geometry import (
    dense_offset,
    offset,
    quotient,
    tile_count,
    tile_pixels,
    window_sample,
    window_start,
    window_takers,
)


@triton.jit
def _windows(samples, level, n, c, here, s_l, s_n, s_c, s_axis, OWN: tl.constexpr, WIDE: tl.constexpr):
    """Samples (x, y) of a level: of each channel, or one for all."""
    at = samples + level * s_l + n * s_n
    if OWN:
        at += c * s_c
        x, y = tl.load(at, mask=here, other=0.0), tl.load(at + s_axis, mask=here, other=0.0)
    else:
        x, y = tl.load(at), tl.load(at + s_axis)
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


@triton.jit(
    do_not_specialize=[
        "sizes", "packs", "height", "width", "groups", "tiles",
        "x_n", "x_c", "x_y", "x_x", "s_l", "s_n", "s_c", "s_axis",
    ]
)  # fmt: skip
def forward_kernel(
    x,
    samples,
    scale,  # None where there is none, as shift
    shift,
    values,  # one a level, dense
    positions,  # dense; None: nobody wants them
    sizes,  # (h_0, w_0, h_1, w_1, ...)
    packs,  # channels / VECTOR
    height,
    width,
    groups,
    tiles,
    x_n,
    x_c,
    x_y,
    x_x,
    s_l,
    s_n,
    s_c,
    s_axis,
    LEVELS: tl.constexpr,
    OWN: tl.constexpr,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: a tile of the positions or of one level's values. Tiles of a sample's channels follow each other."""
    UNIT: tl.constexpr = VECTOR if VECTOR > 0 else 1
    channels = packs * UNIT
    pid = tl.program_id(0)
    n = (pid // tiles // groups).to(tl.int64)
    channel = pid // tiles % groups * CHANNELS + tl.arange(0, CHANNELS)
    c = channel[None, None, :]
    tile = pid % tiles

    # Which map: the positions as long as `start` is 0, else a level.
    h, w, level, out = sizes[0], sizes[1], 0, values[0]
    start, after = 0, 0
    if positions is not None:
        start = tile_count(height, width, ROWS, COLUMNS)
        after = start
    of_positions = tile < start
    for i in tl.static_range(1, LEVELS):
        after += tile_count(sizes[2 * i - 2], sizes[2 * i - 1], ROWS, COLUMNS)
        later = tile >= after
        start = tl.where(later, after, start)
        h, w = tl.where(later, sizes[2 * i], h), tl.where(later, sizes[2 * i + 1], w)
        level, out = tl.where(later, i, level), tl.where(later, values[i], out)
    if positions is not None:
        start = tl.where(of_positions, 0, start)
        row, column = tile_pixels(tile - start, tl.where(of_positions, width, w), ROWS, COLUMNS)
    else:
        row, column = tile_pixels(tile - start, w, ROWS, COLUMNS)

    here = c < channels
    u_x, u_y = _windows(samples, level, n, c, here, s_l, s_n, s_c, s_axis, OWN, WIDE)
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
    x += n * x_n * UNIT
    # ATen's rule, in reading order: a later element wins if it is greater or NaN.
    best = _element(x + offset(c, y, x0, x_c, x_y, x_x, OFFSET, VECTOR), mask, scale, shift, RELU, WIDE)
    winner = tl.zeros([ROWS, COLUMNS, CHANNELS], tl.int32)
    for e in tl.static_range(1, 4):
        at = x + offset(c, y + e // 2, x0 + e % 2, x_c, x_y, x_x, OFFSET, VECTOR)
        v = _element(at, mask, scale, shift, RELU, WIDE)
        wins = (v > best) | (v != v)
        best, winner = tl.where(wins, v, best), tl.where(wins, e, winner)

    at = dense_offset(n, c, row, column, channels, h, w, OFFSET, CHANNELS_LAST)
    if positions is not None:
        rows = tl.where(of_positions, 0, h)
        tl.store(out + at, best.to(out.dtype.element_ty), mask=mask & (row < rows))
        at = dense_offset(n, c, row, column, channels, height, width, OFFSET, CHANNELS_LAST)
        inside = (row < tl.where(of_positions, height, 0)) & (column < width) & here
        tl.store(positions + at, tl.where(mask, winner, 0).to(tl.uint8), mask=inside)  # 0 where no window starts
    else:
        tl.store(out + at, best.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _taken(at, wins, mask, WIDE: tl.constexpr, VECTOR: tl.constexpr):
    """Gradients of outputs, where this pixel wins their window, else 0."""
    if VECTOR > 1:  # several channels are read at once: which of them win is asked after it
        return tl.where(wins, tl.load(at, mask=mask, other=0.0).to(WIDE), 0.0)
    else:
        return tl.load(at, mask=mask & wins, other=0.0).to(WIDE)


@triton.jit(
    do_not_specialize=[
        "strides", "sizes", "packs", "height", "width", "groups", "tiles", "parts", "p_n", "p_c", "p_y", "p_x",
        "x_n", "x_c", "x_y", "x_x", "s_l", "s_n", "s_c", "s_axis",
    ]
)  # fmt: skip
def backward_kernel(
    grads,  # one a level
    strides,  # of grads: (n_0, c_0, y_0, x_0, n_1, ...)
    positions,
    samples,
    x,  # None where there is no affine part
    scale,
    shift,
    grad_x,  # dense
    sums,  # of scale and shift: (2, parts, channels); None where nobody wants them
    sizes,
    packs,
    height,
    width,
    groups,
    tiles,
    parts,  # tiles of all samples
    p_n,
    p_c,
    p_y,
    p_x,
    x_n,
    x_c,
    x_y,
    x_x,
    s_l,
    s_n,
    s_c,
    s_axis,
    LEVELS: tl.constexpr,
    OWN: tl.constexpr,
    RELU: tl.constexpr,
    REPEATS: tl.constexpr,
    MARGIN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: a tile of grad_x, gathered from all levels, and its part of the sums for scale and shift."""
    UNIT: tl.constexpr = VECTOR if VECTOR > 0 else 1
    channels = packs * UNIT
    pid = tl.program_id(0)
    n = (pid // tiles // groups).to(tl.int64)
    channel = pid // tiles % groups * CHANNELS + tl.arange(0, CHANNELS)
    c = channel[None, None, :]
    tile = pid % tiles
    row, column = tile_pixels(tile, width, ROWS, COLUMNS)
    here = c < channels
    inside = (row < height) & (column < width) & here

    # A pixel is element 0 of the window that starts there, 1 of the one to the left, 2 of the one above, 3 of the one
    # above to the left: where it is their maximum?
    at = positions + n * p_n * UNIT + offset(c, row, column, p_c, p_y, p_x, OFFSET, VECTOR)
    left, up = p_x * UNIT, p_y * UNIT
    wins_0 = tl.load(at, mask=inside, other=255) == 0
    wins_1 = tl.load(at - left, mask=inside & (column > 0), other=255) == 1
    wins_2 = tl.load(at - up, mask=inside & (row > 0), other=255) == 2
    wins_3 = tl.load(at - up - left, mask=inside & (row > 0) & (column > 0), other=255) == 3

    # At most how many outputs of a level have one window along an axis: hardly ever more than one.
    repeats = REPEATS
    if REPEATS == 0:
        twice = 0
        for i in tl.static_range(LEVELS):
            h, w = sizes[2 * i], sizes[2 * i + 1]
            u_x, u_y = _windows(samples, i, n, c, here, s_l, s_n, s_c, s_axis, OWN, WIDE)
            y = window_start(h - 2, height, h, u_y, quotient(height - 2, h - 1, WIDE))
            x0 = window_start(w - 2, width, w, u_x, quotient(width - 2, w - 1, WIDE))
            twice += (y == height - 2).to(tl.int32) + (x0 == width - 2).to(tl.int32)
        if OWN:
            twice = tl.max(twice)
        repeats = tl.where(twice > 0, 2, 1)

    total = tl.zeros([ROWS, COLUMNS, CHANNELS], WIDE)
    for i in tl.static_range(LEVELS):
        h, w = sizes[2 * i], sizes[2 * i + 1]
        u_x, u_y = _windows(samples, i, n, c, here, s_l, s_n, s_c, s_axis, OWN, WIDE)
        above, level, below = window_takers(row, height, h, u_y, repeats, WIDE, MARGIN)
        before, same, behind = window_takers(column, width, w, u_x, repeats, WIDE, MARGIN)
        g_c, g_y, g_x = strides[4 * i + 1], strides[4 * i + 2], strides[4 * i + 3]
        grad = grads[i] + n * strides[4 * i] * UNIT
        for k in range(repeats):
            for m in range(repeats):
                in_row, in_row_above = level + k < below, above + k < level
                in_column, in_column_before = same + m < behind, before + m < same
                taken = grad + offset(c, level + k, same + m, g_c, g_y, g_x, OFFSET, VECTOR)
                total += _taken(taken, wins_0, here & in_row & in_column, WIDE, VECTOR)
                taken = grad + offset(c, level + k, before + m, g_c, g_y, g_x, OFFSET, VECTOR)
                total += _taken(taken, wins_1, here & in_row & in_column_before, WIDE, VECTOR)
                taken = grad + offset(c, above + k, same + m, g_c, g_y, g_x, OFFSET, VECTOR)
                total += _taken(taken, wins_2, here & in_row_above & in_column, WIDE, VECTOR)
                taken = grad + offset(c, above + k, before + m, g_c, g_y, g_x, OFFSET, VECTOR)
                total += _taken(taken, wins_3, here & in_row_above & in_column_before, WIDE, VECTOR)

    if x is not None:
        if scale is not None:
            scale = tl.load(scale + c, mask=here, other=0.0).to(WIDE)
        if shift is not None:
            shift = tl.load(shift + c, mask=here, other=0.0).to(WIDE)
        at = x + n * x_n * UNIT + offset(c, row, column, x_c, x_y, x_x, OFFSET, VECTOR)
        v = tl.load(at, mask=inside, other=0.0).to(WIDE)
        if RELU:
            total = tl.where(_linear(v, scale, shift) <= 0, 0.0, total)  # NaN lets the gradient pass, as in PyTorch
        if sums is not None:
            part = sums + (n * tiles + tile) * channels + channel
            tl.store(part, tl.sum(tl.sum(total * v, 0), 0), mask=channel < channels)
            part += parts.to(tl.int64) * channels
            tl.store(part, tl.sum(tl.sum(total, 0), 0), mask=channel < channels)
        if scale is not None:
            total *= scale
    at = dense_offset(n, c, row, column, channels, height, width, OFFSET, CHANNELS_LAST)
    tl.store(grad_x + at, total.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["parts", "channels"])
def totals_kernel(
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
