"""Triton's heat-map kernels, in its interpreter, against plain PyTorch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
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
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning"),  # NumPy's, in the interpreter
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# The interpreter takes 20 ms for a program, so few maps: every layout, size 1, odd sizes, groups of channels that are
# full and not.
CASES = [
    ("contiguous", (2, 2, 9, 7)),
    ("contiguous", (1, 1, 1, 1)),
    ("contiguous", (1, 2, 1, 19)),
    ("channels_last", (1, 5, 19, 1)),
    ("channels_last", (2, 14, 5, 6)),
    ("channels_last", (1, 33, 3, 5)),
    ("sliced", (2, 1, 4, 6)),
    ("sliced channels_last", (1, 28, 4, 3)),
    ("permuted", (1, 3, 6, 5)),
    ("expanded 0", (2, 2, 3, 4)),
    ("expanded 1", (1, 3, 4, 3)),
    ("expanded 2", (1, 2, 4, 3)),
    ("expanded 3", (1, 2, 3, 4)),
]
NAN, INF = float("nan"), float("inf")


def in_layout(layout: str, x: Tensor) -> Tensor:
    """The values of x in other strides; expanded: of its first row along an axis, of stride 0."""
    if layout.startswith("expanded"):
        return x.narrow(int(layout[-1]), 0, 1).expand_as(x)
    if layout == "sliced":
        x = torch.cat([x, x], 3)[..., : x.shape[3]]
    elif layout == "sliced channels_last":
        x = torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, : x.shape[1]]
    elif layout == "permuted":
        x = x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    elif layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    return x


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


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every loop turn, where small maps would fit in one tile, and compute offsets as in huge maps."""
    import triton.language as tl

    from pyranet_fast.ops.triton import gaussian_heatmaps, heatmap_argmax, heatmap_loss

    def tile(height: int, width: int, channels: int = 1, elements: int = 0) -> gaussian_heatmaps.Tile:
        return gaussian_heatmaps.Tile(2, 4, channels)

    for module in (gaussian_heatmaps, heatmap_argmax, heatmap_loss):
        monkeypatch.setattr(module, "tile", tile)
    for module in (heatmap_argmax, heatmap_loss):
        monkeypatch.setattr(module, "offset_dtype", lambda *maps: tl.int64)
    monkeypatch.setattr(heatmap_loss, "_PROGRAMS", 4)
    monkeypatch.setattr(heatmap_loss, "_SUMS", 4)


@pytest.fixture(params=[*DTYPES, "small tiles"], ids=str)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """All dtypes, and float32 in small tiles."""
    if isinstance(request.param, torch.dtype):
        return request.param
    small_tiles(monkeypatch)
    return torch.float32


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


@pytest.mark.usefixtures("spoilt_memory")
def test_argmax_with_ties(dtype: torch.dtype) -> None:
    for layout, shape in CASES:
        same_argmax(in_layout(layout, whole_numbers(shape, dtype)), "quarter", layout)
    same_argmax(whole_numbers((1, 2, 5, 6), dtype), "none")


def test_argmax_of_maps_larger_than_a_tile() -> None:
    same_argmax(whole_numbers((1, 2, 67, 130), torch.float32), "quarter")
    same_argmax(in_layout("channels_last", whole_numbers((1, 18, 40, 40), torch.bfloat16)), "quarter")
    same_argmax(whole_numbers((1, 1, 2, 8200), torch.float16), "quarter")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_wins_and_infinities_are_numbers(layout: str, dtype: torch.dtype) -> None:
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
    with ops.backend("triton"):
        loss = ops.heatmap_loss(x, torch.zeros(*shape[:2], 2), torch.ones(shape[:2]))
        assert ops.gaussian_heatmaps(torch.zeros(*shape[:2], 2), torch.ones(shape[:2]), (4, 4)).shape == shape
    loss.backward()
    assert loss.item() == 0


@pytest.mark.usefixtures("spoilt_memory")
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


# --- argmax of the mean with a mirrored stack ------------------------------------------------------------------------


