"""Every operator's CUDA kernels, native and Triton, against the reference on the CPU and native PyTorch on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from tests.ops.testing import TOLERANCES, assert_close

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "sliced", "permuted")
PYRAMID = [(53, 53), (45, 45), (38, 38), (32, 32)]
SHAPES = [  # batch, channels, (H, W), levels
    (4, 28, (64, 64), PYRAMID),
    (3, 14, (32, 32), [(27, 27), (22, 22), (19, 19), (16, 16)]),
    (2, 7, (17, 23), [(13, 18), (9, 12), (1, 1)]),
    (1, 33, (130, 9), [(129, 8), (65, 5)]),
    (2, 1, (5, 4), [(4, 3)]),
    (2, 256, (8, 8), [(7, 7), (4, 4)]),
]


def draw(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arrange(x: Tensor, layout: str) -> Tensor:
    """The same values on the GPU, in other strides."""
    x = x.cuda()
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.cat([x, x.flip(3)], 3)[..., : x.shape[3]]
    return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) if layout == "permuted" else x


def on_reference(function: Callable[..., Any], *inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and, for the leaves, a way to get gradients: float64 or float32 on the CPU."""
    leaves = [x.detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_() for x in inputs]
    with ops.backend("reference"):
        out = function(*leaves)
    return list(out) if isinstance(out, list | tuple) else [out], leaves


def near(actual: Tensor, expected: Tensor) -> None:
    rtol, atol = TOLERANCES[actual.dtype]
    inexact = 0 if actual.dtype == torch.float64 else 2e-5 * expected.abs().max().item()
    torch.testing.assert_close(actual.cpu().double(), expected.double(), rtol=rtol, atol=max(atol, inexact))


