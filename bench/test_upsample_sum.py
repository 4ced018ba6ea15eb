"""upsample_sum against PyTorch's interpolate, one call and one addition a level, in the same run.

`python -m pytest bench/test_upsample_sum.py -s` prints, for every case, our time, the time of the native forms
(contiguous / channels_last, eager) and our ratio to the better one: the median over rounds in which the three run
one after another, so that whatever else the machine does falls on all. Two threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bench.paired import LAYOUTS, compare, described
from pyranet_fast import ops

CHANNELS, SIDE, SIZES = 28, 64, [53, 45, 38, 32]


def make(batch: int, dtype: torch.dtype, layout: str, backward: bool, ours: bool) -> Callable[[], list[torch.Tensor]]:
    """One step: forward, and the gradients of the maps where asked for."""
    generator = torch.Generator().manual_seed(0)

    def draw(side: int) -> torch.Tensor:
        values = torch.randn((batch, CHANNELS, side, side), generator=generator).to(dtype)
        return values.contiguous(memory_format=LAYOUTS[layout])

    maps = [draw(size).requires_grad_(backward) for size in SIZES]
    grad = draw(SIDE)

    def step() -> list[torch.Tensor]:
        if ours:
            out = ops.upsample_sum(maps, (SIDE, SIDE))
        else:
            ups = [F.interpolate(m, size=(SIDE, SIDE), mode="bilinear", align_corners=True) for m in maps]
            out = ups[0] + ups[1] + ups[2] + ups[3]
        return list(torch.autograd.grad(out, maps, grad)) if backward else [out]

    return step


@pytest.mark.parametrize("batch", (4, 16))
@pytest.mark.parametrize("backward", (False, True), ids=("forward", "forward+backward"))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("fp32", "bf16"))
def test_against_native(benchmark: Any, dtype: torch.dtype, layout: str, backward: bool, batch: int) -> None:
    steps = [make(batch, dtype, layout, backward, ours=True)]
    steps += [make(batch, dtype, form, backward, ours=False) for form in LAYOUTS]
    # Parity first; native bfloat16 rounds after every addition.
    tolerance = 1e-5 if dtype == torch.float32 else 6e-2
    for a, b in zip(steps[0](), steps[1](), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    case = described("upsample_sum", (batch, CHANNELS, SIDE, SIDE), dtype, layout, backward)
    pixels = batch * CHANNELS * (SIDE**2 + sum(size**2 for size in SIZES))  # in and out, and the gradients the same
    size = pixels * dtype.itemsize * (2 if backward else 1)
    compare(benchmark, steps[0], dict(zip(LAYOUTS, steps[1:], strict=True)), case=case, size=size)
