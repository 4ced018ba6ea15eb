"""Gaussian target maps."""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .heatmap_tiles import Tile, gaussian
from .tiles import launch


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
    maps = torch.empty((*weight.shape, height, width), dtype=joints.dtype, device=joints.device)
    tile = Tile.of(height, width)
    row_tiles = tile.row_tiles(height)
    launch(
        _gaussian_kernel,
        weight.numel() * row_tiles,
        joints,
        joints.contiguous(),
        weight.contiguous(),
        maps,
        height,
        width,
        row_tiles,
        2 * sigma * sigma,
        **tile.options(),
    )
    return maps
