"""Triton's pool, in its interpreter, against PyTorch's own fractional_max_pool2d."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from tests.ops.testing import (
    DTYPES,
    INF,
    NAN,
    TOLERANCES,
    compile_in_subprocess,
    huge,
    in_layout,
    rounded,
    spoilt,
    triton_marks,
)

__all__ = ["huge", "spoilt"]
pytestmark = triton_marks
# The interpreter takes 20 ms for a program of the forward and 100 ms for one of the backward, so few maps.
CASES = [  # layout of x and of the gradients, (N, C, H, W), levels, whether every channel has windows of its own
    ("contiguous", "contiguous", (2, 1, 9, 7), [(8, 6), (5, 4), (1, 1)], True),
    ("channels_last", "channels_last", (2, 14, 7, 9), [(6, 8), (4, 5)], True),
    ("channels_last", "channels_last", (2, 28, 6, 5), [(5, 4), (3, 3)], False),
    ("channels_last", "contiguous", (1, 33, 4, 3), [(3, 2)], True),
    ("channels_last", "sliced channels_last", (1, 8, 4, 19), [(3, 16), (2, 9)], False),
    ("contiguous", "contiguous", (1, 2, 2, 2), [(1, 1)], True),
    ("contiguous", "channels_last", (1, 2, 6, 5), [(5, 3)], False),
    ("sliced", "permuted", (1, 2, 6, 5), [(3, 4)], True),
    ("sliced channels_last", "expanded 3", (1, 7, 6, 5), [(4, 3)], True),
    ("permuted", "sliced", (1, 2, 5, 6), [(4, 5)], True),
    ("expanded 3", "scalar", (1, 2, 5, 4), [(4, 2), (2, 3)], False),
]
IDS = ["-".join(map(str, (case[0], case[1], *case[2]))) for case in CASES]


def draw(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def windows(levels: int, n: int, c: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(levels, n, c, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)


def special_values(shape: Sequence[int]) -> Tensor:
    """Numbers with many ties, infinities and NaN."""
    x, chance = draw(shape).round(), torch.rand(*shape, generator=torch.Generator().manual_seed(2))
    x[chance < 0.1], x[chance > 0.9], x[(chance > 0.5) & (chance < 0.55)] = INF, -INF, NAN
    return x


def winners(x: Tensor) -> Tensor:
    """2 * row + column of the maximum of the window that starts at a pixel; 0 in the last row and column."""
    h, w = x.shape[2:]
    _, index = F.max_pool2d(x, 2, 1, return_indices=True)
    y, column = torch.arange(h - 1).unsqueeze(1), torch.arange(w - 1)
    return F.pad(2 * (index // w - y) + index % w - column, (0, 1, 0, 1)).to(torch.uint8)


def pool(
    backend: str, x: Tensor, sizes: Sequence[tuple[int, int]], samples: Tensor, grads: Sequence[Tensor], **options: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Values, and gradients of x and of whatever else wants one."""
    leaf = x.detach().requires_grad_()
    more = {k: v.detach().requires_grad_() if isinstance(v, Tensor) else v for k, v in options.items()}
    with ops.backend(backend):
        values = ops.fractional_max_pool_pyramid(leaf, sizes, samples, **more)
        leaves = [leaf, *(v for v in more.values() if isinstance(v, Tensor))]
        return values, list(torch.autograd.grad(values, leaves, [g.to(values[0].dtype) for g in grads]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_values_winners_and_gradients(case: Any, dtype: torch.dtype, spoilt: None) -> None:
    layout, of_grads, (n, c, h, w), sizes, own = case
    x = in_layout(layout, special_values((n, c, h, w)).to(dtype))
    samples = windows(len(sizes), n, c if own else 1, torch.promote_types(dtype, torch.float32))
    grads = [in_layout(of_grads, draw((n, c, *size), 3).to(dtype)) for size in sizes]
    wide = torch.promote_types(dtype, torch.float32)
    expected, (expected_grad,) = pool("reference", x.to(wide), sizes, samples, [g.to(wide) for g in grads])
    values, (grad,) = pool("triton", x, sizes, samples, grads)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for a, b in zip(values, expected, strict=True):
        torch.testing.assert_close(a, b.to(dtype), rtol=0, atol=0, equal_nan=True)
        assert a.is_contiguous(memory_format=memory_format)
    assert grad.dtype == dtype and grad.is_contiguous(memory_format=memory_format)
    rtol, atol = TOLERANCES[dtype]
    torch.testing.assert_close(grad, expected_grad.to(dtype), rtol=rtol, atol=atol)

    flat = [side for size in sizes for side in size]
    operator = torch.ops.pyranet_fast_triton.fractional_max_pool_pyramid
    again, positions = operator(x, samples, flat, None, None, False, True)
    assert torch.equal(positions, winners(x.to(wide))) and positions.is_contiguous(memory_format=memory_format)
    plain, none = operator(x, samples, flat, None, None, False, False)
    assert none.numel() == 0
    for a, b, c in zip(values, again, plain, strict=True):
        assert torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) and torch.equal(a.nan_to_num(7.5), c.nan_to_num(7.5))


@pytest.mark.parametrize("case", CASES[5:9:2], ids=IDS[5:9:2])
def test_maps_as_if_huge(case: Any, huge: None) -> None:
    test_values_winners_and_gradients(case, torch.float32, None)


ALL = "scale shift relu"
AFFINE = [  # what is present, layout, windows of its own for every channel, dtype
    *((ALL, layout, True, dtype) for layout in ("contiguous", "channels_last") for dtype in DTYPES),
    *((present, "channels_last", False, torch.float32) for present in (ALL, "scale", "shift relu", "relu")),
    (ALL, "contiguous", False, torch.bfloat16),
    ("shift relu", "contiguous", False, torch.float32),
]


@pytest.mark.parametrize("present, layout, own, dtype", AFFINE, ids=str)
def test_folded_batch_norm_and_relu(present: str, layout: str, own: bool, dtype: torch.dtype, spoilt: None) -> None:
    n, c, h, w = (2, 2, 4, 4) if layout == "contiguous" else (2, 14, 5, 6)
    x = in_layout(layout, draw((n, c, h, w)).round().to(dtype))  # some are 0, where ReLU lets no gradient pass
    x[0, 0, 0, 1], x[-1, -1, -1, -1] = NAN, NAN
    vectors = {"scale": draw((c,), 4).float(), "shift": torch.stack((draw((c,), 5), draw((c,), 6)), 1)[:, 0]}
    options = {k: v for k, v in vectors.items() if k in present} | {"relu": "relu" in present}
    sizes = [(3, 3), (2, 3)]
    samples = windows(2, n, c if own else 1)
    grads = [draw((n, c, *size), 3).to(dtype) for size in sizes]
    wide = torch.promote_types(dtype, torch.float32)
    expected, expected_grads = pool("reference", x.to(wide), sizes, samples, [g.to(wide) for g in grads], **options)
    values, got = pool("triton", x, sizes, samples, grads, **options)
    for a, b in zip(values, expected, strict=True):
        torch.testing.assert_close(a, rounded(b, dtype), rtol=0, atol=0, equal_nan=True)
    rtol, atol = TOLERANCES[dtype]
    torch.testing.assert_close(got[0], expected_grads[0].to(dtype), rtol=rtol, atol=atol, equal_nan=True)
    for a, b in zip(got[1:], expected_grads[1:], strict=True):  # of the vectors, in their dtype
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)
    again = pool("triton", x, sizes, samples, grads, **options)[1]
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(got, again, strict=True))


