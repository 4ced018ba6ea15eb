"""Sizes and random windows of the pyramid's levels (paper section 3.2, equation 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

POOL_WINDOWS = ("channel", "sample", "batch")


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """(h, w) of every level c = 1 ... C of an input (H, W): floor(in * 2^(-c/C)), exactly in // 2 for c = C.

    A level is at least 1 and at most in - 1, so that there is room for 2x2 windows.

    Raises:
        ValueError: height or width is below 2.
    """
    h, w = size
    if h < 2 or w < 2:
        raise ValueError(f"the input of a pyramid is ({h}, {w}) pixels; height and width of at least 2 are accepted")

    def pooled(full: int, level: int) -> int:
        # In double 2^(-C/C) can fall below one half when made by repeated products: the last is an integer.
        if level == levels:
            return full // 2
        return max(1, min(full - 1, math.floor(full * 2.0 ** (-level / levels))))

    return [(pooled(h, c), pooled(w, c)) for c in range(1, levels + 1)]


def draw_samples(x: Tensor, levels: int, windows: str, training: bool, channels: int | None = None) -> Tensor:
    """Window offsets u for one pyramid: (L, N or 1, C or 1, 2) in [0, 1), float32.

    In training they come from PyTorch's default generator of ``x``'s device, so a seed repeats them; one draw
    for each channel of each sample (``windows="channel"``, the paper), each sample (``"sample"``) or the
    whole batch (``"batch"``). ``channels`` is the number of channels that are pooled; None: those of ``x``. In
    evaluation and export u = 0.5 everywhere, so predictions repeat.
    """
    if not training:
        return torch.full((levels, 1, 1, 2), 0.5, dtype=torch.float32, device=x.device)
    n = 1 if windows == "batch" else x.shape[0]
    c = (channels or x.shape[1]) if windows == "channel" else 1
    return torch.rand(levels, n, c, 2, dtype=torch.float32, device=x.device)
