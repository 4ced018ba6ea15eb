"""How the emulator's tests run kernels, and tensors as its module takes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "padded", "channels_last_off", "channels_of_more")
_NARROW = (torch.bfloat16, torch.float16)

# Of heat maps. "turned": the columns of a map lie a row apart; "repeated": all samples are the first one, at stride 0.
HEATMAP_LAYOUTS = ("contiguous", "channels_last", "padded", "turned", "repeated")
# N, K, H, W: the model's joints, packs of every width and none, starts and ends off 16 bytes, a side of 1, maps that
# need a warp, several warps, several turns of a loop
HEATMAP_CASES = (
    (2, 16, 8, 8),
    (2, 14, 5, 6),
    (3, 5, 7, 9),
    (2, 1, 17, 13),
    (1, 3, 1, 1),
    (2, 4, 1, 70),
    (1, 17, 33, 1),
    (1, 2, 64, 64),
    (1, 33, 3, 2),
)


def ways() -> Iterator[dict[str, Any]]:
    """Settings to run a kernel with, for ever: every side, order, block size, number of blocks, size of offsets, and
    strips as large and as small as they get, come soon."""
    some = itertools.product(("end", "start"), ("shuffled", "forward", "backward"), (256, 64, 128), (1 << 30, 2))
    for seed, (side, order, threads, blocks) in enumerate(itertools.cycle(some)):
        how = {"side": side, "order": order, "threads": threads, "blocks": blocks, "seed": seed}
        yield {**how, "wide": seed % 5 == 4, "fill": int(seed % 7 < 4)}


def to_numpy(x: Tensor) -> np.ndarray:
    """bfloat16 and float16 by their bits."""
    x = x.detach().contiguous()
    return x.view(torch.uint16).numpy() if x.dtype in _NARROW else x.numpy()


def to_torch(x: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The other way round."""
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor.view(dtype) if dtype in _NARROW else tensor


def name_of(dtype: torch.dtype) -> str:
    """A dtype as the module knows it."""
    return str(dtype).removeprefix("torch.")


def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Normally distributed values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def wide_of(dtype: torch.dtype) -> torch.dtype:
    """What the kernels form sums in."""
    return torch.promote_types(dtype, torch.float32)


def as_laid(x: Tensor, layout: str) -> Tensor:
    """The values that the kernel sees."""
    return x[:1].expand_as(x) if layout == "repeated" else x


def draw_joints(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Joints (N, K, 2), some of them off the maps of a shape (N, K, h, w), and weights (N, K), in double."""
    n, k, h, w = shape
    generator = torch.Generator().manual_seed(4)
    joints = torch.rand(n, k, 2, generator=generator, dtype=torch.float64) * torch.tensor([w + 4.0, h + 4.0]) - 2
    weight = torch.rand(n, k, generator=generator, dtype=torch.float64) + 0.1
    return joints, weight
