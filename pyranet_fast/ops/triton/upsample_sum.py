"""Sum of bilinear resizings: all levels in one launch, their gradients in one that gathers."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..checks import empty_map
from .geometry import bilinear_ratio, bilinear_tap, receivers, search_margin
from .tiles import (
    Layout,
    check_levels,
    dense_offset,
    launch,
    offset,
    program_of,
    stride_of,
    tile_count,
    tile_pixels,
    tile_zeros,
)

_NAME = "upsample_sum"


@triton.jit(do_not_specialize=["sizes", "strides", "base_strides", "shape"])
def _forward_kernel(
    maps,  # one a level
    sizes,  # (h_0, w_0, h_1, w_1, ...)
    strides,  # of maps: (n_0, c_0, y_0, x_0, n_1, ...)
    base,  # or None
    base_strides,
    out,  # dense
    shape,
    ALIGN_CORNERS: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """One program: a tile of the sum, all levels."""
    WIDE: tl.constexpr = LAYOUT.wide
    n, channel, tile, channels, height, width = program_of(shape, LAYOUT)
    c = channel[None, None, :]
    row, column = tile_pixels(tile, width, LAYOUT)
    mask = (row < height) & (column < width) & (c < channels)

    total = tile_zeros(LAYOUT, WIDE)
    for i in tl.static_range(len(maps)):
        h, w = sizes[2 * i], sizes[2 * i + 1]
        ratio = bilinear_ratio(h, height, ALIGN_CORNERS, WIDE)
        y0, y1, weight_y0, weight_y1 = bilinear_tap(row, h, height, ratio, ALIGN_CORNERS)
        ratio = bilinear_ratio(w, width, ALIGN_CORNERS, WIDE)
        x0, x1, weight_x0, weight_x1 = bilinear_tap(column, w, width, ratio, ALIGN_CORNERS)
        of_map = (strides[4 * i], strides[4 * i + 1], strides[4 * i + 2], strides[4 * i + 3])
        source = maps[i] + n * stride_of(of_map, 0, LAYOUT)
        above = weight_x0 * tl.load(source + offset(c, y0, x0, of_map, LAYOUT), mask=mask, other=0.0).to(WIDE)
        above += weight_x1 * tl.load(source + offset(c, y0, x1, of_map, LAYOUT), mask=mask, other=0.0).to(WIDE)
        below = weight_x0 * tl.load(source + offset(c, y1, x0, of_map, LAYOUT), mask=mask, other=0.0).to(WIDE)
        below += weight_x1 * tl.load(source + offset(c, y1, x1, of_map, LAYOUT), mask=mask, other=0.0).to(WIDE)
        total += weight_y0 * above + weight_y1 * below
    if base is not None:
        at = base + n * stride_of(base_strides, 0, LAYOUT) + offset(c, row, column, base_strides, LAYOUT)
        total += tl.load(at, mask=mask, other=0.0).to(WIDE)
    at = dense_offset(n, c, row, column, channels, height, width, LAYOUT)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _weight(i, j, size, out, ratio, ALIGN_CORNERS: tl.constexpr):
    """With which weight output pixel i reads source pixel j: 0 where it does not."""
    first, second, weight_first, weight_second = bilinear_tap(i, size, out, ratio, ALIGN_CORNERS)
    weight = tl.where(first == j, weight_first, 0.0) + tl.where(second == j, weight_second, 0.0)
    return tl.where(i < out, weight, 0.0)


@triton.jit(do_not_specialize=["grad_strides", "sizes", "shape"])
def _backward_kernel(
    grad,
    grad_strides,
    of_maps,  # gradients, one a level, dense
    sizes,  # (h_0, w_0, h_1, w_1, ...)
    shape,
    ALIGN_CORNERS: tl.constexpr,
    MARGIN: tl.constexpr,
    AT_ONCE: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """One program: a tile of one level's gradient. All levels' tiles of a sample's channels follow each other."""
    WIDE: tl.constexpr = LAYOUT.wide
    n, channel, tile, channels, height, width = program_of(shape, LAYOUT)
    c = channel[None, None, :]
    h, w, out, start, after = sizes[0], sizes[1], of_maps[0], 0, 0
    for i in tl.static_range(1, len(of_maps)):
        after += tile_count(sizes[2 * i - 2], sizes[2 * i - 1], LAYOUT)
        later = tile >= after
        h, w = tl.where(later, sizes[2 * i], h), tl.where(later, sizes[2 * i + 1], w)
        out, start = tl.where(later, of_maps[i], out), tl.where(later, after, start)
    row, column = tile_pixels(tile - start, w, LAYOUT)
    here = c < channels

    ratio_y = bilinear_ratio(h, height, ALIGN_CORNERS, WIDE)
    inverse = bilinear_ratio(height, h, ALIGN_CORNERS, WIDE)
    first_y, end_y = receivers(row, h, height, ratio_y, inverse, ALIGN_CORNERS, MARGIN)
    ratio_x = bilinear_ratio(w, width, ALIGN_CORNERS, WIDE)
    inverse = bilinear_ratio(width, w, ALIGN_CORNERS, WIDE)
    first_x, end_x = receivers(column, w, width, ratio_x, inverse, ALIGN_CORNERS, MARGIN)
    most_y, most_x = tl.max(end_y - first_y), tl.max(end_x - first_x)

    grad += n * stride_of(grad_strides, 0, LAYOUT)
    total = tile_zeros(LAYOUT, WIDE)
    for k in range(0, most_x, AT_ONCE):
        for m in range(0, most_y):
            y = first_y + m
            weight_y = _weight(y, row, h, height, ratio_y, ALIGN_CORNERS)
            along = tile_zeros(LAYOUT, WIDE)
            for t in tl.static_range(AT_ONCE):
                x = first_x + k + t
                weight_x = _weight(x, column, w, width, ratio_x, ALIGN_CORNERS)
                at = grad + offset(c, y, x, grad_strides, LAYOUT)
                along += weight_x * tl.load(at, mask=(weight_y > 0) & (weight_x > 0) & here, other=0.0).to(WIDE)
            total += weight_y * along
    at = dense_offset(n, c, row, column, channels, h, w, LAYOUT)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=(row < h) & (column < w) & here)


