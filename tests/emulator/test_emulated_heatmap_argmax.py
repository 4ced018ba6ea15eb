"""The CUDA kernels of heatmap_argmax, run by the emulator, against the reference."""

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
    name_of,
    to_numpy,
    to_torch,
    ways,
    wide_of,
)

WAYS = ways()
INF, NAN = float("inf"), float("nan")


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


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", HEATMAP_CASES, ids=str)
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


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 6, 35), (2, 16, 4, 5), (2, 4, 2, 1)], ids=str)
def test_nan_wins_and_infinities_are_numbers(
    emulator: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str
) -> None:
    check_argmax(emulator, spoilt_maps(shape, dtype), layout)


@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
def test_a_maximum_at_every_pixel(emulator: ModuleType, layout: str) -> None:
    n = 85
    maps = torch.zeros(n, 1, 5, 17)
    maps.flatten(1)[torch.arange(n), torch.arange(n)] = 1  # whoever looks at a pixel must tell of it
    check_argmax(emulator, maps, layout)
    check_argmax(emulator, maps.transpose(0, 1), layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", HEATMAP_LAYOUTS)
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
@pytest.mark.parametrize("shape", HEATMAP_CASES, ids=str)
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
    """Blocks that go on to other maps; tests' small blocks are fewer, too."""
    shape, how = (300, 2, 5, 4), {"threads": 32, "layout": layout}
    maps = draw(shape, torch.float32, 0)
    check_argmax(emulator, maps, layout, {"threads": 32})
    place, scores = reference.heatmap_argmax(maps)
    index = (place[..., 1] * 4 + place[..., 0]).long()
    grad = emulator.heatmap_argmax_backward("float32", to_numpy(scores), index.numpy(), 5, 4, {**next(WAYS), **how})
    exactly(grad, torch.zeros(300, 2, 20).scatter(2, index[..., None], scores[..., None]).view(shape), torch.float32)


def test_more_maps_of_several_warps_than_blocks(emulator: ModuleType) -> None:
    check_argmax(emulator, draw((520, 1, 20, 27), torch.float32, 0), "contiguous", {"threads": 64})
