"""heatmap_loss and gaussian_heatmaps against plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops

native = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
BACKENDS = [pytest.param("reference"), pytest.param("native", marks=native)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(2, 14, 32, 32), (3, 5, 7, 9), (1, 1, 1, 1), (2, 16, 40, 48), (2, 3, 1, 70), (4, 28, 17, 13)]


def example(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n, k, h, w = shape
    pred = torch.randn(shape, generator=generator)
    joints = torch.rand(n, k, 2, generator=generator) * torch.tensor([w + 4.0, h + 4.0]) - 2  # some outside
    weight = torch.rand(n, k, generator=generator) + 0.1
    return pred, joints, weight


def in_double(pred: Tensor, joints: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """The docstring's sum, with every Gaussian stored."""
    h, w = pred.shape[2:]
    ys, xs = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    d = (xs - joints[..., 0, None, None]) ** 2 + (ys - joints[..., 1, None, None]) ** 2
    error = (pred - torch.exp(-d / (2 * sigma**2))) ** 2
    return (weight[..., None, None] * error).sum() / (h * w * weight.sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient(shape: tuple[int, ...], dtype: torch.dtype, layout: str, backend: str) -> None:
    pred, joints, weight = example(shape)
    pred = pred.to(dtype)
    exact = pred.double().clone().requires_grad_()
    expected = in_double(exact, joints.double(), weight.double(), 1.3)
    (expected * 3).backward()
    if layout == "channels_last":
        pred = pred.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        pred = torch.cat([pred, pred], 2)[:, :, : shape[2]]
    pred.requires_grad_()
    with ops.backend(backend):
        loss = ops.heatmap_loss(pred, joints, weight, sigma=1.3)
    (loss * 3).backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert pred.grad is not None and pred.grad.dtype == dtype and exact.grad is not None
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    torch.testing.assert_close(loss.double(), expected, rtol=min(tolerance, 1e-5), atol=0)
    scale = exact.grad.abs().max().item()
    torch.testing.assert_close(pred.grad.double(), exact.grad, rtol=tolerance, atol=1e-7 * (1 + scale))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_of_weight_zero_take_no_part(channels_last: bool, backend: str) -> None:
    pred, joints, weight = example((3, 5, 8, 9))
    weight[0, 1] = weight[2, 4] = 0
    if channels_last:
        pred = pred.contiguous(memory_format=torch.channels_last)
    spoilt, spoilt_joints = pred.clone(), joints.clone()
    spoilt[0, 1] = float("nan")
    spoilt[2, 4] = float("inf")
    spoilt_joints[0, 1] = float("nan")
    results = []
    for p, j in ((pred, joints), (spoilt, spoilt_joints)):
        p = p.requires_grad_()
        with ops.backend(backend):
            loss = ops.heatmap_loss(p, j, weight)
        loss.backward()
        assert p.grad is not None
        results.append((loss.detach(), p.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert not results[0][1][0, 1].any() and not results[0][1][2, 4].any() and results[0][1][0, 0].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 3, 4, 5), (2, 0, 4, 5)])
def test_nothing_to_learn_is_zero(shape: tuple[int, ...], backend: str) -> None:
    pred = torch.randn(shape, requires_grad=True)
    with ops.backend(backend):
        loss = ops.heatmap_loss(pred, torch.zeros(*shape[:2], 2), torch.zeros(shape[:2]))
    loss.backward()
    assert loss.item() == 0 and pred.grad is not None and not pred.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_unit_weights_give_the_mean_squared_error(backend: str) -> None:
    pred, joints, _ = example((2, 3, 10, 12))
    with ops.backend(backend):
        target = ops.gaussian_heatmaps(joints, torch.ones(2, 3), (10, 12))
        loss = ops.heatmap_loss(pred, joints, torch.ones(2, 3))
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(pred, target), rtol=1e-5, atol=0)