def forward(maps: Sequence[Tensor], height: int, width: int, base: Tensor | None, align_corners: bool) -> Tensor:
    """``pyranet_fast::upsample_sum``."""
    check_levels(_NAME, len(maps))
    out = empty_map(maps[0], (*maps[0].shape[:2], height, width))
    layout = Layout.of(maps[0], out, [*maps, base])
    tiles = layout.tiles(height, width)
    launch(
        _forward_kernel,
        layout.programs(out, tiles),
        out,
        tuple(maps),
        tuple(size for m in maps for size in m.shape[2:]),
        tuple(stride for m in maps for stride in layout.strides(m)),
        base,
        layout.strides(base),
        out,
        layout.shape(out, tiles),
        ALIGN_CORNERS=align_corners,
        **layout.options(),
    )
    return out


def backward(grad: Tensor, sizes: Sequence[int], align_corners: bool) -> list[Tensor]:
    """``pyranet_fast::upsample_sum_backward``."""
    check_levels(_NAME, len(sizes) // 2)
    grads = [empty_map(grad, (*grad.shape[:2], h, w)) for h, w in zip(sizes[::2], sizes[1::2], strict=True)]
    layout = Layout.of(grad, max(grads, key=Tensor.numel), [grad])
    tiles = sum(layout.tiles(*g.shape[2:]) for g in grads)
    launch(
        _backward_kernel,
        layout.programs(grad, tiles),
        grad,
        grad,
        layout.strides(grad),
        tuple(grads),
        tuple(sizes),
        layout.shape(grad, tiles),
        ALIGN_CORNERS=align_corners,
        MARGIN=search_margin(max(grad.shape[2:])),
        AT_ONCE=4,
        **layout.options(),
    )
    return grads
