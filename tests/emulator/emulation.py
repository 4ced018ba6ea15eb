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


def ways() -> Iterator[dict[str, Any]]:
    """Settings to run a kernel with, for ever: every side, order, block size and number of blocks comes soon."""
    some = itertools.product(("end", "start"), ("shuffled", "forward", "backward"), (256, 64, 128), (1 << 30, 2))
    for seed, (side, order, threads, blocks) in enumerate(itertools.cycle(some)):
        yield {"side": side, "order": order, "threads": threads, "blocks": blocks, "seed": seed}


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
