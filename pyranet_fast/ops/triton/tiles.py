"""How the maps of a launch are divided into tiles, a program each, and addressed; the launch itself.

A tile is rows x columns pixels of some channels of one sample, all powers of two: no kernel divides a flat index by the
size of a map, and maps of any strides are read as they are.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import memory_format

MOST_LEVELS = 32


def launch(kernel: Any, programs: int | tuple[int, int], on: Tensor, *arguments: Any, **options: Any) -> None:
    """Start a kernel on the GPU of a tensor, which need not be the current one; nothing where there are no programs.

    Products and sums are not fused into one operation, which would round differently from the other backends.
    """
    grid = programs if isinstance(programs, tuple) else (programs,)
    if 0 not in grid:
        with torch.cuda.device(on.device) if on.is_cuda else nullcontext():
            kernel[grid](*arguments, **options, enable_fp_fusion=False)


def strides_of(x: Tensor) -> tuple[int, ...]:
    """A tensor's strides, 0 where they say nothing because there is one element."""
    return tuple(0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True))


def power_of_two(size: int) -> int:
    """The next one, at least 1."""
    power: int = triton.next_power_of_2(max(1, size))
    return power


def wide_type(x: Tensor) -> Any:
    """What arithmetic is done in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def check_levels(name: str, levels: int) -> None:
    """Every level is a part of the kernel's code, so their number is bounded, as in the CUDA kernels."""
    if levels > MOST_LEVELS:
        raise ValueError(f"{name} supports at most {MOST_LEVELS} levels on CUDA, got {levels}")


class Layout(NamedTuple):
    """How the programs of a launch divide maps of (N, C) among them, and how the maps are addressed; a constant of the
    kernel's code.

    ``vector`` > 0 promises that the channels of all maps lie side by side and that their other strides are multiples of
    it: then that many channels are read at once. The kernels get strides divided by it, which shows the compiler that
    they are multiples.
    """

    rows: int
    columns: int
    channels: int
    vector: int
    channels_last: bool  # the dense outputs
    offset: Any  # the integer type that holds every offset inside a sample
    wide: Any  # what arithmetic is done in

    @classmethod
    def of(
        cls,
        like: Tensor,
        out: Tensor,
        maps: Sequence[Tensor | None],
        may_vector: bool = True,
        elements: int = 512,
    ) -> Layout:
        """Of tiles of ``elements`` at most, for dense outputs laid out as ``like`` is and no larger than ``out``, and
        for maps of any strides."""
        c, h, w = out.shape[1:]
        last, given = memory_format(like) == torch.channels_last, [x for x in maps if x is not None]
        channels = min(power_of_two(c), 64) if last else 1
        columns = min(power_of_two(w), max(8, elements // 16 // channels))
        rows = min(power_of_two(h), max(1, elements // (channels * columns)))
        vector = 0
        if last and may_vector and all(x.shape[1] == 1 or x.stride(1) == 1 for x in given):
            others = [s for x in given for s in (*strides_of(x)[:1], *strides_of(x)[2:])]
            vector = math.gcd(16 // out.element_size(), c, *others)
        end = max(sum((size - 1) * s for size, s in zip(x.shape[1:], x.stride()[1:], strict=True)) for x in given)
        huge = max(end, c * (h + 1) * (w + 1)) >= 2**31
        return cls(rows, columns, channels, vector, last, tl.int64 if huge else tl.int32, wide_type(out))

    def tiles(self, height: int, width: int) -> int:
        """`tile_count`."""
        return triton.cdiv(height, self.rows) * triton.cdiv(width, self.columns)

    def shape(self, x: Tensor, tiles: int) -> tuple[int, ...]:
        """What `program_of` reads, for ``tiles`` tiles a sample and group of channels."""
        _, c, h, w = x.shape
        return c // max(1, self.vector), h, w, triton.cdiv(c, self.channels), tiles

    def programs(self, x: Tensor, tiles: int) -> int:
        """Of a launch."""
        return x.shape[0] * triton.cdiv(x.shape[1], self.channels) * tiles

    def strides(self, x: Tensor | None) -> tuple[int, ...]:
        """Of (N, C, H, W) as kernels take them; 0 where there is no map."""
        return (0,) * 4 if x is None else tuple(s // max(1, self.vector) for s in strides_of(x))

    def options(self) -> dict[str, Any]:
        """The layout as a kernel's arguments, and how it is launched: four elements a thread or more."""
        return {"LAYOUT": self, "num_warps": max(1, min(4, self.rows * self.columns * self.channels // 128))}


@triton.jit
def program_of(shape, LAYOUT: tl.constexpr):
    """What this program works on: sample, channels (CHANNELS,), tile; and how many channels there are, height, width.

    Tiles of a sample's channels follow each other.
    """
    CHANNELS: tl.constexpr = LAYOUT.channels
    packs, height, width, groups, tiles = shape
    pid = tl.program_id(0)
    n = (pid // tiles // groups).to(tl.int64)
    channel = pid // tiles % groups * CHANNELS + tl.arange(0, CHANNELS)
    if LAYOUT.vector > 0:
        packs = packs * LAYOUT.vector
    return n, channel, pid % tiles, packs, height, width


@triton.jit
def tile_zeros(LAYOUT: tl.constexpr, dtype: tl.constexpr):
    """Zeros for every element of a tile."""
    ROWS: tl.constexpr = LAYOUT.rows
    COLUMNS: tl.constexpr = LAYOUT.columns
    CHANNELS: tl.constexpr = LAYOUT.channels
    return tl.zeros([ROWS, COLUMNS, CHANNELS], dtype)


@triton.jit
def tile_count(height, width, LAYOUT: tl.constexpr):
    """Tiles that cover one map."""
    return tl.cdiv(height, LAYOUT.rows) * tl.cdiv(width, LAYOUT.columns)


@triton.jit
def tile_pixels(tile, width, LAYOUT: tl.constexpr):
    """Rows (ROWS, 1, 1) and columns (1, COLUMNS, 1) of a tile of a map of this width."""
    ROWS: tl.constexpr = LAYOUT.rows
    COLUMNS: tl.constexpr = LAYOUT.columns
    across = tl.cdiv(width, COLUMNS)
    row = tile // across * ROWS + tl.arange(0, ROWS)
    column = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    return row[:, None, None], column[None, :, None]


@triton.jit
def stride_of(strides, axis: tl.constexpr, LAYOUT: tl.constexpr):
    """A stride in elements; strides as `Layout.strides` gives them."""
    if LAYOUT.vector > 0:
        return strides[axis] * LAYOUT.vector
    else:
        return strides[axis]


@triton.jit
def offset(c, y, x, strides, LAYOUT: tl.constexpr):
    """Where elements of one sample lie."""
    OFFSET: tl.constexpr = LAYOUT.offset
    if LAYOUT.vector == 0:
        return c.to(OFFSET) * strides[1] + (y.to(OFFSET) * strides[2] + x.to(OFFSET) * strides[3])
    else:
        return c.to(OFFSET) + (y.to(OFFSET) * strides[2] + x.to(OFFSET) * strides[3]) * LAYOUT.vector


@triton.jit
def dense_offset(n, c, y, x, channels, height, width, LAYOUT: tl.constexpr):
    """Where elements of a dense map lie; n is an int64."""
    OFFSET: tl.constexpr = LAYOUT.offset
    if LAYOUT.channels_last:
        inside = (y.to(OFFSET) * width + x.to(OFFSET)) * channels + c.to(OFFSET)
    else:
        inside = (c.to(OFFSET) * height + y.to(OFFSET)) * width + x.to(OFFSET)
    return n * height * width * channels + inside
