"""Triton's heat-map kernels, in its interpreter, against plain PyTorch."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import reference

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton compiles here: see tests/gpu"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(2, 14, 9, 7), (1, 1, 1, 1), (2, 3, 1, 70), (1, 5, 35, 1), (1, 33, 5, 6), (2, 28, 4, 8)]
NAN, INF = float("nan"), float("inf")


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same values in other strides."""
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "sliced": torch.cat([x, x], 3)[..., : x.shape[3]],
        "sliced channels_last": torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, : x.shape[1]],
        "permuted": x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
    }


def expanded(x: Tensor) -> dict[str, Tensor]:
    """Tensors of which one axis has stride 0, in the shape of x."""
    return {f"expanded {axis}": x.narrow(axis, 0, 1).expand_as(x) for axis in range(x.dim())}


def whole_numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Maps with many ties."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).round().to(dtype)


def example(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Score maps, joints of which some are off the maps, and weights of which one in four is 0."""
    generator = torch.Generator().manual_seed(0)
    n, k, h, w = shape
    wide = torch.promote_types(dtype, torch.float32)
    pred = torch.randn(shape, generator=generator).to(dtype)
    joints = torch.rand(n, k, 2, generator=generator) * torch.tensor([w + 4.0, h + 4.0]) - 2
    weight = (torch.rand(n, k, generator=generator) - 0.25).clamp_min(0)
    weight[0, 0] = 0.5
    return pred, joints.to(wide), weight.to(wide)


@pytest.fixture(params=["natural tiles", "small tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps fit in one tile. With small tiles every loop turns, and offsets are those of huge maps."""
    if request.param == "natural tiles":
        return
    import triton.language as tl

    from pyranet_fast.ops.triton import gaussian_heatmaps, heatmap_argmax, heatmap_loss

    def tile(height: int, width: int, channels: int = 1, elements: int = 0) -> gaussian_heatmaps.Tile:
        return gaussian_heatmaps.Tile(2, 4, channels)

    for module in (gaussian_heatmaps, heatmap_argmax, heatmap_loss):
        monkeypatch.setattr(module, "tile", tile)
    for module in (heatmap_argmax, heatmap_loss):
        monkeypatch.setattr(module, "offset_dtype", lambda *maps: tl.int64)


@pytest.fixture
def spoilt_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new tensor holds NaN or -1 until it is written."""
    for name in ("empty", "empty_like"):
        real = getattr(torch, name)

        def spoilt(*args: Any, real: Any = real, **kwargs: Any) -> Tensor:
            x = real(*args, **kwargs)
            return x.fill_(NAN) if x.is_floating_point() else x.fill_(-1)

        monkeypatch.setattr(torch, name, spoilt)


def on(backend: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    with ops.backend(backend):
        return function(*args, **kwargs)


def same_argmax(maps: Tensor, refine: str, name: object = "") -> None:
    coords, scores = on("triton", ops.heatmap_argmax, maps, refine=refine)
    expected = on("reference", ops.heatmap_argmax, maps, refine=refine)
    assert coords.dtype == torch.float32 and scores.dtype == maps.dtype, name
    assert torch.equal(coords, expected[0]), (name, refine)
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=0, equal_nan=True)


# --- argmax ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiles", "spoilt_memory")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_argmax_with_ties(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = whole_numbers(shape, dtype)
    for name, maps in {**layouts(x), **expanded(x)}.items():
        same_argmax(maps, "quarter", name)
    same_argmax(x, "none")


def test_argmax_of_maps_larger_than_a_tile() -> None:
    same_argmax(whole_numbers((1, 2, 67, 130), torch.float32), "quarter")
    same_argmax(whole_numbers((1, 18, 40, 40), torch.bfloat16).contiguous(memory_format=torch.channels_last), "quarter")
    same_argmax(whole_numbers((1, 1, 2, 8200), torch.float16), "quarter")


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_nan_wins_and_infinities_are_numbers(channels_last: bool, dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 6, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
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
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for refine in ("none", "quarter"):
        same_argmax(x, refine)
    coords, scores = on("triton", ops.heatmap_argmax, x)
    assert coords[0, :4].tolist() == [[0, 0], [0, 0], [3, 2], [9, 0]] and coords[1, 0].tolist() == [0, 0]
    assert scores[0, 1:4].isnan().all() and scores[0, 0] == -INF


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_nan_is_found_wherever_it_is(channels_last: bool) -> None:
    h, w = 5, 6
    x = torch.randn(1, h * w, h, w)
    x[0, torch.arange(h * w), torch.arange(h * w) // w, torch.arange(h * w) % w] = NAN
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    coords, scores = on("triton", ops.heatmap_argmax, x)
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
    with ops.backend("triton"):
        loss = ops.heatmap_loss(x, torch.zeros(*shape[:2], 2), torch.ones(shape[:2]))
        assert ops.gaussian_heatmaps(torch.zeros(*shape[:2], 2), torch.ones(shape[:2]), (4, 4)).shape == shape
    loss.backward()
    assert loss.item() == 0


@pytest.mark.usefixtures("spoilt_memory")
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_the_score(dtype: torch.dtype) -> None:
    x = whole_numbers((3, 5, 9, 50), dtype).requires_grad_()
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = {
        "contiguous": values,
        "transposed": values.t().contiguous().t(),
        "sliced": torch.cat([values, values], 1)[:, :5],
        "expanded": values[:1].expand(3, 5),
        "one": values[:1, :1].expand(3, 5),
    }
    for name, grad in grads.items():
        results = []
        for backend in ("triton", "reference"):
            _, scores = on(backend, ops.heatmap_argmax, x)
            results += torch.autograd.grad(scores, x, grad)
        assert results[0].dtype == dtype and torch.equal(*results), name
    grad = torch.ops.pyranet_fast_triton.heatmap_argmax_backward(
        torch.ones(1, 1, dtype=dtype), torch.tensor([[2100]]), 50, 60
    )  # more pixels than a program writes
    assert grad.sum() == 1 and grad[0, 0, 35, 0] == 1


# --- argmax of the mean with a mirrored stack ------------------------------------------------------------------------


def same_mirrored(maps: Tensor, mirrored: Tensor, swap: Tensor, quarter: bool, name: object = "") -> None:
    coords, scores = torch.ops.pyranet_fast_triton.heatmap_argmax_mirrored(maps, mirrored, swap, quarter)
    expected = reference.heatmap_argmax(reference.mirrored_mean(maps, mirrored, swap), quarter)
    assert coords.dtype == torch.float32 and scores.dtype == torch.promote_types(maps.dtype, torch.float32), name
    assert torch.equal(coords, expected[0]), name
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("tiles", "spoilt_memory")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_mirrored_mean(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = whole_numbers(shape, dtype), whole_numbers(shape, dtype, seed=1)
    swap = torch.randperm(shape[1], generator=torch.Generator().manual_seed(2))
    for (name, maps), (other, mirrored) in zip(layouts(x).items(), reversed(layouts(y).items()), strict=True):
        same_mirrored(maps, mirrored, swap, True, (name, other))
    last = {name: z.contiguous(memory_format=torch.channels_last) for name, z in (("x", x), ("y", y))}
    same_mirrored(last["x"], last["y"], swap, False)
    same_mirrored(x, y, torch.stack([swap, swap], 1)[:, 0], True, "swap of a stride")


def test_mirrored_mean_of_random_numbers_nan_and_infinities() -> None:
    for dtype in DTYPES:
        x, y = (torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (0, 1))
        x[0, 0, 2, 2], y[0, 1, 5, 6], x[1, 2, 1, 1] = NAN, NAN, INF
        x[1, 3, 3, 3], y[1, 3, 3, 8 - 1 - 3] = INF, -INF  # their mean is NaN
        x[1, 4], y[1, 4] = -INF, -INF
        same_mirrored(x, y, torch.tensor([1, 0, 2, 3, 5, 4]), True)
        same_mirrored(x, y, torch.tensor([0, 1, 2, 3, 4, 5]), True)


# --- loss ------------------------------------------------------------------------------------------------------------


def loss_and_gradient(backend: str, pred: Tensor, joints: Tensor, weight: Tensor, factor: float = 3.0) -> list[Tensor]:
    pred = pred.detach().requires_grad_()
    loss = on(backend, ops.heatmap_loss, pred, joints, weight, sigma=1.3)
    return [loss.detach(), *torch.autograd.grad(loss * factor, pred)]


@pytest.mark.usefixtures("tiles", "spoilt_memory")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pred, joints, weight = example(shape, dtype)
    for name, maps in {**layouts(pred), **expanded(pred)}.items():
        actual = loss_and_gradient("triton", maps, joints, weight)
        expected = loss_and_gradient("reference", maps, joints, weight)
        assert actual[0].dtype == expected[0].dtype and actual[1].dtype == dtype, name
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e)
        last = not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)
        assert actual[1].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), name


@pytest.mark.usefixtures("tiles")
def test_loss_divides_maps_among_programs_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyranet_fast.ops.triton import heatmap_loss

    pred, joints, weight = example((2, 3, 90, 33), torch.float64)
    expected = loss_and_gradient("reference", pred, joints, weight)[0]
    for programs, block in ((1, 1024), (20, 1024), (1024, 4)):
        monkeypatch.setattr(heatmap_loss, "_PROGRAMS", programs)
        monkeypatch.setattr(heatmap_loss, "_SUMS", block)
        for maps in layouts(pred).values():
            assert_close(loss_and_gradient("triton", maps, joints, weight)[0], expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_of_weight_zero_take_no_part(channels_last: bool) -> None:
    pred, joints, weight = example((3, 5, 8, 9))
    weight[0, 1] = weight[2, 4] = 0
    if channels_last:
        pred = pred.contiguous(memory_format=torch.channels_last)
    spoilt, spoilt_joints = pred.clone(), joints.clone()
    spoilt[0, 1], spoilt[2, 4] = NAN, INF
    spoilt_joints[0, 1] = NAN
    plain = loss_and_gradient("triton", pred, joints, weight)
    for a, b in zip(plain, loss_and_gradient("triton", spoilt, spoilt_joints, weight), strict=True):
        assert torch.equal(a, b)
    assert not plain[1][0, 1].any() and not plain[1][2, 4].any() and plain[1][0, 0].any()
    for weights in (torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.float64)):
        loss, gradient = loss_and_gradient("triton", spoilt, spoilt_joints, weights)
        assert loss.item() == 0 and not gradient.any()
    pred[1, 1, 2, 3] = NAN  # of weight above 0: it is seen
    weight[1, 1] = 0.5
    loss, gradient = loss_and_gradient("triton", pred, joints, weight)
    assert loss.isnan() and gradient[1, 1, 2, 3].isnan() and gradient.isnan().sum() == 1


def test_loss_takes_joints_and_weights_of_any_strides_and_dtype() -> None:
    pred, joints, weight = example((3, 4, 6, 5))
    expected = loss_and_gradient("reference", pred, joints, weight)
    strided = (joints.permute(2, 1, 0).contiguous().permute(2, 1, 0), weight.t().contiguous().t())
    for j, w in (strided, (joints.double(), weight), (joints, weight.double())):
        for a, e in zip(loss_and_gradient("triton", pred, j, w), expected, strict=True):
            assert_close(a, e)


# --- Gaussians -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiles", "spoilt_memory")
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 50, 70)])
def test_gaussians(shape: tuple[int, ...], dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    _, joints, weight = example(shape, dtype)
    joints[(weight == 0).nonzero(as_tuple=True)] = NAN
    weight = weight.to(weight_dtype)
    strided = joints.permute(2, 1, 0).contiguous().permute(2, 1, 0), weight.t().contiguous().t()
    for sigma in (0.7, 3.0):
        expected = on("reference", ops.gaussian_heatmaps, joints, weight, shape[2:], sigma=sigma)
        for j, w in ((joints, weight), strided):
            maps = on("triton", ops.gaussian_heatmaps, j, w, shape[2:], sigma=sigma)
            assert maps.dtype == dtype and maps.is_contiguous()
            assert_close(maps, expected)
            assert not maps[weight == 0].any()


# --- all operators ---------------------------------------------------------------------------------------------------


def test_a_second_run_gives_the_same_bits() -> None:
    pred, joints, weight = example((2, 6, 40, 40))
    for maps in layouts(pred).values():
        runs = [loss_and_gradient("triton", maps, joints, weight) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_gradcheck_and_double_backward() -> None:
    pred, joints, weight = example((2, 3, 4, 5), torch.float64)
    pred.requires_grad_()
    with ops.backend("triton"):
        torch.autograd.gradcheck(lambda p: ops.heatmap_loss(p, joints, weight), (pred,))
        torch.autograd.gradcheck(lambda p: ops.heatmap_argmax(p)[1], (pred,))
        for name, value in (
            ("heatmap_loss", ops.heatmap_loss(pred, joints, weight)),
            ("heatmap_argmax", ops.heatmap_argmax(pred)[1].square().sum()),
        ):
            (g,) = torch.autograd.grad(value, pred, create_graph=True)
            with pytest.raises(RuntimeError, match=f"{name} has no double backward"):
                g.sum().backward()


def test_opcheck() -> None:
    pred, joints, weight = example((2, 3, 4, 5))
    space = torch.ops.pyranet_fast_triton
    for maps in layouts(pred).values():
        maps = maps.detach().requires_grad_()
        torch.library.opcheck(space.heatmap_argmax.default, (maps, True))
        torch.library.opcheck(space.heatmap_loss.default, (maps, joints, weight, 1.0))
    torch.library.opcheck(space.gaussian_heatmaps.default, (joints, weight, 4, 5, 1.0))
    torch.library.opcheck(space.heatmap_argmax_mirrored.default, (pred, pred, torch.arange(3), True))
    torch.library.opcheck(space.heatmap_argmax_backward.default, (weight, torch.zeros(2, 3, dtype=torch.int64), 4, 5))
    torch.library.opcheck(space.heatmap_loss_backward.default, (torch.ones(()), pred, joints, weight, 1.0))


def test_compiles_whole_and_dynamic() -> None:
    def everything(pred: Tensor, joints: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        target = ops.gaussian_heatmaps(joints, weight, pred.shape[2:])
        coords, scores = ops.heatmap_argmax(pred, refine="quarter")
        return ops.heatmap_loss(pred, joints, weight), target, coords, scores

    with ops.backend("triton"):
        compiled = torch.compile(everything, fullgraph=True, dynamic=True, backend="aot_eager")
        for shape in ((2, 3, 8, 9), (4, 3, 10, 7)):
            pred, joints, weight = example(shape)
            results = []
            for function in (compiled, everything):
                p = pred.clone().requires_grad_()
                outputs = function(p, joints, weight)
                (outputs[0] + outputs[3].sum()).backward()
                results.append([*(t.detach() for t in outputs), p.grad])
            for a, b in zip(*results, strict=True):
                assert a is not None and b is not None and torch.equal(a, b)


def test_launch_decisions() -> None:
    import triton.language as tl

    from pyranet_fast.ops.triton.gaussian_heatmaps import channel_group, offset_dtype, tile

    x = torch.empty(2, 16, 64, 48, device="meta")
    last = x.contiguous(memory_format=torch.channels_last)
    assert channel_group(x) == channel_group(x.permute(0, 1, 3, 2)) == channel_group(last[:, :1]) == 1
    assert channel_group(last) == 8 and channel_group(last[:, :3]) == 4
    assert channel_group(last.bfloat16()) == 16 and channel_group(last.double()) == 4
    for h, w, channels in ((1, 1, 1), (64, 48, 1), (7, 5000, 16), (5000, 1, 8), (1, 9, 4)):
        of = tile(h, w, channels)
        assert all(size & (size - 1) == 0 for size in of) and of.channels == channels
        assert of.rows * of.columns * channels <= 2048 and of.rows < 2 * h and of.columns < 2 * w
        assert of.options()["num_warps"] in (1, 2, 4)
    assert offset_dtype(x) == offset_dtype(last, x) == tl.int32
    huge = torch.empty(2**31 // 1024 + 1, 1024, device="meta")
    assert offset_dtype(huge.expand(1, 1, *huge.shape)) == tl.int64  # 2^31 + 1024 pixels
    assert offset_dtype(x[:1, :1, :1, :1].expand(1, 1, 2**16, 2**15)) == tl.int64  # one element, 2^31 pixels
    rows = torch.empty(2, 2**31, device="meta")[None, None, :, :3]
    assert offset_dtype(rows) == offset_dtype(x, rows) == tl.int64  # 6 pixels, rows 2^31 apart
