"""Fractional max-pooling of one map to several sizes: all levels and the winners in one launch, the backward in one
that gathers (and one more for the sums of scale and shift). Values and winners are the reference's bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from .._common import memory_format
from .fractional_max_pool_pyramid_kernels import backward_kernel, forward_kernel, totals_kernel
from .gaussian_heatmaps import on_device_of
from .geometry import EXACT, Layout, check_levels, search_margin, strides_of, wide_type, window_repeats

_NAME = "fractional_max_pool_pyramid"
_PARTS = 32  # partial sums that a program adds at a time


def _sample_strides(samples: Tensor) -> tuple[int, ...]:
    """Of the levels, samples, channels and axes; 0 for what is shared."""
    return strides_of(samples)[:3] + samples.stride()[3:]


def _vector(vector: Tensor | None) -> Tensor | None:
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
    levels = len(output_sizes) // 2
    check_levels(_NAME, levels)
    n, c, h, w = x.shape
    order = memory_format(x)
    values = [
        torch.empty((n, c, *output_sizes[2 * i : 2 * i + 2]), dtype=x.dtype, device=x.device, memory_format=order)
        for i in range(levels)
    ]
    positions = x.new_empty((0, 0, 0, 0), dtype=torch.uint8)
    if with_positions:
        positions = torch.empty(x.shape, dtype=torch.uint8, device=x.device, memory_format=order)
    if x.numel() == 0:
        return values, positions
    own = samples.shape[2] > 1
    layout = Layout.of(order == torch.channels_last, x, [x], not own)
    tiles = sum(layout.tiles(*output_sizes[2 * i : 2 * i + 2]) for i in range(levels))
    tiles += layout.tiles(h, w) if with_positions else 0
    groups = layout.groups(c)
    with on_device_of(x):
        forward_kernel[(n * groups * tiles,)](
            x,
            samples,
            _vector(scale),
            _vector(shift),
            tuple(values),
            positions if with_positions else None,
            tuple(output_sizes),
            c // max(1, layout.vector),
            h,
            w,
            groups,
            tiles,
            *layout.strides(x),
            *_sample_strides(samples),
            LEVELS=levels,
            OWN=own,
            RELU=relu,
            CHANNELS_LAST=order == torch.channels_last,
            WIDE=wide_type(x),
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
    order = memory_format(positions)
    dtype, device = grads[0].dtype, positions.device
    grad_x = torch.empty(positions.shape, dtype=dtype, device=device, memory_format=order)
    grad_scale, grad_shift = (grad_x.new_empty(0) if v is None else v.new_empty(v.shape) for v in (scale, shift))
    if positions.numel() == 0:
        return grad_x, grad_scale.zero_(), grad_shift.zero_()
    if scale is None and shift is None and not relu:
        x = None
    own = samples.shape[2] > 1
    maps = [positions, *grads, *([] if x is None else [x])]
    # Larger tiles than usual: where windows start is worked out once for a row or column of a tile.
    layout = Layout.of(order == torch.channels_last, grad_x, maps, not own, elements=1024)
    tiles, groups, wide = layout.tiles(h, w), layout.groups(c), wide_type(grad_x)
    parts, sums = n * tiles, None
    if scale is not None or shift is not None:
        sums = torch.empty((2, parts, c), dtype=torch.promote_types(dtype, torch.float32), device=device)
    with on_device_of(positions):
        backward_kernel[(parts * groups,)](
            tuple(grads),
            tuple(stride for grad in grads for stride in layout.strides(grad)),
            positions,
            samples,
            x,
            _vector(scale),
            _vector(shift),
            grad_x,
            sums,
            tuple(size for grad in grads for size in grad.shape[2:]),
            c // max(1, layout.vector),
            h,
            w,
            groups,
            tiles,
            parts,
            *layout.strides(positions),
            *layout.strides(x),
            *_sample_strides(samples),
            LEVELS=len(grads),
            OWN=own,
            RELU=relu,
            REPEATS=window_repeats(max(h, w)),
            MARGIN=search_margin(max(h, w)),
            CHANNELS_LAST=order == torch.channels_last,
            WIDE=wide,
            **layout.options(),
        )
        if sums is not None:
            of = min(64, triton.next_power_of_2(c))
            totals_kernel[(triton.cdiv(c, of), 2)](
                sums,
                None if scale is None else grad_scale,
                None if shift is None else grad_shift,
                parts,
                c,
                WIDE=wide,
                PARTS=_PARTS,
                CHANNELS=of,
                **EXACT,
            )
    return grad_x, grad_scale, grad_shift
