"""The CUDA kernels of heatmap_argmax, heatmap_loss and gaussian_heatmaps, in the emulator against the reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from emulation import DTYPES, name_of, to_numpy, to_torch, ways
from torch import Tensor

from pyranet_fast.ops import reference
from tests.ops.testing import TOLERANCES, assert_close

WAYS = ways()
# "turned": the columns of a map lie a row apart; "repeated": all samples are the first one, at stride 0.
LAYOUTS = ("contiguous", "channels_last", "padded", "turned", "repeated")
# N, K, H, W: the model's joints, packs of every width and none, starts and ends off 16 bytes, a side of 1, maps that
# need a warp, several warps, several turns of a loop
CASES = [
    (2, 16, 8, 8),
    (2, 14, 5, 6),
    (3, 5, 7, 9),
    (2, 1, 17, 13),
    (1, 3, 1, 1),
    (2, 4, 1, 70),
    (1, 17, 33, 1),
    (1, 2, 64, 64),
    (1, 33, 3, 2),
]
INF, NAN = float("inf"), float("nan")


def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def wide_of(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def as_laid(x: Tensor, layout: str) -> Tensor:
    """The values that the kernel sees."""
    return x[:1].expand_as(x) if layout == "repeated" else x


def exactly(actual: np.ndarray, expected: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(to_torch(actual, dtype), expected, rtol=0, atol=0, equal_nan=True)


def check_argmax(emulator: ModuleType, maps: Tensor, layout: str, settings: dict[str, Any] | None = None) -> None:
    """Position, refined position, index and value, all exact."""
    w = maps.shape[3]
    laid = as_laid(maps, layout)
    place, values = reference.heatmap_argmax(laid)
    for quarter in (False, True):
        how = {**next(WAYS), "layout": layout, **(settings or {})}
        coords, scores, indices = emulator.heatmap_argmax(name_of(maps.dtype), to_numpy(maps), quarter, how)
        exactly(coords, reference.heatmap_argmax(laid, quarter)[0], torch.float32)
        exactly(scores, values, maps.dtype)
        exactly(indices, (place[..., 1] * w + place[..., 0]).long(), torch.int64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_argmax_with_ties(emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    check_argmax(emulator, draw(shape, dtype, 0).mul(2).round(), layout)  # whole numbers: many ties


def spoilt_maps(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Maps of special values, everywhere a thread may begin or end."""
    maps = draw(shape, dtype, 0)
    flat = maps.flatten(2)
    last = flat.shape[2] - 1
    flat[0, 0] = -INF  # the first of all
    flat[0, 1] = NAN
    flat[0, 2, last] = NAN  # beats the infinities before it
    flat[0, 2, :last] = INF
    flat[1, 0, :] = -INF
    flat[1, 0, last] = -3e4  # the only number
    flat[1, 1, last // 2 :: 3] = NAN  # the first of several
    flat[1, 2, 1:] = 0.0
    flat[1, 2, 0] = -0.0  # equal to 0
    return maps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 6, 35), (2, 16, 4, 5), (2, 4, 2, 1)], ids=str)
