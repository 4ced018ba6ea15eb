"""Gaussian target maps, and what the heat-map kernels share: their tiles and the Gaussian of one axis.

A tile is ROWS x COLUMNS pixels of CHANNELS maps: no kernel divides a flat index, and any strides are read as they
are. Maps whose channels lie beside each other in memory (channels_last) are read several at a time.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .geometry import EXACT


class Tile(NamedTuple):
    """What a program works on at a time; all are powers of two."""

    rows: int
    columns: int
    channels: int

    def options(self) -> dict[str, Any]:
        """The tile as a kernel's arguments, and the warps for it: 16 elements a thread."""
        warps = max(1, min(16, self.rows * self.columns * self.channels // 512))
        return {"ROWS": self.rows, "COLUMNS": self.columns, "CHANNELS": self.channels, "num_warps": warps, **EXACT}


def channel_group(maps: Tensor) -> int:
    """How many of (N, K, H, W) maps a program reads together: 32 bytes of neighbours, what memory delivers at least."""
    beside = 0 < maps.stride(1) < maps.stride(3)
    return min(triton.next_power_of_2(maps.shape[1]), 32 // maps.element_size()) if beside else 1


def tile(height: int, width: int, channels: int = 1, elements: int = 2048) -> Tile:
    """A tile of at most ``elements`` elements, as wide as the map where that fits."""
    columns = min(triton.next_power_of_2(width), elements // channels)
    return Tile(min(triton.next_power_of_2(height), elements // channels // columns), columns, channels)


def offset_dtype(*maps: Tensor) -> tl.dtype:
    """The integer type that holds every offset inside one of the (N, K, H, W) maps, and its number of pixels."""
    last = max(
        max(x.shape[2] * x.shape[3], (x.shape[2] - 1) * x.stride(2) + (x.shape[3] - 1) * x.stride(3)) for x in maps
    )
    return tl.int32 if last < 2**31 else tl.int64


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Launch on the tensor's GPU, which need not be the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@triton.jit
def gaussian(centre, at, two_sigma_squared):
    """exp(-(at - centre)^2 / two_sigma_squared), in the centre's dtype."""
    d = at.to(centre.dtype) - centre
    # full() and not a cast, which rounds a number to float32 first: the interpreter hands over a number.
    return tl.exp(-(d * d) / tl.full([], two_sigma_squared, d.dtype))


@triton.jit(do_not_specialize=["height", "row_tiles"])
def _gaussian_kernel(
    joints,
    weight,
    maps,
    height,
    width,
    row_tiles,
    two_sigma_squared: tl.float64,  # Triton would round a number without a type to float32
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: ROWS rows of one map. Joints, weights and maps are contiguous."""
    m = (tl.program_id(0) // row_tiles).to(tl.int64)
    y = tl.program_id(0) % row_tiles * ROWS + tl.arange(0, ROWS)
    shown = tl.load(weight + m) > 0
    joint_x, joint_y = tl.load(joints + 2 * m), tl.load(joints + 2 * m + 1)
    column = gaussian(joint_y, y, two_sigma_squared)
    rows = maps + (m * height + y) * width
    for x0 in range(0, width, COLUMNS):
        x = x0 + tl.arange(0, COLUMNS)
        row = gaussian(joint_x, x, two_sigma_squared)
        # where(), not a product with 0: the joint of a map that is not shown may be NaN.
        values = tl.where(shown, column[:, None] * row[None, :], 0.0)
        tl.store(rows[:, None] + x[None, :], values, mask=(y < height)[:, None] & (x < width)[None, :])


def forward(joints: Tensor, weight: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """``pyranet_fast::gaussian_heatmaps``."""
    n, k = weight.shape
    maps = torch.empty((n, k, height, width), dtype=joints.dtype, device=joints.device)
    if maps.numel() == 0:
        return maps
    of = tile(height, width)
    row_tiles = triton.cdiv(height, of.rows)
    with on_device_of(joints):
        _gaussian_kernel[(n * k * row_tiles,)](
            joints.contiguous(), weight.contiguous(), maps, height, width, row_tiles, 2 * sigma * sigma, **of.options()
        )
    return maps