@pytest.mark.parametrize("shared", [False, True], ids=("own windows", "shared windows"))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_pool(backend: str, case: Any, dtype: torch.dtype, layout: str, shared: bool) -> None:
    n, c, size, levels = case
    x = draw((n, c, *size), dtype, 0).round(decimals=1)  # some ties
    samples = torch.rand(len(levels), n, 1 if shared else c, 2, generator=torch.Generator().manual_seed(1))
    (expected, leaves) = on_reference(lambda x: ops.fractional_max_pool_pyramid(x, levels, samples), x)
    ours = arrange(x, layout).requires_grad_()
    with ops.backend(backend):
        got = ops.fractional_max_pool_pyramid(ours, levels, samples.cuda())
        grads = [draw(v.shape, dtype, 5) for v in expected]
        (grad_x,) = torch.autograd.grad(got, ours, [arrange(g, layout) for g in grads], retain_graph=True)
        (again,) = torch.autograd.grad(got, ours, [arrange(g, layout) for g in grads])
    for a, b, (h, w), u in zip(got, expected, levels, samples, strict=True):
        assert torch.equal(a.cpu(), b.to(dtype))
        if dtype in (torch.float32, torch.float64):
            u = u.to(dtype).expand(n, c, 2).contiguous().cuda()
            native = F.fractional_max_pool2d(ours.contiguous(), 2, output_size=(h, w), _random_samples=u)
            assert torch.equal(a, native)
    torch.autograd.backward(expected, [g.to(b.dtype) for g, b in zip(grads, expected, strict=True)])
    near(grad_x, leaves[0].grad)
    assert torch.equal(grad_x, again)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pool_with_affine(backend: str, dtype: torch.dtype, layout: str) -> None:
    n, c, size, levels = SHAPES[1]
    x, scale, shift = draw((n, c, *size), dtype, 0), draw((c,), torch.float32, 1), draw((c,), torch.float32, 2)
    samples = torch.rand(len(levels), n, c, 2, generator=torch.Generator().manual_seed(1))
    expected, leaves = on_reference(
        lambda x, s, b: ops.fractional_max_pool_pyramid(x, levels, samples, scale=s, shift=b, relu=True),
        x.double() if dtype == torch.float64 else x,
        scale,
        shift,
    )
    ours = [arrange(x, layout).requires_grad_(), scale.cuda().requires_grad_(), shift.cuda().requires_grad_()]
    with ops.backend(backend):
        got = ops.fractional_max_pool_pyramid(ours[0], levels, samples.cuda(), scale=ours[1], shift=ours[2], relu=True)
        grads = [draw(v.shape, dtype, 5) for v in expected]
        got_grads = torch.autograd.grad(got, ours, [g.cuda() for g in grads])
    for a, b in zip(got, expected, strict=True):
        near(a, b.detach())
    torch.autograd.backward(expected, [g.to(b.dtype) for g, b in zip(grads, expected, strict=True)])
    near(got_grads[0], leaves[0].grad)
    for a, leaf in zip(got_grads[1:], leaves[1:], strict=True):
        torch.testing.assert_close(a.cpu(), leaf.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_upsample_sum(backend: str, case: Any, dtype: torch.dtype, layout: str, align_corners: bool) -> None:
    n, c, size, levels = case
    maps = [draw((n, c, *level), dtype, i) for i, level in enumerate(levels)]
    base, grad = draw((n, c, *size), dtype, 8), draw((n, c, *size), dtype, 9)
    (expected,), leaves = on_reference(
        lambda *m: ops.upsample_sum(m[:-1], size, base=m[-1], align_corners=align_corners), *maps, base
    )
    ours = [arrange(m, layout).requires_grad_() for m in (*maps, base)]
    with ops.backend(backend):
        got = ops.upsample_sum(ours[:-1], size, base=ours[-1], align_corners=align_corners)
        grads = torch.autograd.grad(got, ours, arrange(grad, layout), retain_graph=True)
        again = torch.autograd.grad(got, ours, arrange(grad, layout))
    near(got, expected.detach())
    expected.backward(grad.to(expected.dtype))
    for a, b, leaf in zip(grads, again, leaves, strict=True):
        near(a, leaf.grad)
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_upsample_sum_with_affine(backend: str, dtype: torch.dtype, layout: str) -> None:
    maps = [draw((2, 14, 9, 11), dtype, 0), draw((2, 14, 5, 4), dtype, 1)]
    scale, shift = draw((14,), torch.float32, 2), draw((14,), torch.float32, 3)
    wide = torch.promote_types(dtype, torch.float32)
    with ops.backend("reference"):
        expected = ops.upsample_sum([m.to(wide) for m in maps], (13, 12), scale=scale, shift=shift, relu=True)
    with ops.backend(backend), torch.no_grad():
        got = ops.upsample_sum(
            [arrange(m, layout) for m in maps], (13, 12), scale=scale.cuda(), shift=shift.cuda(), relu=True
        )
    rtol = TOLERANCES[dtype][0]
    torch.testing.assert_close(got.cpu().double(), expected.double(), rtol=3 * rtol, atol=max(2e-2 * rtol, 1e-5))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_canvas(backend: str, dtype: torch.dtype, layout: str) -> None:
    """Pooling onto a canvas and summing from it are exactly pooling and summing."""
    n, c, size, levels = SHAPES[1]
    canvas = ops.canvas_of(levels)
    samples = torch.rand(len(levels), n, c, 2, generator=torch.Generator().manual_seed(1)).cuda()
    results = []
    with ops.backend(backend):
        for on_canvas in (False, True):
            x = arrange(draw((n, c, *size), dtype, 0), layout).requires_grad_()
            if on_canvas:
                pooled = ops.fractional_max_pool_canvas(x, canvas, samples)
                out = ops.upsample_sum_canvas(pooled, canvas, size, base=x)
            else:
                out = ops.upsample_sum(ops.fractional_max_pool_pyramid(x, levels, samples), size, base=x)
            out.backward(arrange(draw((n, c, *size), dtype, 3), layout))
            results.append((out.detach(), x.grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("refine", ["none", "quarter"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(64, 64), (17, 23), (1, 1), (5, 200)])
def test_argmax(backend: str, size: tuple[int, int], dtype: torch.dtype, layout: str, refine: str) -> None:
    maps = draw((3, 16, *size), dtype, 0).round(decimals=1)
    maps[0, 0, -1, -1], maps[0, 1] = torch.nan, -torch.inf
    other, swap = draw((3, 16, *size), dtype, 1), torch.arange(15, -1, -1)
    with ops.backend("reference"):
        expected = ops.heatmap_argmax(maps, refine=refine)
        expected_mean = ops.heatmap_argmax(maps, refine=refine, mirrored=other, swap=swap)
    with ops.backend(backend), torch.no_grad():
        got = ops.heatmap_argmax(arrange(maps, layout), refine=refine)
        mean = ops.heatmap_argmax(
            arrange(maps, layout), refine=refine, mirrored=arrange(other, layout), swap=swap.cuda()
        )
    for a, b in zip((*got, *mean), (*expected, *expected_mean), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=0, equal_nan=True)
    ours = arrange(maps, layout).requires_grad_()
    with ops.backend(backend):
        ops.heatmap_argmax(ours)[1].sum().backward()
    assert ours.grad is not None and ours.grad.sum() == 48 and ours.grad.count_nonzero() == 48


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(64, 64), (17, 23), (1, 1)])
def test_loss_and_targets(backend: str, size: tuple[int, int], dtype: torch.dtype, layout: str) -> None:
    pred = draw((3, 16, *size), dtype, 0)
    joints = torch.rand(3, 16, 2, generator=torch.Generator().manual_seed(2)) * max(size)
    weight = (torch.rand(3, 16, generator=torch.Generator().manual_seed(3)) > 0.3).float()
    pred[weight == 0] = torch.nan
    (expected,), (leaf,) = on_reference(lambda p: ops.heatmap_loss(p, joints, weight), pred)
    ours = arrange(pred, layout).requires_grad_()
    with ops.backend(backend):
        got = ops.heatmap_loss(ours, joints.cuda(), weight.cuda())
        (grad,) = torch.autograd.grad(got, ours, retain_graph=True)
        assert torch.equal(grad, torch.autograd.grad(got, ours)[0])
        assert torch.equal(got, ops.heatmap_loss(ours, joints.cuda(), weight.cuda()))
        targets = ops.gaussian_heatmaps(joints.cuda(), weight.cuda(), size)
    torch.testing.assert_close(got.cpu().double(), expected.detach().double(), rtol=1e-5, atol=1e-7)
    expected.backward()
    near(grad, leaf.grad)
    with ops.backend("reference"):
        assert_close(targets.cpu(), ops.gaussian_heatmaps(joints, weight, size))


@pytest.mark.parametrize("other", [None, "same", "twice"])
@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("outputs", [1, 3, 5])
def test_add_affine_relu(backend: str, outputs: int, dtype: torch.dtype, layout: str, other: str | None) -> None:
    n, c, h, w = 2, 28, 16, 20
    # Few digits: sums are exact, and the norms' results are rounded once.
    x = draw((n, c, h // 2, w // 2) if other == "twice" else (n, c, h, w), torch.float64, 0).mul(8).round() / 8
    more = None if other is None else draw((n, c, h, w), torch.float64, 1).mul(8).round() / 8
    wide = torch.promote_types(dtype, torch.float32)
    scale, shift = draw((outputs, c), wide, 2), draw((outputs, c), wide, 3)
    with ops.backend("reference"):
        exact = ops.add_affine_relu(
            x.to(wide), None if more is None else more.to(wide), scale, shift, keep=more is not None
        )
    with ops.backend(backend):
        got = ops.add_affine_relu(
            arrange(x.to(dtype), layout),
            None if more is None else arrange(more.to(dtype), layout),
            scale.cuda(),
            shift.cuda(),
            keep=more is not None,
        )
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == dtype and a.is_contiguous(memory_format=torch.channels_last)
        near(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(16, 28, 64, 64), (4, 256, 32, 32), (3, 7, 9, 11), (2, 130, 1, 1)], ids=str)
def test_batch_norm_relu(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    c, wide = shape[1], torch.promote_types(dtype, torch.float32)
    x, grad = (draw(shape, torch.float64, 0) * 3 + 20).to(dtype), draw(shape, dtype, 1)
    weight, bias = draw((c,), wide, 2), draw((c,), wide, 3)
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    moved = [torch.zeros(c).double(), torch.ones(c).double(), torch.tensor(3)]
    with ops.backend("reference"):
        y = ops.batch_norm_relu(*exact, *moved)
    y.backward(grad.double())
    results = []
    for _ in range(2):
        leaves = [arrange(x, layout).requires_grad_(), weight.cuda().requires_grad_(), bias.cuda().requires_grad_()]
        averages = [torch.zeros(c, dtype=wide).cuda(), torch.ones(c, dtype=wide).cuda(), torch.tensor(3).cuda()]
        with ops.backend("native"):
            out = ops.batch_norm_relu(*leaves, *averages)
        out.backward(arrange(grad, layout))
        results.append([out.detach(), *(leaf.grad for leaf in leaves), *averages])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), "two runs, other bits"
    assert averages[2] == 4
    rounding = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    for a, b in zip(results[0][:-1], [y, *(leaf.grad for leaf in exact), *moved[:2]], strict=True):
        tolerance = 2 * (rounding if a.dtype == dtype else 2e-5)
        torch.testing.assert_close(a.cpu().double(), b.detach(), rtol=tolerance, atol=tolerance * b.abs().max().item())


def test_empty_batches(backend: str) -> None:
    x = torch.zeros(0, 3, 8, 8).cuda().requires_grad_()
    with ops.backend(backend):
        out = ops.upsample_sum(ops.fractional_max_pool_pyramid(x, [(4, 4)]), (8, 8))
        out.sum().backward()
        coords, scores = ops.heatmap_argmax(x)
        loss = ops.heatmap_loss(x, torch.zeros(0, 3, 2).cuda(), torch.zeros(0, 3).cuda())
    assert x.grad is not None and coords.shape == (0, 3, 2) and scores.shape == (0, 3) and loss == 0
