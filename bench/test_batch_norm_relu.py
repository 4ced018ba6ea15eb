"""Training batch norm and ReLU in one operator against nn.BatchNorm2d and an in-place ReLU, in the same run.

`python -m pytest bench/test_batch_norm_relu.py -s` prints, for every case, our time, the native times (contiguous /
channels_last, eager) and our ratio to the better one, the median over paired rounds. Two threads.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.paired import LAYOUTS, compare, described, moved
from pyranet_fast.nn import BatchNormReLU


@pytest.mark.parametrize("shape", ((4, 256, 64, 64), (16, 128, 32, 32), (16, 28, 64, 64)), ids=str)
@pytest.mark.parametrize("backward", (False, True), ids=("forward", "forward+backward"))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("fp32", "bf16"))
def test_against_native(
    benchmark: Any, dtype: torch.dtype, layout: str, backward: bool, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator).to(dtype)
    upstream = torch.randn(shape, generator=generator).to(dtype)
    maps = {name: values.contiguous(memory_format=form).requires_grad_(backward) for name, form in LAYOUTS.items()}
    grads = {name: upstream.contiguous(memory_format=form) for name, form in LAYOUTS.items()}
    ours, native = BatchNormReLU(shape[1]), nn.BatchNorm2d(shape[1])

    def step(name: str, fused: bool) -> Tensor:
        x = maps[name]
        y = ours(x) if fused else F.relu(native(x), inplace=True)
        return torch.autograd.grad(y, x, grads[name])[0] if backward else y

    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(step(layout, True), step("contiguous", False), rtol=tolerance, atol=tolerance)
    natives = {name: lambda name=name: step(name, False) for name in LAYOUTS}
    case = described("batch_norm_relu", shape, dtype, layout, backward)
    # forward: x in, y out; backward: gradient and x in, gradient out
    compare(benchmark, lambda: step(layout, True), natives, case=case, size=moved(values) * (5 if backward else 2))
