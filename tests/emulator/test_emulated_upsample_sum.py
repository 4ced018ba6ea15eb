"""The CUDA kernels of upsample_sum, run by the emulator, against the reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyranet_fast.ops import reference
from tests.emulator.emulation import DTYPES, LAYOUTS, draw, name_of, to_numpy, to_torch, ways
from tests.ops.testing import TOLERANCES, assert_close

WAYS = ways()
CASES = [  # channels, (H, W), levels: the model's channels, then identity, enlarging, shrinking, size 1 on either side
    (28, (12, 13), [(10, 11), (8, 9), (7, 7), (6, 6)]),
    (14, (8, 8), [(8, 8), (15, 7)]),
    (7, (17, 23), [(17, 23), (9, 40), (1, 1), (33, 5)]),
    (3, (1, 1), [(4, 5), (1, 1)]),
    (1, (37, 30), [(31, 26), (2, 1)]),
    (33, (4, 5), [(3, 3)]),
    (2, (40, 9), [(3, 3)] * 6),
]


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Positions in float32 are inexact by one part in 2^23 of the size, and with them the weights."""
    rtol, atol = TOLERANCES[dtype]
    inexact = 0 if dtype == torch.float64 else 2e-5 * expected.abs().max().item()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=max(atol, inexact, 1e-12))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(
    emulator: ModuleType, case: Any, dtype: torch.dtype, layout: str, align_corners: bool
) -> None:
    c, size, levels = case
    how = {**next(WAYS), "layout": layout}
    maps = [draw((2, c, *level), dtype, i) for i, level in enumerate(levels)]
    base, grad = draw((2, c, *size), dtype, 8), draw((2, c, *size), dtype, 9)
    arguments = (name_of(dtype), [to_numpy(m) for m in maps], *size, to_numpy(base), align_corners, None, None, False)
    out = emulator.upsample_sum(*arguments, how)
    leaves = [m.double().requires_grad_() for m in maps]
    expected = reference.upsample_sum(leaves, size, base.double(), align_corners)
    assert_near(to_torch(out, dtype), expected.detach(), dtype)
    np.testing.assert_array_equal(out, emulator.upsample_sum(*arguments, how | {"seed": 99, "order": "shuffled"}))

    expected.backward(grad.double())
    grads = emulator.upsample_sum_backward(name_of(dtype), to_numpy(grad), levels, align_corners, how)
    again = emulator.upsample_sum_backward(name_of(dtype), to_numpy(grad), levels, align_corners, how | {"seed": 99})
    for a, b, leaf in zip(grads, again, leaves, strict=True):
        assert leaf.grad is not None
        assert_near(to_torch(a, dtype), leaf.grad, dtype)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pixel_numbers_of_32_and_64_bits_give_the_same_bits(
    emulator: ModuleType, case: Any, dtype: torch.dtype, align_corners: bool
) -> None:
    c, size, levels = case
    maps = [to_numpy(draw((2, c, *level), dtype, i)) for i, level in enumerate(levels)]
    grad = to_numpy(draw((2, c, *size), dtype, 9))
    results = []
    for wide in (False, True):
        out = emulator.upsample_sum(name_of(dtype), maps, *size, None, align_corners, None, None, False, {"wide": wide})
        grads = emulator.upsample_sum_backward(name_of(dtype), grad, levels, align_corners, {"wide": wide})
        results.append([out, *grads])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("relu", [False, True])
def test_folded_batch_norm(emulator: ModuleType, dtype: torch.dtype, layout: str, relu: bool) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    maps = [draw((2, 14, 5, 6), dtype, 0), draw((2, 14, 4, 3), dtype, 1)]
    scale, shift = draw((14,), wide, 2), draw((14,), wide, 3)
    numpy_maps, vectors = [to_numpy(m) for m in maps], [to_numpy(scale), to_numpy(shift)]
    out = emulator.upsample_sum(
        name_of(dtype), numpy_maps, 7, 8, None, True, *vectors, relu, {**next(WAYS), "layout": layout}
    )
    expected = reference.upsample_sum([m.to(wide) for m in maps], (7, 8)) * scale.view(1, -1, 1, 1)
    expected = expected + shift.view(1, -1, 1, 1)
    assert_near(to_torch(out, dtype), expected.relu() if relu else expected, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("relu", [False, True])
def test_infinities_and_nan_stay_where_they_belong(emulator: ModuleType, layout: str, relu: bool) -> None:
    x = draw((1, 2, 4, 5), torch.float32, 0)
    x[0, 0, 1, 2], x[0, 1, 3, 4] = torch.inf, torch.nan
    out = to_torch(
        emulator.upsample_sum(
            "float32", [to_numpy(x)], 7, 9, None, True, None, None, relu, {**next(WAYS), "layout": layout}
        ),
        torch.float32,
    )
    # Every second output lies on a source pixel, and reads that one alone.
    assert torch.equal(out[0, :, ::2, ::2].isfinite(), x[0].isfinite())
    grad = torch.zeros(1, 1, 7, 9)
    grad[0, 0, 2, 4] = torch.inf  # on source pixel (1, 2)
    (back,) = emulator.upsample_sum_backward(
        "float32", to_numpy(grad), [(4, 5)], True, {**next(WAYS), "layout": layout}
    )
    expected = torch.zeros(1, 1, 4, 5)
    expected[0, 0, 1, 2] = torch.inf
    assert_close(to_torch(back, torch.float32), expected)


def test_without_base_and_a_single_map(emulator: ModuleType) -> None:
    x = draw((1, 28, 6, 6), torch.bfloat16, 0)
    out = emulator.upsample_sum(
        "bfloat16", [to_numpy(x)], 6, 6, None, True, None, None, False, {**next(WAYS), "layout": "channels_last"}
    )
    torch.testing.assert_close(to_torch(out, torch.bfloat16), x, rtol=0, atol=0)