@native
@pytest.mark.parametrize("channels_last", [False, True])
def test_any_number_of_threads_gives_the_same_bits(channels_last: bool) -> None:
    pred, joints, weight = example((6, 16, 64, 64))
    if channels_last:
        pred = pred.contiguous(memory_format=torch.channels_last)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            p = pred.detach().requires_grad_()
            loss = ops.heatmap_loss(p, joints, weight)
            loss.backward()
            results.append((loss.detach(), p.grad))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@native
def test_derivatives_and_opcheck() -> None:
    pred, joints, weight = (t.double() for t in example((2, 3, 4, 5)))
    pred.requires_grad_()
    torch.autograd.gradcheck(lambda p: ops.heatmap_loss(p, joints, weight), (pred,), check_forward_ad=True)
    torch.autograd.gradgradcheck(lambda p: ops.heatmap_loss(p, joints, weight), (pred,), check_fwd_over_rev=True)
    single = [t.detach().float() for t in (pred, joints, weight)]
    last = single[0].contiguous(memory_format=torch.channels_last).requires_grad_()
    for p in (single[0].requires_grad_(), last):
        torch.library.opcheck(torch.ops.pyranet_fast.heatmap_loss.default, (p, single[1], single[2], 1.0))
    torch.library.opcheck(torch.ops.pyranet_fast.gaussian_heatmaps.default, (single[1], single[2], 4, 5, 1.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_whole_and_dynamic(backend: str) -> None:
    with ops.backend(backend):
        compiled = torch.compile(ops.heatmap_loss, fullgraph=True, dynamic=True, backend="aot_eager")
        for shape in ((2, 3, 8, 9), (4, 3, 10, 7)):
            pred, joints, weight = example(shape)
            a, b = pred.clone().requires_grad_(), pred.clone().requires_grad_()
            compiled(a, joints, weight).backward()
            ops.heatmap_loss(b, joints, weight).backward()
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussians_are_what_the_formula_says(dtype: torch.dtype, backend: str) -> None:
    joints = torch.tensor([[[3.25, 4.5], [-1.0, 20.0], [2.0, 2.0]]], dtype=dtype)
    weight = torch.tensor([[1.0, 0.5, 0.0]])
    with ops.backend(backend):
        maps = ops.gaussian_heatmaps(joints, weight, (9, 7), sigma=2.0)
    assert maps.shape == (1, 3, 9, 7) and maps.dtype == dtype and not maps.requires_grad
    for k, (x0, y0) in enumerate(joints[0, :2].tolist()):
        for y in range(9):
            for x in range(7):
                exact = math.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8)
                assert maps[0, k, y, x].item() == pytest.approx(exact, rel=1e-5)
    assert not maps[0, 2].any()


def test_bad_arguments_are_named() -> None:
    pred, joints, weight = example((2, 3, 4, 5))
    for sentence, arguments in {
        r"joints must have shape \(N, K, 2\) = \(2, 3, 2\), got \(2, 3, 3\)": (pred, torch.zeros(2, 3, 3), weight),
        r"weight must have shape .*, got \(2, 4\)": (pred, joints, torch.zeros(2, 4)),
        r"pred must be a 4-D tensor .*, got shape \(2, 3\)": (pred[..., 0, 0], joints, weight),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            ops.heatmap_loss(*arguments)
    with pytest.raises(TypeError, match=r"joints must have dtype .*, got int64"):
        ops.heatmap_loss(pred, joints.long(), weight)
    with pytest.raises(ValueError, match="sigma must be a positive number of map pixels, got 0"):
        ops.heatmap_loss(pred, joints, weight, sigma=0)
    with pytest.raises(ValueError, match=r"size must have a height and width of at least 1, got \(0, 3\)"):
        ops.gaussian_heatmaps(joints, weight, (0, 3))
    with pytest.raises(ValueError, match=r"joints must have shape \(N, K, 2\), got \(2, 3\)"):
        ops.gaussian_heatmaps(joints[..., 0], weight, (4, 4))