def same_mirrored(maps: Tensor, mirrored: Tensor, swap: Tensor, quarter: bool, name: object = "") -> None:
    coords, scores = torch.ops.pyranet_fast_triton.heatmap_argmax_mirrored(maps, mirrored, swap, quarter)
    expected = reference.heatmap_argmax(reference.mirrored_mean(maps, mirrored, swap), quarter)
    assert coords.dtype == torch.float32 and scores.dtype == torch.promote_types(maps.dtype, torch.float32), name
    assert torch.equal(coords, expected[0]), name
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("spoilt_memory")
def test_mirrored_mean(dtype: torch.dtype) -> None:
    layouts = ["contiguous", "channels_last", "sliced", "permuted", "expanded 1"]
    for (layout, shape), other in zip(CASES, layouts * 3, strict=False):
        x, y = whole_numbers(shape, dtype), whole_numbers(shape, dtype, seed=1)
        swap = torch.randperm(shape[1], generator=torch.Generator().manual_seed(2))
        same_mirrored(in_layout(layout, x), in_layout(other, y), swap, True, (layout, other))
    same_mirrored(x, y, torch.stack([swap, swap], 1)[:, 0], False, "swap of a stride")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_mirrored_mean_of_random_numbers_nan_and_infinities(layout: str, dtype: torch.dtype) -> None:
    x, y = (torch.randn(1, 6, 7, 8, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (0, 1))
    x[0, 0, 2, 2], y[0, 1, 5, 6], x[0, 2, 1, 1] = NAN, NAN, INF
    x[0, 3, 3, 3], y[0, 3, 3, 8 - 1 - 3] = INF, -INF  # their mean is NaN
    x[0, 4], y[0, 5] = -INF, -INF
    same_mirrored(in_layout(layout, x), in_layout(layout, y), torch.tensor([1, 0, 2, 3, 5, 4]), True)


# --- loss ------------------------------------------------------------------------------------------------------------


def loss_and_gradient(backend: str, pred: Tensor, joints: Tensor, weight: Tensor, factor: float = 3.0) -> list[Tensor]:
    pred = pred.detach().requires_grad_()
    loss = on(backend, ops.heatmap_loss, pred, joints, weight, sigma=1.3)
    return [loss.detach(), *torch.autograd.grad(loss * factor, pred)]


@pytest.mark.usefixtures("spoilt_memory")
def test_loss_and_gradient(dtype: torch.dtype) -> None:
    for layout, shape in CASES:
        pred, joints, weight = example(shape, dtype)
        maps = in_layout(layout, pred)
        actual = loss_and_gradient("triton", maps, joints, weight)
        expected = loss_and_gradient("reference", maps, joints, weight)
        assert actual[0].dtype == expected[0].dtype and actual[1].dtype == dtype, layout
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e)
        last = layout == "channels_last" and not maps.is_contiguous()
        assert actual[1].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), layout