def test_nan_wins_and_infinities_are_numbers(
    emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str
) -> None:
    check_argmax(emulator, spoilt_maps(shape, dtype), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_maximum_at_every_pixel(emulator: ModuleType, layout: str) -> None:
    n = 85
    maps = torch.zeros(n, 1, 5, 17)
    maps.flatten(1)[torch.arange(n), torch.arange(n)] = 1  # whoever looks at a pixel must tell of it
    check_argmax(emulator, maps, layout)
    check_argmax(emulator, maps.transpose(0, 1), layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mirrored_layout", ["contiguous", "channels_last", "padded"])
@pytest.mark.parametrize("shape", [(2, 16, 6, 5), (2, 3, 9, 20), (1, 1, 1, 1), (2, 7, 1, 4)], ids=str)
def test_mean_with_mirrored_maps(
    emulator: ModuleType, shape: tuple[int, ...], layout: str, mirrored_layout: str, dtype: torch.dtype
) -> None:
    maps, mirrored = (draw(shape, dtype, seed).mul(2).round() for seed in (0, 1))
    maps.flatten(2)[0, 0, -1], mirrored.flatten(2)[-1, 0, 0] = INF, NAN
    swap = torch.randperm(shape[1], generator=torch.Generator().manual_seed(2))
    mean = reference.mirrored_mean(as_laid(maps, layout), mirrored, swap)
    for quarter in (False, True):
        how = {**next(WAYS), "layout": layout, "mirrored_layout": mirrored_layout}
        coords, scores = emulator.heatmap_argmax_mirrored(
            name_of(dtype), to_numpy(maps), to_numpy(mirrored), swap.numpy(), quarter, how
        )
        expected = reference.heatmap_argmax(mean, quarter)
        exactly(coords, expected[0], torch.float32)
        exactly(scores, expected[1], wide_of(dtype))


@pytest.mark.parametrize("side", ["start", "end"])
def test_a_joint_that_does_not_exist_gives_nan(emulator: ModuleType, side: str) -> None:
    maps, swap = to_numpy(draw((2, 3, 4, 4), torch.float32, 0)), np.array([0, 3, -1])
    coords, scores = emulator.heatmap_argmax_mirrored("float32", maps, maps, swap, True, {"side": side})
    assert np.isfinite(scores[:, 0]).all() and np.isnan(scores[:, 1:]).all() and (coords[:, 1:] == 0).all()


@pytest.mark.parametrize("layout", ["contiguous", "padded"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_gradient_of_the_score(emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    n, k, h, w = shape
    scores = draw((n, k), dtype, 0)
    index = torch.randint(h * w, (n, k), generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(n, k, h * w, dtype=dtype).scatter(2, index[..., None], scores[..., None]).view(shape)
    how = {**next(WAYS), "layout": layout}
    grad = emulator.heatmap_argmax_backward(name_of(dtype), to_numpy(scores), index.numpy(), h, w, how)
    exactly(grad, expected, dtype)
    outside = torch.where(index % 2 == 0, h * w, -1)  # an error that a kernel cannot raise: nothing is written there
    grad = emulator.heatmap_argmax_backward(name_of(dtype), to_numpy(scores), outside.numpy(), h, w, how)
    exactly(grad, torch.zeros(shape, dtype=dtype), dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "padded"])
def test_more_maps_than_blocks(emulator: ModuleType, layout: str) -> None:
    """Blocks that go on to other maps, of every kernel; tests' small blocks are fewer, too."""
    shape, how = (300, 2, 5, 4), {"threads": 32, "layout": layout}
    maps = draw(shape, torch.float32, 0)
    check_argmax(emulator, maps, layout, {"threads": 32})
    place, scores = reference.heatmap_argmax(maps)
    index = (place[..., 1] * 4 + place[..., 0]).long()
    grad = emulator.heatmap_argmax_backward("float32", to_numpy(scores), index.numpy(), 5, 4, {**next(WAYS), **how})
    exactly(grad, torch.zeros(300, 2, 20).scatter(2, index[..., None], scores[..., None]).view(shape), torch.float32)
    _, joints, weight = loss_example(shape, torch.float32)
    joints, weight = joints.float(), weight.float().sub(0.2).relu()
    check_loss(emulator, maps, joints, weight, layout, how)
    check_gaussians(emulator, joints, weight, (5, 4), how)


def test_more_maps_of_several_warps_than_blocks(emulator: ModuleType) -> None:
    check_argmax(emulator, draw((520, 1, 20, 27), torch.float32, 0), "contiguous", {"threads": 64})


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
    n, k, h, w = shape
    generator = torch.Generator().manual_seed(4)
    joints = torch.rand(n, k, 2, generator=generator, dtype=torch.float64) * torch.tensor([w + 4.0, h + 4.0]) - 2
    weight = torch.rand(n, k, generator=generator, dtype=torch.float64) + 0.1
    return draw(shape, dtype, 3), joints, weight


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_loss_and_its_gradient(emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    check_loss(emulator, *loss_example(shape, dtype), layout, {})


@pytest.mark.parametrize("layout", LAYOUTS)
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_map_that_counts_spoils_the_loss_and_its_own_gradient_alone(emulator: ModuleType, layout: str) -> None:
    pred, joints, weight = loss_example((1, 4, 3, 4), torch.float32)
    pred[0, 1, 2, 3], weight[0, 2] = NAN, 0
    arrays = (to_numpy(pred), to_numpy(joints.float()), to_numpy(weight.float()), 1.0)
    how = {**next(WAYS), "layout": layout}
    assert np.isnan(emulator.heatmap_loss("float32", *arrays, how))
    grad = emulator.heatmap_loss_backward("float32", np.ones(1, np.float32), *arrays, how)
    assert np.isnan(grad).nonzero()[0].size == 1 and np.isnan(grad[0, 1, 2, 3]) and not grad[0, 2].any()


@pytest.mark.parametrize("layout", LAYOUTS)
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


def check_gaussians(
    emulator: ModuleType, joints: Tensor, weight: Tensor, size: tuple[int, int], settings: dict[str, Any]
) -> None:
    how = {**next(WAYS), **settings}
    dtype = joints.dtype
    got = to_torch(
        emulator.gaussian_heatmaps(name_of(dtype), to_numpy(joints), to_numpy(weight), *size, 1.7, how), dtype
    )
    assert_close(got, reference.gaussian_heatmaps(joints, weight, size, 1.7))
    assert not got[weight == 0].any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "padded"])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 5), (64, 48), (2, 1), (130, 8), (1, 6300)], ids=str)
def test_gaussians(
    emulator: ModuleType, size: tuple[int, int], dtype: torch.dtype, weight_dtype: torch.dtype, layout: str
) -> None:
    _, joints, weight = loss_example((2, 3, *size), dtype)
    joints[1, 1], weight[1, 1] = NAN, 0  # nobody knows where
    weight[0, 2] = 0
    check_gaussians(emulator, joints.to(dtype), weight.to(weight_dtype), size, {"layout": layout})
