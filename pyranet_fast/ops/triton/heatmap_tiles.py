"""What the heat-map kernels share: their tiles and the Gaussian of one axis.

A tile is ROWS x COLUMNS pixels of CHANNELS maps. Maps whose channels lie beside each other in memory (channels_last)
are read several at a time.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .tiles import power_of_two


class Tile(NamedTuple):
    """What a program works on at a time; all are powers of two."""

    rows: int
    columns: int
    channels: int

    @classmethod
    def of(cls, height: int, width: int, channels: int = 1, elements: int = 2048) -> Tile:
        """A tile of at most ``elements`` elements, as wide as the map where that fits."""
        columns = min(power_of_two(width), elements // channels)
        return cls(min(power_of_two(height), elements // channels // columns), columns, channels)

    def row_tiles(self, height: int) -> int:
        """Tiles below each other that cover a map."""
        return -(-height // self.rows)

    def groups(self, channels: int) -> int:
        """Programs side by side along the channels."""
        return -(-channels // self.channels)

    def options(self, elements: int = 16) -> dict[str, Any]:
        """The tile as a kernel's arguments, and the warps for it: that many elements a thread."""
        warps = max(1, min(16, self.rows * self.columns * self.channels // (32 * elements)))
        return {"ROWS": self.rows, "COLUMNS": self.columns, "CHANNELS": self.channels, "num_warps": warps}


def channel_group(maps: Tensor) -> int:
    """How many of (N, K, H, W) maps a program reads together: 32 bytes of neighbors, what memory delivers at least."""
    beside = 0 < maps.stride(1) < maps.stride(3)
    return min(power_of_two(maps.shape[1]), 32 // maps.element_size()) if beside else 1


def offset_dtype(*maps: Tensor) -> tl.dtype:
    """The integer type that holds every offset inside one of the (N, K, H, W) maps, and its number of pixels."""
    last = max(
        max(x.shape[2] * x.shape[3], (x.shape[2] - 1) * x.stride(2) + (x.shape[3] - 1) * x.stride(3)) for x in maps
    )
    return tl.int32 if last < 2**31 else tl.int64


@triton.jit
def gaussian(center, at, two_sigma_squared):
    """exp(-(at - center)^2 / two_sigma_squared), in the center's dtype."""
    d = at.to(center.dtype) - center
    # full() and not a cast, which rounds a number to float32 first: the interpreter hands over a number.
    return tl.exp(-(d * d) / tl.full([], two_sigma_squared, d.dtype))