def test_folded_batch_norm_of_maps_as_if_huge(huge: None) -> None:
    test_folded_batch_norm_and_relu("shift relu", "contiguous", True, torch.float32, None)


def test_sums_over_more_parts_than_are_added_at_once() -> None:
    x, grads = draw((33, 1, 2, 2)), [draw((33, 1, 1, 1), 3)]
    options = {"scale": torch.tensor([1.5]).double(), "shift": torch.tensor([0.3]).double()}
    results = [pool(b, x, [(1, 1)], windows(1, 1, 1), grads, **options)[1] for b in ("reference", "triton")]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("own", [True, False], ids=("own windows", "shared windows"))
def test_two_windows_at_one_pixel(own: bool) -> None:
    # Just below 1, i + u rounds up to i + 1, and the window before the last is moved onto the last.
    u = torch.nextafter(torch.ones(()), torch.zeros(()))
    samples = torch.full((2, 1, 3 if own else 1, 2), 0.25)
    samples[0, 0, -1] = u
    samples[1, 0, 0, 1] = u
    x = in_layout("channels_last", draw((1, 3, 9, 9)).float())
    sizes = [(8, 8), (8, 3)]
    grads = [draw((1, 3, *size), 3).float() for size in sizes]
    values, (grad,) = pool("triton", x, sizes, samples, grads)
    expected, (expected_grad,) = pool("reference", x, sizes, samples, grads)
    assert torch.equal(expected[0][:, -1, -1], expected[0][:, -1, -2])
    assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-6)


def test_windows_lie_where_pytorchs_do() -> None:
    # As many samples as possible for few programs: one a channel.
    x = in_layout("channels_last", torch.arange(64 * 64.0).view(1, 1, 64, 64).expand(1, 32, 64, 64).contiguous())
    below_one = torch.nextafter(torch.ones(()), torch.zeros(()))
    for sizes, h, w in (([(53, 9), (45, 1)], 64, 10), ([(63, 3), (32, 5)], 64, 7), ([(7, 37)], 11, 38)):
        samples = windows(len(sizes), 1, 32)
        samples[..., 0, :], samples[..., 1, :], samples[..., 2, :] = 0, below_one, 0.5
        with ops.backend("triton"):
            values = ops.fractional_max_pool_pyramid(x[:, :, :h, :w], sizes, samples)
        for a, u, size in zip(values, samples, sizes, strict=True):
            assert torch.equal(a, F.fractional_max_pool2d(x[:, :, :h, :w], 2, output_size=size, _random_samples=u))


