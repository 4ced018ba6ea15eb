"""Launch plans of the CUDA operators at the network's shapes: blocks that fill a GPU wherever there is work for them.

The host functions run up to the launch, on tensors of full size, and nothing is computed. A GPU is full with two blocks
on each of an H200's 132 multiprocessors. There is work for a block where it has 64 threads that work on a pack of
elements each; where a block makes tables for its rows, they are rows of their own, and in the pool's backward with
windows of each channel 4 packs a thread. `heatmap_argmax`, a block of which has whole maps, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pyranet_fast.nn.pyramid import level_sizes
from tests.emulator.conftest import EMULATED

FULL = 2 * 132
SMALLEST = 64
"""Threads of a block that is made smaller so that there are more."""
SIDES = (128, 64, 32, 16, 8, 4)
BATCHES = (1, 16)
DTYPES = (torch.bfloat16, torch.float32)
LAYOUTS = (torch.channels_last, torch.contiguous_format)


@pytest.fixture(autouse=True)
def planned(operators: ModuleType) -> None:
    operators.configure({"launch": False})
    torch.use_deterministic_algorithms(False)  # nothing is read
    operators.launches()


def made(*shape: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    return torch.empty(shape, dtype=dtype).contiguous(memory_format=layout)


def pack(channels: int, dtype: torch.dtype) -> int:
    """Channels of one access of a channels_last map."""
    return math.gcd(channels, 16 // dtype.itemsize)


def check(
    operators: ModuleType,
    call: Callable[[Any], Any],
    packs: int,
    batch: int,
    pixels: int,
    *,
    rows: int = 0,
    each: int = 1,
) -> None:
    """Plan an operator's only launch: its blocks are enough.

    Args:
        packs, pixels: of a sample: packs of channels (or channels), and the pixels that are dealt to threads.
        rows: into how many strips a map can be cut, where those are of whole rows.
        each: packs of a thread at least.
    """
    call(getattr(torch.ops, EMULATED))
    ((name, blocks, across, down, _),) = operators.launches()
    groups = -(-packs // across)
    smallest = each * -(-SMALLEST // across)  # pixels
    possible = batch * groups * max(1, min(rows or pixels, pixels // smallest))
    assert blocks >= min(FULL, possible), (name, blocks, across, down, possible)
    assert across * down <= 512
    strip = -(-pixels // (blocks // (batch * groups)))  # the average one: those of upsample's levels differ
    whole = 32 if across == 1 else 1  # warps
    assert down <= -(-2 * strip // whole) * whole, f"{name}: {down} workers for {strip} pixels"


@pytest.mark.parametrize("layout", LAYOUTS, ids=("channels_last", "contiguous"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [28, 14])
def test_pyramids(
    operators: ModuleType, channels: int, side: int, batch: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """With windows of each channel and of each sample, and their sums."""
    kind: dict[str, Any] = {"dtype": dtype, "layout": layout}
    sizes = level_sizes((side, side), 4)
    flat = [size for level in sizes for size in level]
    x, levels = made(batch, channels, side, side, **kind), [made(batch, channels, *level, **kind) for level in sizes]
    positions = torch.empty(x.shape, dtype=torch.uint8).contiguous(memory_format=layout)
    inside = layout == torch.channels_last
    packs = channels // (pack(channels, dtype) if inside else 1)
    work = batch, side * side
    for own in (False, True):
        u = torch.zeros(4, batch, channels if own else 1, 2)
        of_pool = channels if own else packs
        check(
            operators,
            lambda ops, u=u: ops.fractional_max_pool_pyramid(x, u, flat, None, None, False, True),
            of_pool,
            *work,
        )
        check(
            operators,
            lambda ops, u=u: ops.fractional_max_pool_pyramid_backward(levels, positions, u, None, None, None, False),
            of_pool, *work, rows=side, each=4 if own and inside else 1,
        )  # fmt: skip
    check(operators, lambda ops: ops.upsample_sum(levels, side, side, x, True), packs, *work)
    below = sum(h * w for h, w in sizes)
    check(operators, lambda ops: ops.upsample_sum_backward(x, flat, True), packs, batch, below)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [128, 256])
def test_sums_of_units(operators: ModuleType, channels: int, side: int, batch: int, dtype: torch.dtype) -> None:
    x = made(batch, channels, side, side, dtype=dtype, layout=torch.channels_last)
    low = made(batch, channels, side // 2, side // 2, dtype=dtype, layout=torch.channels_last)
    norms, packs = torch.zeros(3, channels), channels // pack(channels, dtype)
    for first in (x, low):
        check(operators, lambda ops, t=first: ops.add_affine_relu(t, x, norms, norms, True), packs, batch, side * side)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
def test_score_maps(operators: ModuleType, batch: int, dtype: torch.dtype) -> None:
    side, joints = 64, 16
    centers, weight, one = torch.zeros(batch, joints, 2), torch.ones(batch, joints), torch.ones(())
    for layout in LAYOUTS:
        maps = made(batch, joints, side, side, dtype=dtype, layout=layout)
        inside = layout == torch.channels_last
        width = pack(joints if inside else side, dtype)
        packs, pixels = (joints // width, side * side) if inside else (joints, side * side // width)
        work = packs, batch, pixels
        check(operators, lambda ops, m=maps: ops.heatmap_loss(m, centers, weight, 1.0), *work, rows=side)
        check(operators, lambda ops, m=maps: ops.heatmap_loss_backward(one, m, centers, weight, 1.0), *work, rows=side)
    check(
        operators, lambda ops: ops.gaussian_heatmaps(centers, weight, side, side, 1.0), joints, batch,
        side * side // 4, rows=side,
    )  # fmt: skip


def test_figures(operators: ModuleType) -> None:
    """Some plans themselves, as (blocks, threads across, threads down): bfloat16, channels_last, 28 channels."""
    kind: dict[str, Any] = {"dtype": torch.bfloat16, "layout": torch.channels_last}
    found = {}
    for batch in BATCHES:
        for side in SIDES:
            x, sizes = made(batch, 28, side, side, **kind), level_sizes((side, side), 4)
            flat, u = [size for level in sizes for size in level], torch.zeros(4, batch, 1, 2)
            torch.ops.pyranet_fast_emulated.fractional_max_pool_pyramid(x, u, flat, None, None, False, True)
            ((_, *grid, _),) = operators.launches()
            found[batch, side] = tuple(grid)
    assert found == {
        (1, 128): (265, 7, 36),
        (1, 64): (274, 7, 15),
        (1, 32): (103, 7, 10),
        (1, 16): (26, 7, 10),
        (1, 8): (7, 7, 10),
        (1, 4): (2, 7, 8),
        (16, 128): (912, 7, 36),
        (16, 64): (272, 7, 36),
        (16, 32): (272, 7, 36),
        (16, 16): (288, 7, 15),
        (16, 8): (112, 7, 10),
        (16, 4): (32, 7, 8),
    }
