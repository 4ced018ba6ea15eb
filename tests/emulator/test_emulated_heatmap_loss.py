"""The CUDA kernels of heatmap_loss, run by the emulator, against the reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyranet_fast.ops import reference
from tests.emulator.emulation import (
    DTYPES,
    HEATMAP_CASES,
    HEATMAP_LAYOUTS,
    as_laid,
    draw,
    draw_joints,
    name_of,
    to_numpy,
    to_torch,
    ways,
    wide_of,
)
from tests.ops.testing import TOLERANCES

WAYS = ways()
INF, NAN = float("inf"), float("nan")


def check_loss(
    emulator: ModuleType, pred: Tensor, joints: Tensor, weight: Tensor, layout: str, settings: dict[str, Any]
) -> None:
    """Loss and gradient against sums in double; the same bits in another order."""
    dtype, wide = pred.dtype, wide_of(pred.dtype)
    how = {**next(WAYS), "layout": layout, **settings}
    other = {**how, "order": "shuffled", "seed": 99}
    arrays = (to_numpy(pred), to_numpy(joints.to(wide)), to_numpy(weight.to(wide)), 1.3)
    exact = as_laid(pred, layout).double().clone().requires_grad_()
    expected = reference.heatmap_loss(exact, joints.to(wide).double(), weight.to(wide).double(), 1.3)
    loss = emulator.heatmap_loss(name_of(dtype), *arrays, how)
    assert loss == emulator.heatmap_loss(name_of(dtype), *arrays, other), "two orders of blocks and threads, other bits"
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    assert loss == pytest.approx(expected.item(), rel=tolerance, abs=1e-30)

    (expected * 3).backward()
    assert exact.grad is not None
    three = to_numpy(torch.tensor([3.0], dtype=wide))
    grad = emulator.heatmap_loss_backward(name_of(dtype), three, *arrays, how)
    np.testing.assert_array_equal(grad, emulator.heatmap_loss_backward(name_of(dtype), three, *arrays, other))
    got, scale = to_torch(grad, dtype), exact.grad.abs().max().item()
    rtol = TOLERANCES[dtype][0]
    if dtype == torch.float16:
        scale = max(scale, 0.1)  # units of 2^-24 below that
    torch.testing.assert_close(got.double(), exact.grad, rtol=rtol, atol=min(rtol, 1e-6) * scale)
    assert not got[(weight == 0)].any()


def loss_example(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return draw(shape, dtype, 3), *draw_joints(shape)


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", HEATMAP_CASES, ids=str)
def test_loss_and_its_gradient(emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    check_loss(emulator, *loss_example(shape, dtype), layout, {})


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 16, 4, 8), (3, 3, 7, 5)], ids=str)
def test_maps_of_weight_zero_take_no_part(
    emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str
) -> None:
    pred, joints, weight = loss_example(shape, dtype)
    weight[0, 1] = weight[2, 2] = weight[1] = 0
    if layout != "repeated":  # there the values are those of a map that counts
        pred[0, 1], pred[2, 2, 0, 0], pred[1] = NAN, INF, -INF
    joints[0, 1], joints[2, 2] = NAN, INF
    check_loss(emulator, pred, joints, weight, layout, {})


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
def test_a_map_that_counts_spoils_the_loss_and_its_own_gradient_alone(emulator: ModuleType, layout: str) -> None:
    pred, joints, weight = loss_example((1, 4, 3, 4), torch.float32)
    pred[0, 1, 2, 3], weight[0, 2] = NAN, 0
    arrays = (to_numpy(pred), to_numpy(joints.float()), to_numpy(weight.float()), 1.0)
    how = {**next(WAYS), "layout": layout}
    assert np.isnan(emulator.heatmap_loss("float32", *arrays, how))
    grad = emulator.heatmap_loss_backward("float32", np.ones(1, np.float32), *arrays, how)
    assert np.isnan(grad).nonzero()[0].size == 1 and np.isnan(grad[0, 1, 2, 3]) and not grad[0, 2].any()


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
def test_a_weight_that_is_nan_makes_the_loss_and_counted_gradients_nan(emulator: ModuleType, layout: str) -> None:
    pred, joints, weight = loss_example((2, 3, 7, 5), torch.float32)
    weight[:] = torch.tensor([[NAN, 1, 0], [1, 0, 1]])
    joints, weight = joints.float(), weight.float()
    arrays, how = (*map(to_numpy, (pred, joints, weight)), 1.3), {**next(WAYS), "layout": layout}
    assert np.isnan(emulator.heatmap_loss("float32", *arrays, how))
    grad = to_torch(emulator.heatmap_loss_backward("float32", np.ones(1, np.float32), *arrays, how), torch.float32)
    expected = reference.heatmap_loss_backward(torch.ones(()), pred, joints, weight, 1.3)
    assert torch.equal(grad.isnan(), expected.isnan()) and expected.isnan().any() and not expected.isnan().all()


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
def test_nothing_to_learn_is_zero(emulator: ModuleType, layout: str) -> None:
    arrays = (np.full((2, 4, 3, 4), NAN, np.float32), np.full((2, 4, 2), NAN, np.float32), np.zeros((2, 4), np.float32))
    how = {**next(WAYS), "layout": layout}
    assert emulator.heatmap_loss("float32", *arrays, 1.0, how) == 0
    grad = emulator.heatmap_loss_backward("float32", np.ones(1, np.float32), *arrays, 1.0, how)
    assert (grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "turned"])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 2, 1, 6200), id="tables of one map are too large"),
        pytest.param((1, 64, 2, 100), id="tables of fewer channels fit"),
    ],
)
def test_large_tables(emulator: ModuleType, shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    check_loss(emulator, *loss_example(shape, dtype), layout, {})


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "padded"])
def test_more_maps_than_blocks(emulator: ModuleType, layout: str) -> None:
    pred, joints, weight = loss_example((300, 2, 5, 4), torch.float32)
    check_loss(emulator, pred, joints, weight.sub(0.2).relu(), layout, {"threads": 32})