def test_samples_in_another_precision_strided_or_out_of_range() -> None:
    x, u = draw((1, 2, 9, 6)), windows(1, 1, 4, torch.float64)[:, :, ::2].expand(1, 1, 2, 2)
    with ops.backend("triton"):
        for a, b in ((x, u.float()), (x.float(), u), (x, u.flip(3).contiguous().flip(3))):
            (y,) = ops.fractional_max_pool_pyramid(a, [(7, 5)], b)
            assert torch.equal(y, F.fractional_max_pool2d(a, 2, output_size=(7, 5), _random_samples=b[0].to(a.dtype)))
    operator = torch.ops.pyranet_fast_triton.fractional_max_pool_pyramid
    backward = torch.ops.pyranet_fast_triton.fractional_max_pool_pyramid_backward
    bad = torch.tensor([-3.0, 7.5, 1e30, NAN, INF, -INF, 0.5, 1.0]).view(1, 1, 8, 1).expand(1, 1, 8, 2)
    x = in_layout("channels_last", torch.arange(8 * 16.0).view(1, 8, 4, 4))
    values, positions = operator(x, bad, [3, 2], None, None, False, True)
    assert torch.isin(values[0], x).all()
    grad, _, _ = backward(values, positions, bad, None, None, None, False)
    torch.testing.assert_close(grad.sum(), values[0].sum())


def test_many_levels_and_levels_without_gradient() -> None:
    x = in_layout("channels_last", draw((1, 3, 5, 5)).float()).requires_grad_()
    sizes = [(1 + i % 4, 1 + i // 3 % 4) for i in range(7)]
    samples = windows(len(sizes), 1, 3)
    results = []
    for backend in ("reference", "triton"):
        with ops.backend(backend):
            values = ops.fractional_max_pool_pyramid(x, sizes, samples)
        results.append([*values, *torch.autograd.grad(values[1].sum() + values[5].square().sum(), x)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    with ops.backend("triton"), pytest.raises(ValueError, match="supports at most 32 levels on CUDA, got 33"):
        ops.fractional_max_pool_pyramid(x.detach(), [(3, 3)] * 33, windows(33, 1, 1))


@pytest.mark.parametrize("shape", ((0, 3, 8, 8), (2, 0, 8, 8)))
def test_empty_batches(shape: tuple[int, ...]) -> None:
    x, scale = torch.zeros(shape, requires_grad=True), torch.ones(shape[1], requires_grad=True)
    with ops.backend("triton"):
        values = ops.fractional_max_pool_pyramid(x, [(6, 5), (4, 4)], None, scale=scale)
        assert [v.shape for v in values] == [(*shape[:2], 6, 5), (*shape[:2], 4, 4)]
        sum(v.sum() for v in values).backward()
    assert x.grad is not None and x.grad.shape == shape
    assert scale.grad is not None and torch.equal(scale.grad, torch.zeros(shape[1]))


def test_gradcheck() -> None:
    x = in_layout("channels_last", torch.randperm(2 * 2 * 4 * 3).double().view(2, 2, 4, 3).sub(20.3).div(10))
    vectors = [torch.tensor([1.5, -0.7]).double(), torch.tensor([0.11, -0.23]).double()]
    leaves = [t.requires_grad_() for t in (x, *vectors)]

    def function(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        with ops.backend("triton"):
            options = {"scale": scale, "shift": shift, "relu": True}
            return tuple(ops.fractional_max_pool_pyramid(x, [(3, 2)], windows(1, 2, 2), **options))

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_opcheck() -> None:
    forward = torch.ops.pyranet_fast_triton.fractional_max_pool_pyramid.default
    backward = torch.ops.pyranet_fast_triton.fractional_max_pool_pyramid_backward.default
    for layout in ("contiguous", "channels_last"):
        x, vector, samples = in_layout(layout, draw((1, 2, 4, 5)).float()), draw((2,)).float(), windows(1, 1, 2)
        leaves = [t.clone().requires_grad_() for t in (x, vector, vector)]
        torch.library.opcheck(forward, (leaves[0], samples, [3, 4], *leaves[1:], True, True))
        torch.library.opcheck(forward, (x, samples, [3, 4], None, None, False, False))
        values, positions = forward(x, samples, [3, 4], vector, vector, True, True)
        torch.library.opcheck(backward, (values, positions, samples, x, vector, vector, True))


def test_compiled_in_one_graph_with_dynamic_sizes() -> None:
    def function(x: Tensor, samples: Tensor, scale: Tensor) -> Tensor:
        half = (x.shape[2] // 2, x.shape[3] // 2)
        return ops.fractional_max_pool_pyramid(x, [half], samples, scale=scale, relu=True)[0].square().sum()

    with ops.backend("triton"):
        compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
        for n, size in ((1, 4), (2, 6)):
            x = in_layout("channels_last", draw((n, 3, size, size + 1)).float()).requires_grad_()
            scale, samples = draw((3,), 1).float().requires_grad_(), windows(1, n, 3)
            results = [torch.autograd.grad(f(x, samples, scale), (x, scale)) for f in (function, compiled)]
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b)


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    compiled = compile_in_subprocess("fractional_max_pool_pyramid", tmp_path)
    assert len(compiled) == 3 * 3 + 2  # two of the three have sums
