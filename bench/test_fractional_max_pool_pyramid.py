"""The pool against PyTorch's fractional_max_pool2d, one call a level, in the same run.

`python -m pytest bench/test_fractional_max_pool_pyramid.py -s` prints, for every case, our time, the time of
the native forms (contiguous / channels_last, eager) and our ratio to the better one: the median over rounds
in which the three run one after another, so that whatever else the machine does falls on all. Two threads.
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


def make(
    batch: int, dtype: torch.dtype, layout: str, shared: bool, backward: bool, ours: bool
) -> Callable[[], list[torch.Tensor]]:
    """One step: forward, and the gradient of x where asked for."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator).to(dtype)
        return values.contiguous(memory_format=LAYOUTS[layout])

    x = draw(batch, CHANNELS, SIDE, SIDE).requires_grad_(backward)
    grads = [draw(batch, CHANNELS, size, size) for size in SIZES]
    samples = torch.rand(len(SIZES), batch, 1 if shared else CHANNELS, 2, generator=generator)
    native_samples = samples.expand(-1, -1, CHANNELS, -1).to(dtype).contiguous()

    def step() -> list[torch.Tensor]:
        if ours:
            values = ops.fractional_max_pool_pyramid(x, [(size, size) for size in SIZES], samples)
        else:
            values = [
                F.fractional_max_pool2d(x, 2, output_size=size, _random_samples=u)
                for size, u in zip(SIZES, native_samples, strict=True)
            ]
        return list(torch.autograd.grad(values, x, grads)) if backward else values

    return step


@pytest.mark.parametrize("batch", (4, 16))
@pytest.mark.parametrize("backward", (False, True), ids=("forward", "forward+backward"))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shared", (False, True), ids=("window-per-channel", "window-per-sample"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("fp32", "bf16"))
def test_against_native(
    benchmark: Any, dtype: torch.dtype, shared: bool, layout: str, backward: bool, batch: int
) -> None:
    steps = [make(batch, dtype, layout, shared, backward, ours=True)]
    steps += [make(batch, dtype, form, shared, backward, ours=False) for form in LAYOUTS]
    if dtype == torch.float32:  # parity first; windows of native bfloat16 differ
        ours, native = steps[0](), steps[1]()
        for a, b in zip(ours, native, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    case = described("fractional_max_pool_pyramid", (batch, CHANNELS, SIDE, SIDE), dtype, layout, backward)
    case["windows"] = "sample" if shared else "channel"
    pixels = batch * CHANNELS * (SIDE**2 + sum(size**2 for size in SIZES))  # in and out, and the gradients the same
    size = pixels * dtype.itemsize * (2 if backward else 1)
    compare(benchmark, steps[0], dict(zip(LAYOUTS, steps[1:], strict=True)), case=case, size=size)
