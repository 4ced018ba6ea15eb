"""Triton's argmax of heat maps, in its interpreter, against plain PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import reference
from tests.ops.testing import (
    DTYPES,
    HEATMAP_CASES,
    INF,
    NAN,
    compile_in_subprocess,
    example,
    heatmap_dtype,
    in_layout,
    on,
    spoilt,
    triton_marks,
    whole_numbers,
)

__all__ = ["heatmap_dtype", "spoilt"]
pytestmark = triton_marks


def same_argmax(maps: Tensor, refine: str, name: object = "") -> None:
    coords, scores = on("triton", ops.heatmap_argmax, maps, refine=refine)
    expected = on("reference", ops.heatmap_argmax, maps, refine=refine)
    assert coords.dtype == torch.float32 and scores.dtype == maps.dtype, name
    assert torch.equal(coords, expected[0]), (name, refine)
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("spoilt")
def test_argmax_with_ties(heatmap_dtype: torch.dtype) -> None:
    for layout, shape in HEATMAP_CASES:
        same_argmax(in_layout(layout, whole_numbers(shape, heatmap_dtype)), "quarter", layout)
    same_argmax(whole_numbers((1, 2, 5, 6), heatmap_dtype), "none")


def test_argmax_of_maps_larger_than_a_tile() -> None:
    same_argmax(whole_numbers((1, 2, 67, 130), torch.float32), "quarter")
    same_argmax(in_layout("channels_last", whole_numbers((1, 18, 40, 40), torch.bfloat16)), "quarter")
    same_argmax(whole_numbers((1, 1, 2, 8200), torch.float16), "quarter")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_wins_and_infinities_are_numbers(layout: str, heatmap_dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 6, 11, generator=torch.Generator().manual_seed(0)).to(heatmap_dtype)
    x[0, 0] = -INF  # pixel 0
    x[0, 1] = NAN  # pixel 0
    x[0, 2, 2, 3] = x[0, 2, 4, 10] = NAN  # the first of two, though the other is met earlier by its tile's element
    x[0, 3, 5, 0] = x[0, 3, 0, 9] = NAN
    x[0, 4, 1, 1] = INF
    x[0, 5, 5, 10], x[0, 5, 0, 0] = INF, NAN
    x[0, 6] = -INF
    x[0, 6, 3, 3] = -60000
    x[0, 7, 5, 10] = NAN
    x[1, 0], x[1, 0, 0, 1], x[1, 0, 3, 3] = -0.0, 0.0, 0.0  # one number: pixel 0
    x[1, 1, 2, 2], x[1, 1, 2, 3], x[1, 1, 1, 2] = 9, NAN, NAN  # the first NaN is the maximum
    x[1, 2, 2, 2], x[1, 2, 2, 3], x[1, 2, 1, 2] = INF, -INF, 8  # its neighbours
    x = in_layout(layout, x)
    same_argmax(x, "quarter")
    coords, scores = on("triton", ops.heatmap_argmax, x)
    assert coords[0, :4].tolist() == [[0, 0], [0, 0], [3, 2], [9, 0]] and coords[1, 0].tolist() == [0, 0]
    assert scores[0, 1:4].isnan().all() and scores[0, 0] == -INF


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_nan_is_found_wherever_it_is(layout: str) -> None:
    h, w = 4, 5
    x = torch.randn(1, h * w, h, w)
    x[0, torch.arange(h * w), torch.arange(h * w) // w, torch.arange(h * w) % w] = NAN
    coords, scores = on("triton", ops.heatmap_argmax, in_layout(layout, x))
    assert (coords[0, :, 1] * w + coords[0, :, 0]).tolist() == list(range(h * w)) and scores.isnan().all()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    coords, scores = on("triton", ops.heatmap_argmax, x, refine="quarter")
    assert coords.shape == (*shape[:2], 2) and scores.shape == shape[:2]
    scores.sum().backward()
    assert x.grad is not None and x.grad.shape == shape
    coords, scores = torch.ops.pyranet_fast_triton.heatmap_argmax_mirrored(
        x.detach(), x.detach(), torch.arange(shape[1]), True
    )
    assert coords.shape == (*shape[:2], 2) and scores.shape == shape[:2]


@pytest.mark.usefixtures("spoilt")
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_the_score(dtype: torch.dtype) -> None:
    x = whole_numbers((2, 3, 3, 11), dtype).requires_grad_()
    values = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = {
        "contiguous": values,
        "transposed": values.t().contiguous().t(),
        "sliced": torch.cat([values, values], 1)[:, :3],
        "expanded": values[:1].expand(2, 3),
        "one": values[:1, :1].expand(2, 3),
    }
    scores = {backend: on(backend, ops.heatmap_argmax, x)[1] for backend in ("triton", "reference")}
    for name, grad in grads.items():
        actual, expected = (torch.autograd.grad(s, x, grad, retain_graph=True)[0] for s in scores.values())
        assert actual.dtype == dtype and torch.equal(actual, expected), name
    grad = torch.ops.pyranet_fast_triton.heatmap_argmax_backward(
        torch.ones(1, 1, dtype=dtype), torch.tensor([[2100]]), 50, 60
    )  # more pixels than a program writes
    assert grad.sum() == 1 and grad[0, 0, 35, 0] == 1


def same_mirrored(maps: Tensor, mirrored: Tensor, swap: Tensor, quarter: bool, name: object = "") -> None:
    coords, scores = torch.ops.pyranet_fast_triton.heatmap_argmax_mirrored(maps, mirrored, swap, quarter)
    expected = reference.heatmap_argmax(reference.mirrored_mean(maps, mirrored, swap), quarter)
    assert coords.dtype == torch.float32 and scores.dtype == torch.promote_types(maps.dtype, torch.float32), name
    assert torch.equal(coords, expected[0]), name
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("spoilt")
def test_mirrored_mean(heatmap_dtype: torch.dtype) -> None:
    layouts = ["contiguous", "channels_last", "sliced", "permuted", "expanded 1"]
    for (layout, shape), other in zip(HEATMAP_CASES, layouts * 3, strict=False):
        x, y = whole_numbers(shape, heatmap_dtype), whole_numbers(shape, heatmap_dtype, seed=1)
        swap = torch.randperm(shape[1], generator=torch.Generator().manual_seed(2))
        same_mirrored(in_layout(layout, x), in_layout(other, y), swap, True, (layout, other))
    same_mirrored(x, y, torch.stack([swap, swap], 1)[:, 0], False, "swap of a stride")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_mirrored_mean_of_random_numbers_nan_and_infinities(layout: str, heatmap_dtype: torch.dtype) -> None:
    x, y = (torch.randn(1, 6, 7, 8, generator=torch.Generator().manual_seed(s)).to(heatmap_dtype) for s in (0, 1))
    x[0, 0, 2, 2], y[0, 1, 5, 6], x[0, 2, 1, 1] = NAN, NAN, INF
    x[0, 3, 3, 3], y[0, 3, 3, 8 - 1 - 3] = INF, -INF  # their mean is NaN
    x[0, 4], y[0, 5] = -INF, -INF
    same_mirrored(in_layout(layout, x), in_layout(layout, y), torch.tensor([1, 0, 2, 3, 5, 4]), True)


def test_derivatives() -> None:
    pred = example((1, 2, 3, 4), torch.float64)[0].requires_grad_()
    with ops.backend("triton"):
        torch.autograd.gradcheck(lambda p: ops.heatmap_argmax(p)[1], (pred,), check_forward_ad=True)
        torch.autograd.gradgradcheck(lambda p: ops.heatmap_argmax(p)[1].sin(), (pred,), fast_mode=True)


def test_opcheck() -> None:
    pred, _, weight = example((2, 3, 4, 5))
    space = torch.ops.pyranet_fast_triton
    for layout in ("contiguous", "channels_last"):
        maps = in_layout(layout, pred).detach().requires_grad_()
        torch.library.opcheck(space.heatmap_argmax.default, (maps, True))
    torch.library.opcheck(space.heatmap_argmax_mirrored.default, (pred, pred, torch.arange(3), True))
    torch.library.opcheck(space.heatmap_argmax_backward.default, (weight, torch.zeros(2, 3, dtype=torch.int64), 4, 5))


def test_launch_decisions() -> None:
    import triton.language as tl

    from pyranet_fast.ops.triton.heatmap_tiles import Tile, channel_group, offset_dtype

    x = torch.empty(2, 16, 64, 48, device="meta")
    last = x.contiguous(memory_format=torch.channels_last)
    assert channel_group(x) == channel_group(x.permute(0, 1, 3, 2)) == channel_group(last[:, :1]) == 1
    assert channel_group(last) == 8 and channel_group(last[:, :3]) == 4
    assert channel_group(last.bfloat16()) == 16 and channel_group(last.double()) == 4
    for h, w, channels in ((1, 1, 1), (64, 48, 1), (7, 5000, 16), (5000, 1, 8), (1, 9, 4)):
        of = Tile.of(h, w, channels)
        assert all(size & (size - 1) == 0 for size in of) and of.channels == channels
        assert of.rows * of.columns * channels <= 2048 and of.rows < 2 * h and of.columns < 2 * w
        assert of.options()["num_warps"] in (1, 2, 4)
    assert offset_dtype(x) == offset_dtype(last, x) == tl.int32
    huge = torch.empty(2**31 // 1024 + 1, 1024, device="meta")
    assert offset_dtype(huge.expand(1, 1, *huge.shape)) == tl.int64  # 2^31 + 1024 pixels
    assert offset_dtype(x[:1, :1, :1, :1].expand(1, 1, 2**16, 2**15)) == tl.int64  # one element, 2^31 pixels
    rows = torch.empty(2, 2**31, device="meta")[None, None, :, :3]
    assert offset_dtype(rows) == offset_dtype(x, rows) == tl.int64  # 6 pixels, rows 2^31 apart


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    assert len(compile_in_subprocess("heatmap_argmax", tmp_path)) == 3 * 3
