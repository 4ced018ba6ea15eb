"""A sum and the folded batch norms with ReLU that read it, in one launch."""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import Layout, dense_offset, launch, offset, program_of, stride_of, tile_pixels


@triton.jit(do_not_specialize=["x_strides", "other_strides", "shape"])
def _forward_kernel(
    x,
    x_strides,
    other,  # None: x alone
    other_strides,
    scale,  # (outputs, channels)
    shift,
    total,  # None: not kept; else dense, as the outputs
    outs,
    shape,
    HALF: tl.constexpr,  # a pixel of x serves four
    LAYOUT: tl.constexpr,
):
    """One program: a tile of the sum and of all outputs."""
    WIDE: tl.constexpr = LAYOUT.wide
    n, channel, tile, channels, height, width = program_of(shape, LAYOUT)
    c = channel[None, None, :]
    row, column = tile_pixels(tile, width, LAYOUT)
    here = c < channels
    mask = (row < height) & (column < width) & here

    at = x + n * stride_of(x_strides, 0, LAYOUT)
    if HALF:
        v = tl.load(at + offset(c, row // 2, column // 2, x_strides, LAYOUT), mask=mask, other=0.0)
    else:
        v = tl.load(at + offset(c, row, column, x_strides, LAYOUT), mask=mask, other=0.0)
    if other is not None:
        at = other + n * stride_of(other_strides, 0, LAYOUT) + offset(c, row, column, other_strides, LAYOUT)
        # Rounded, as if it had been stored and read again.
        v = (v.to(WIDE) + tl.load(at, mask=mask, other=0.0).to(WIDE)).to(x.dtype.element_ty)
    at = dense_offset(n, c, row, column, channels, height, width, LAYOUT)
    if total is not None:
        tl.store(total + at, v, mask=mask)
    for j in tl.static_range(len(outs)):
        a = tl.load(scale + j * channels + c, mask=here, other=0.0)
        b = tl.load(shift + j * channels + c, mask=here, other=0.0)
        y = v.to(WIDE) * a + b
        y = tl.where(y < 0, 0.0, y)  # NaN stays
        tl.store(outs[j] + at, y.to(x.dtype.element_ty), mask=mask)


def forward(x: Tensor, other: Tensor | None, scale: Tensor, shift: Tensor, keep: bool) -> list[Tensor]:
    """``pyranet_fast::add_affine_relu``."""
    like, outputs = x if other is None else other, scale.shape[0]
    results = [
        torch.empty(like.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for _ in range(outputs + int(keep))
    ]
    layout = Layout.of(results[0], results[0], [x, other, results[0]])
    tiles = layout.tiles(*like.shape[2:])
    launch(
        _forward_kernel,
        layout.programs(like, tiles),
        x,
        x,
        layout.strides(x),
        other,
        layout.strides(other),
        scale.contiguous(),
        shift.contiguous(),
        results[0] if keep else None,
        tuple(results[int(keep) :]),
        layout.shape(like, tiles),
        HALF=like.shape != x.shape,
        **layout.options(),
    )
    return results
