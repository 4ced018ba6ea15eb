"""The CUDA kernels of batch_norm_relu, run by the emulator, against PyTorch's batch norm in double."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.emulator.emulation import DTYPES, draw, name_of, to_numpy, to_torch, ways, wide_of

WAYS = ways()
LAYOUTS = ("contiguous", "channels_last", "channels_last_off")
# The model's channels and odd ones, more than a group of a block, one pixel a sample, several parts, one channel
SHAPES = [(2, 28, 9, 11), (4, 7, 5, 3), (1, 200, 6, 5), (6, 130, 1, 1), (3, 3, 40, 41), (2, 1, 64, 64), (40, 8, 4, 9)]
EPS, MOMENTUM = 1e-5, 0.3
# As the CPU's tests: one rounding of the result for the 16-bit types, sums in float32 for the rest.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def exact(x: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None) -> list[Tensor]:
    """y, its gradients and the moved averages, in double."""
    leaves = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias)]
    mean, var = torch.zeros(x.shape[1]).double(), torch.ones(x.shape[1]).double()
    assert leaves[0] is not None
    y = F.relu(F.batch_norm(leaves[0], mean, var, leaves[1], leaves[2], True, MOMENTUM, EPS))
    y.backward(grad.double())
    gradients = [torch.empty(0) if t is None or t.grad is None else t.grad for t in leaves]
    return [y.detach(), *gradients, mean, var]


def emulated(
    emulator: ModuleType, x: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None, how: dict[str, Any]
) -> list[np.ndarray]:
    """The same by the kernels, without gradients of what is None; then the mean and the variance of the batch."""
    name, wide = name_of(x.dtype), wide_of(x.dtype)
    vectors = [None if v is None else to_numpy(v.to(wide)) for v in (weight, bias)]
    zeros, ones = torch.zeros(x.shape[1], dtype=wide), torch.ones(x.shape[1], dtype=wide)
    averages = (to_numpy(zeros), to_numpy(ones), np.array([3], dtype=np.int64), MOMENTUM)
    y, mean, var, moved = emulator.batch_norm_relu(name, to_numpy(x), *vectors, EPS, averages, how)
    assert moved[2] == 4
    gradients = emulator.batch_norm_relu_backward(name, to_numpy(grad), to_numpy(x), *vectors, mean, var, EPS, how)
    alone = emulator.batch_norm_relu(name, to_numpy(x), *vectors, EPS, None, how)
    np.testing.assert_array_equal(alone[0], y)
    assert alone[3] == []
    *later, batches = emulator.batch_norm_update(name, *averages[:3], mean, var, MOMENTUM, x.numel() // x.shape[1], how)
    for a, b in zip(later, moved[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert batches == 4
    return [y, *gradients, *moved[:2], mean, var]


def check(emulator: ModuleType, x: Tensor, grad: Tensor, layout: str, affine: bool = True) -> None:
    how = {**next(WAYS), "layout": layout}
    weight, bias = (draw(x.shape[1:2], torch.float32, s) if affine else None for s in (1, 2))
    got = emulated(emulator, x, grad, weight, bias, how)
    other = {**how, "seed": 77, "order": "backward"}
    for one, two in zip(got, emulated(emulator, x, grad, weight, bias, other), strict=True):
        np.testing.assert_array_equal(one, two, "two orders of blocks and threads, other bits")
    expected = exact(x, grad, weight, bias)
    names = ("y", "grad_x", "grad_weight", "grad_bias", "running_mean", "running_var")
    for name, a, b in zip(names, got, expected, strict=False):
        if b.numel() == 0:
            continue
        kind = x.dtype if name in ("y", "grad_x") else wide_of(x.dtype)
        rounding = ROUNDING[x.dtype] if kind == x.dtype else 2e-5
        torch.testing.assert_close(
            to_torch(a, kind).double(), b, rtol=2 * rounding, atol=2 * rounding * b.abs().max().item(), msg=name
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_batch_norm_in_double(
    emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str
) -> None:
    x = (draw(shape, torch.float64, 0) * 3 + 20).to(dtype)
    check(emulator, x, draw(shape, dtype, 1), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_weight_and_bias(emulator: ModuleType, layout: str) -> None:
    check(emulator, draw((3, 12, 6, 7), torch.float32, 0), draw((3, 12, 6, 7), torch.float32, 1), layout, False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("threads, blocks", [(256, 1), (64, 3), (128, 1 << 30)])
def test_one_block_takes_on_every_task(emulator: ModuleType, layout: str, threads: int, blocks: int) -> None:
    x, grad = draw((5, 36, 12, 13), torch.bfloat16, 0), draw((5, 36, 12, 13), torch.bfloat16, 1)
    weight, bias = draw((36,), torch.float32, 1), draw((36,), torch.float32, 2)
    expected = exact(x, grad, weight, bias)
    for seed in range(3):
        how = {"layout": layout, "threads": threads, "blocks": blocks, "seed": seed}
        y, grad_x, *_ = emulated(emulator, x, grad, weight, bias, how)
        for a, b in ((y, expected[0]), (grad_x, expected[1])):
            torch.testing.assert_close(to_torch(a, torch.bfloat16).double(), b, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("outlier", [None, 1e4], ids=["a large mean", "an outlier first"])
def test_nothing_drowns_the_variance(emulator: ModuleType, layout: str, outlier: float | None) -> None:
    x = draw((4, 5, 32, 32), torch.float32, 0) + (3000 if outlier is None else 0)
    if outlier is not None:
        x[0, :, 0, 0] = outlier
    _, mean, var, _ = emulator.batch_norm_relu("float32", to_numpy(x), None, None, EPS, None, {"layout": layout})
    expected_var, expected_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(torch.from_numpy(var).double(), expected_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.from_numpy(mean).double(), expected_mean, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_infinity_spread_as_in_batch_norm(emulator: ModuleType, layout: str) -> None:
    x = draw((2, 3, 4, 4), torch.float32, 0)
    x[0, 0, 1, 1], x[1, 1, 0, 0] = torch.nan, torch.inf
    y = to_torch(
        emulator.batch_norm_relu("float32", to_numpy(x), None, None, EPS, None, {"layout": layout})[0], torch.float32
    )
    assert y[:, 0].isnan().all() and y[:, 1].isnan().any() and y[:, 2].isfinite().all()
