"""The pool against PyTorch's fractional_max_pool2d, one call a level, in the same run.

`python -m pytest bench/test_fractional_max_pool_pyramid.py -s` prints, for every case, our time, the time of
the native forms (contiguous / channels_last, eager) and our ratio to the better one: the median over rounds
in which the three run one after another, so that whatever else the machine does falls on all. Two threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pyranet_fast import ops

CHANNELS, SIDE, SIZES = 28, 64, [53, 45, 38, 32]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ROUNDS = 30


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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


def milliseconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


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
    for step in steps:
        step()
    times = [[milliseconds(step) for step in steps] for _ in range(ROUNDS)]
    ours_ms, *native_ms = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(min(native) / ours for ours, *native in times)
    benchmark.extra_info.update(
        ratio=round(ratio, 2), ours_ms=round(ours_ms, 3), native_ms=dict(zip(LAYOUTS, native_ms, strict=True))
    )
    benchmark.pedantic(steps[0], rounds=ROUNDS, warmup_rounds=1)
    print(f"\nours {ours_ms:.3f} ms, native {native_ms[0]:.2f} / {native_ms[1]:.2f} ms, ratio {ratio:.1f}")
