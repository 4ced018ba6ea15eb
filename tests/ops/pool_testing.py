"""What the tests of the pool share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import _backend

native_only = pytest.mark.skipif(_backend.native_error is not None, reason="the native library is not built")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
PYRAMID = [(53, 53), (45, 45), (38, 38), (32, 32)]
CASES = [
    (2, 28, 64, 64, PYRAMID),
    (2, 14, 16, 32, [(13, 27), (8, 16)]),
    (3, 7, 9, 13, [(1, 1), (8, 12), (5, 3)]),
    (1, 3, 2, 2, [(1, 1)]),
    (2, 1, 11, 7, [(5, 5), (10, 1)]),
    (1, 33, 63, 17, [(62, 16), (31, 2)]),
    (1, 2, 100, 3, [(99, 2), (50, 2), (3, 1)]),
]


def pool(x: Tensor, sizes: Sequence[tuple[int, int]], samples: Tensor, **options: object) -> list[Tensor]:
    return ops.fractional_max_pool_pyramid(x, sizes, samples, **options)


def raw(x: Tensor, sizes: Sequence[tuple[int, int]], samples: Tensor) -> tuple[list[Tensor], Tensor]:
    flat = [side for size in sizes for side in size]
    return torch.ops.pyranet_fast.fractional_max_pool_pyramid(x, samples, flat, None, None, False, True)


def starts(samples: Tensor, size: int, out: int) -> Tensor:
    """(..., out) window starts: the formula, written with tensors."""
    alpha = (torch.tensor(size - 2, dtype=samples.dtype) / max(out - 1, 1)).to(samples.dtype)
    u = samples.unsqueeze(-1)
    first = ((torch.arange(out, dtype=samples.dtype) + u) * alpha).int() - (u * alpha).int()
    first[..., -1] = size - 2
    return first.long()


def with_ties(n: int, c: int, h: int, w: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Few distinct values, so that most windows hold ties."""
    torch.manual_seed(h * w + c)
    return torch.randint(-2, 3, (n, c, h, w)).to(dtype).contiguous(memory_format=layout)