def test_loss_divides_maps_among_programs_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyranet_fast.ops.triton import heatmap_loss

    pred, joints, weight = example((1, 2, 90, 70), torch.float64)  # six tiles a map
    expected = on("reference", ops.heatmap_loss, pred, joints, weight)
    for programs, block in ((1, 1024), (4, 1024), (6, 1024), (1024, 4)):
        monkeypatch.setattr(heatmap_loss, "_PROGRAMS", programs)
        monkeypatch.setattr(heatmap_loss, "_SUMS", block)
        assert_close(on("triton", ops.heatmap_loss, pred, joints, weight), expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_maps_of_weight_zero_take_no_part(layout: str) -> None:
    pred, joints, weight = example((2, 5, 4, 5))
    weight[0, 1] = weight[1, 4] = 0
    pred = in_layout(layout, pred)
    spoilt, spoilt_joints = pred.clone(), joints.clone()
    spoilt[0, 1], spoilt[1, 4] = NAN, INF
    spoilt_joints[0, 1] = NAN
    plain = loss_and_gradient("triton", pred, joints, weight)
    for a, b in zip(plain, loss_and_gradient("triton", spoilt, spoilt_joints, weight), strict=True):
        assert torch.equal(a, b)
    assert not plain[1][0, 1].any() and not plain[1][1, 4].any() and plain[1][0, 0].any()
    loss, gradient = loss_and_gradient("triton", spoilt, spoilt_joints, torch.zeros(2, 5))
    assert loss.item() == 0 and not gradient.any()
    pred[1, 1, 2, 3] = NAN  # of weight above 0: it is seen
    weight[1, 1] = 0.5
    loss, gradient = loss_and_gradient("triton", pred, joints, weight)
    assert loss.isnan() and gradient[1, 1, 2, 3].isnan() and gradient.isnan().sum() == 1


def test_loss_takes_joints_and_weights_of_any_strides_and_dtype() -> None:
    pred, joints, weight = example((2, 2, 6, 5))
    expected = loss_and_gradient("reference", pred, joints, weight)
    strided = (joints.permute(2, 1, 0).contiguous().permute(2, 1, 0), weight.t().contiguous().t())
    for j, w in (strided, (joints.double(), weight), (joints, weight.double())):
        for a, e in zip(loss_and_gradient("triton", pred, j, w), expected, strict=True):
            assert_close(a, e)


# --- Gaussians -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("spoilt_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("small", [False, True], ids=["natural tiles", "small tiles"])
def test_gaussians(small: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        small_tiles(monkeypatch)
    for shape in ((2, 3, 9, 7), (1, 1, 1, 1), (1, 2, 1, 19), (1, 2, 19, 1), (1, 1, 40, 70)):
        _, joints, weight = example(shape, dtype)
        joints[(weight == 0).nonzero(as_tuple=True)] = NAN
        expected = on("reference", ops.gaussian_heatmaps, joints, weight, shape[2:], sigma=1.7)
        strided = joints.permute(2, 1, 0).contiguous().permute(2, 1, 0), weight.t().contiguous().t()
        for j, w in ((joints, weight.double()), (strided[0], strided[1].float())):
            maps = on("triton", ops.gaussian_heatmaps, j, w, shape[2:], sigma=1.7)
            assert maps.dtype == dtype and maps.is_contiguous()
            assert_close(maps, expected)
            assert not maps[weight == 0].any()


# --- all operators ---------------------------------------------------------------------------------------------------


def test_a_second_run_gives_the_same_bits() -> None:
    pred, joints, weight = example((2, 6, 40, 60))
    for layout in ("contiguous", "channels_last"):
        maps = in_layout(layout, pred)
        runs = [loss_and_gradient("triton", maps, joints, weight) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_gradcheck_and_double_backward() -> None:
    pred, joints, weight = example((1, 2, 3, 4), torch.float64)
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
    for layout in ("contiguous", "channels_last"):
        maps = in_layout(layout, pred).detach().requires_grad_()
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
        for shape in ((1, 2, 5, 6), (2, 2, 7, 4)):
            pred, joints, weight = example(shape)
            results = []
            for function in (compiled, everything):
                p = pred.clone().requires_grad_()
                outputs = function(p, joints, weight)
                (outputs[0] + outputs[3].sum()).backward()
                results.append([*(t.detach() for t in outputs), p.grad])
            for a, b in zip(*results, strict=True):
                assert a is not None and b is not None and torch.equal(a, b)


# What the interpreter forgives, the compiler does not: types that change in a loop, float64 in float32's kernels.
COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 80, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

def run(self, *args, warmup, **options):
    kernel = compile_(self, *args, warmup=True, **options)
    wide = [line for line in kernel.asm["ptx"].splitlines() if ".f64" in line]
    arithmetic = [line for line in wide if ".param" not in line]
    print(self.fn.__name__, dtype, len(arithmetic))
    assert dtype == torch.float64 or len(arithmetic) <= 1, arithmetic  # 2 sigma^2 arrives as float64 and is rounded
    assert "two_sigma_squared" not in self.arg_names or any(".param" in line for line in wide)

triton.runtime.driver.set_active(Driver())
compile_, triton.JITFunction.run = triton.JITFunction.run, run
from pyranet_fast.ops.triton import gaussian_heatmaps, heatmap_argmax, heatmap_loss

for dtype, layout in (
    (torch.float32, torch.contiguous_format),
    (torch.bfloat16, torch.channels_last),
    (torch.float64, torch.channels_last),
):
    wide = torch.promote_types(dtype, torch.float32)
    x = torch.zeros(2, 16, 16, 16, dtype=dtype).contiguous(memory_format=layout)
    joints, weight = torch.zeros(2, 16, 2, dtype=wide), torch.ones(2, 16, dtype=wide)
    _, scores, indices = heatmap_argmax.forward(x, True)
    heatmap_argmax.backward(scores, indices, 16, 16)
    heatmap_argmax.forward_mirrored(x, x, torch.arange(16), True)
    loss = heatmap_loss.forward(x, joints, weight, 1.0)
    heatmap_loss.backward(loss, x, joints, weight, 1.0)
    gaussian_heatmaps.forward(joints, weight, 16, 16, 1.0)
"""


def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 21, done.stdout


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
