"""Sum of bilinear resizings: all levels in one launch, their gradients in one that gathers."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._common import memory_format
from .gaussian_heatmaps import on_device_of
from .geometry import (
    Layout,
    bilinear_ratio,
    bilinear_tap,
    check_levels,
    dense_offset,
    offset,
    receivers,
    search_margin,
    tile_count,
    tile_pixels,
    wide_type,
)

_NAME = "upsample_sum"


@triton.jit(
    do_not_specialize=["sizes", "strides", "packs", "height", "width", "groups", "tiles", "b_n", "b_c", "b_y", "b_x"]
)
def _forward_kernel(
    maps,  # one a level
    sizes,  # (h_0, w_0, h_1, w_1, ...)
    strides,  # of maps: (n_0, c_0, y_0, x_0, n_1, ...)
    base,  # or None
    out,  # dense
    packs,  # channels / VECTOR
    height,
    width,
    groups,
    tiles,
    b_n,
    b_c,
    b_y,
    b_x,
    LEVELS: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: a tile of the sum, all levels."""
    UNIT: tl.constexpr = VECTOR if VECTOR > 0 else 1
    channels = packs * UNIT
    pid = tl.program_id(0)
    n = (pid // tiles // groups).to(tl.int64)
    c = (pid // tiles % groups * CHANNELS + tl.arange(0, CHANNELS))[None, None, :]
    row, column = tile_pixels(pid % tiles, width, ROWS, COLUMNS)
    mask = (row < height) & (column < width) & (c < channels)

    total = tl.zeros([ROWS, COLUMNS, CHANNELS], WIDE)
    for i in tl.static_range(LEVELS):
        h, w = sizes[2 * i], sizes[2 * i + 1]
        ratio = bilinear_ratio(h, height, ALIGN_CORNERS, WIDE)
        y0, y1, weight_y0, weight_y1 = bilinear_tap(row, h, height, ratio, ALIGN_CORNERS)
        ratio = bilinear_ratio(w, width, ALIGN_CORNERS, WIDE)
        x0, x1, weight_x0, weight_x1 = bilinear_tap(column, w, width, ratio, ALIGN_CORNERS)
        m_c, m_y, m_x = strides[4 * i + 1], strides[4 * i + 2], strides[4 * i + 3]
        source = maps[i] + n * strides[4 * i] * UNIT
        at = source + offset(c, y0, x0, m_c, m_y, m_x, OFFSET, VECTOR)
        above = weight_x0 * tl.load(at, mask=mask, other=0.0).to(WIDE)
        at = source + offset(c, y0, x1, m_c, m_y, m_x, OFFSET, VECTOR)
        above += weight_x1 * tl.load(at, mask=mask, other=0.0).to(WIDE)
        at = source + offset(c, y1, x0, m_c, m_y, m_x, OFFSET, VECTOR)
        below = weight_x0 * tl.load(at, mask=mask, other=0.0).to(WIDE)
        at = source + offset(c, y1, x1, m_c, m_y, m_x, OFFSET, VECTOR)
        below += weight_x1 * tl.load(at, mask=mask, other=0.0).to(WIDE)
        total += weight_y0 * above + weight_y1 * below
    if base is not None:
        at = base + n * b_n * UNIT + offset(c, row, column, b_c, b_y, b_x, OFFSET, VECTOR)
        total += tl.load(at, mask=mask, other=0.0).to(WIDE)
    at = dense_offset(n, c, row, column, channels, height, width, OFFSET, CHANNELS_LAST)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _weight(i, j, size, out, ratio, ALIGN_CORNERS: tl.constexpr):
    """With which weight output pixel i reads source pixel j: 0 where it does not."""
    first, second, weight_first, weight_second = bilinear_tap(i, size, out, ratio, ALIGN_CORNERS)
    weight = tl.where(first == j, weight_first, 0.0) + tl.where(second == j, weight_second, 0.0)
    return tl.where(i < out, weight, 0.0)


@triton.jit(do_not_specialize=["sizes", "packs", "height", "width", "groups", "tiles", "g_n", "g_c", "g_y", "g_x"])
def _backward_kernel(
    grad,
    of_maps,  # gradients, one a level, dense
    sizes,  # (h_0, w_0, h_1, w_1, ...)
    packs,  # channels / VECTOR
    height,
    width,
    groups,
    tiles,
    g_n,
    g_c,
    g_y,
    g_x,
    LEVELS: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    MARGIN: tl.constexpr,
    AT_ONCE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: a tile of one level's gradient. Tiles of a sample's channels follow each other, all levels."""
    UNIT: tl.constexpr = VECTOR if VECTOR > 0 else 1
    channels = packs * UNIT
    pid = tl.program_id(0)
    n = (pid // tiles // groups).to(tl.int64)
    c = (pid // tiles % groups * CHANNELS + tl.arange(0, CHANNELS))[None, None, :]
    tile = pid % tiles
    h, w, out, start, after = sizes[0], sizes[1], of_maps[0], 0, 0
    for i in tl.static_range(1, LEVELS):
        after += tile_count(sizes[2 * i - 2], sizes[2 * i - 1], ROWS, COLUMNS)
        later = tile >= after
        h, w = tl.where(later, sizes[2 * i], h), tl.where(later, sizes[2 * i + 1], w)
        out, start = tl.where(later, of_maps[i], out), tl.where(later, after, start)
    row, column = tile_pixels(tile - start, w, ROWS, COLUMNS)
    here = c < channels

    ratio_y = bilinear_ratio(h, height, ALIGN_CORNERS, WIDE)
    inverse = bilinear_ratio(height, h, ALIGN_CORNERS, WIDE)
    first_y, end_y = receivers(row, h, height, ratio_y, inverse, ALIGN_CORNERS, MARGIN)
    ratio_x = bilinear_ratio(w, width, ALIGN_CORNERS, WIDE)
    inverse = bilinear_ratio(width, w, ALIGN_CORNERS, WIDE)
    first_x, end_x = receivers(column, w, width, ratio_x, inverse, ALIGN_CORNERS, MARGIN)
    most_y, most_x = tl.max(end_y - first_y), tl.max(end_x - first_x)

    grad += n * g_n * UNIT
    total = tl.zeros([ROWS, COLUMNS, CHANNELS], WIDE)
    for k in range(0, most_x, AT_ONCE):
        for m in range(0, most_y):
            y = first_y + m
            weight_y = _weight(y, row, h, height, ratio_y, ALIGN_CORNERS)
            along = tl.zeros([ROWS, COLUMNS, CHANNELS], WIDE)
            for t in tl.static_range(AT_ONCE):
                x = first_x + k + t
                weight_x = _weight(x, column, w, width, ratio_x, ALIGN_CORNERS)
                at = grad + offset(c, y, x, g_c, g_y, g_x, OFFSET, VECTOR)
                along += weight_x * tl.load(at, mask=(weight_y > 0) & (weight_x > 0) & here, other=0.0).to(WIDE)
            total += weight_y * along
    at = dense_offset(n, c, row, column, channels, h, w, OFFSET, CHANNELS_LAST)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=(row < h) & (column < w) & here)


def forward(maps: Sequence[Tensor], height: int, width: int, base: Tensor | None, align_corners: bool) -> Tensor:
    """``pyranet_fast::upsample_sum``."""
    check_levels(_NAME, len(maps))
    n, c = maps[0].shape[:2]
    order = memory_format(maps[0])
    out = torch.empty((n, c, height, width), dtype=maps[0].dtype, device=maps[0].device, memory_format=order)
    if out.numel() == 0:
        return out
    layout = Layout.of(order == torch.channels_last, out, [*maps, *([] if base is None else [base])])
    tiles, groups = layout.tiles(height, width), layout.groups(c)
    with on_device_of(out):
        _forward_kernel[(n * groups * tiles,)](
            tuple(maps),
            tuple(size for m in maps for size in m.shape[2:]),
            tuple(stride for m in maps for stride in layout.strides(m)),
            base,
            out,
            c // max(1, layout.vector),
            height,
            width,
            groups,
            tiles,
            *layout.strides(base),
            LEVELS=len(maps),
            ALIGN_CORNERS=align_corners,
            CHANNELS_LAST=order == torch.channels_last,
            WIDE=wide_type(out),
            **layout.options(),
        )
    return out


def backward(grad: Tensor, sizes: Sequence[int], align_corners: bool) -> list[Tensor]:
    """``pyranet_fast::upsample_sum_backward``."""
    levels = len(sizes) // 2
    check_levels(_NAME, levels)
    n, c, height, width = grad.shape
    order = memory_format(grad)
    grads = [
        torch.empty((n, c, *sizes[2 * i : 2 * i + 2]), dtype=grad.dtype, device=grad.device, memory_format=order)
        for i in range(levels)
    ]
    if n * c == 0:
        return grads
    largest = max(grads, key=Tensor.numel)
    layout = Layout.of(order == torch.channels_last, largest, [grad])
    tiles, groups = sum(layout.tiles(*g.shape[2:]) for g in grads), layout.groups(c)
    with on_device_of(grad):
        _backward_kernel[(n * groups * tiles,)](
            grad,
            tuple(grads),
            tuple(sizes),
            c // max(1, layout.vector),
            height,
            width,
            groups,
            tiles,
            *layout.strides(grad),
            LEVELS=levels,
            ALIGN_CORNERS=align_corners,
            MARGIN=search_margin(max(height, width)),
            AT_ONCE=4,
            CHANNELS_LAST=order == torch.channels_last,
            WIDE=wide_type(grad),
            **layout.options(),
        )
    return grads
