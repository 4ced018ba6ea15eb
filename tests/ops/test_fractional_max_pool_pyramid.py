"""The pool against PyTorch's own fractional_max_pool2d: values, winners, gradients, layouts, odd inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tolerances import TOLERANCES, assert_close
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import _backend, reference

native_only = pytest.mark.skipif(_backend.native_error is not None, reason="the native library is not built")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
PYRAMID = [(53, 53), (45, 45), (38, 38), (32, 32)]
CASES = [
    (2, 28, 64, 64, PYRAMID),
    (2, 14, 16, 32, [(13, 27), (8, 16)]),
    (3, 7, 9, 13, [(1, 1), (8, 12), (5, 3)]),
    (1, 3, 2, 2, [(1, 1)]),
    (2, 1, 11, 7, [(5, 5), (10, 1)]),
    (1, 33, 63, 17, [(62, 16), (31, 2)]),
    (1, 2, 100, 3, [(99, 2), (50, 2), (3, 1)]),
]


def pool(x: Tensor, sizes: Sequence[tuple[int, int]], samples: Tensor, **options: object) -> list[Tensor]:
    return ops.fractional_max_pool_pyramid(x, sizes, samples, **options)


def raw(x: Tensor, sizes: Sequence[tuple[int, int]], samples: Tensor) -> tuple[list[Tensor], Tensor]:
    flat = [side for size in sizes for side in size]
    return torch.ops.pyranet_fast.fractional_max_pool_pyramid(x, samples, flat, None, None, False, True)


def starts(samples: Tensor, size: int, out: int) -> Tensor:
    """(..., out) window starts: the formula, written with tensors."""
    alpha = (torch.tensor(size - 2, dtype=samples.dtype) / max(out - 1, 1)).to(samples.dtype)
    u = samples.unsqueeze(-1)
    first = ((torch.arange(out, dtype=samples.dtype) + u) * alpha).int() - (u * alpha).int()
    first[..., -1] = size - 2
    return first.long()


def with_ties(n: int, c: int, h: int, w: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Few distinct values, so that most windows hold ties."""
    torch.manual_seed(h * w + c)
    return torch.randint(-2, 3, (n, c, h, w)).to(dtype).contiguous(memory_format=layout)


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case[:4])))
def test_values_and_winners_are_pytorchs(
    case: tuple[int, int, int, int, list[tuple[int, int]]], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    n, c, h, w, sizes = case
    x = with_ties(n, c, h, w, dtype, layout)
    x[torch.rand_like(x) < 0.02] = float("nan")
    x[torch.rand_like(x) < 0.02] = float("-inf")
    x[torch.rand_like(x) < 0.02] = float("inf")
    samples = torch.rand(len(sizes), n, c, 2, dtype=dtype)
    values, positions = raw(x, sizes, samples)
    for level, (oh, ow) in enumerate(sizes):
        expected, index = F.fractional_max_pool2d(
            x, 2, output_size=(oh, ow), _random_samples=samples[level], return_indices=True
        )
        assert values[level].is_contiguous(memory_format=layout)
        torch.testing.assert_close(values[level], expected, rtol=0, atol=0, equal_nan=True)
        columns, rows = starts(samples[level, ..., 0], w, ow), starts(samples[level, ..., 1], h, oh)
        at = (rows.unsqueeze(-1) * w + columns.unsqueeze(-2)).flatten(2)
        winner = positions.contiguous().flatten(2).gather(2, at).long()
        assert torch.equal(at + winner // 2 * w + winner % 2, index.contiguous().flatten(2))


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", ("plain", "scale and shift", "relu", "all"))
def test_values_and_gradients_are_the_references(dtype: torch.dtype, layout: torch.memory_format, affine: str) -> None:
    for n, c, h, w, sizes in CASES:
        for sharing in ((n, c), (n, 1), (1, c), (1, 1)):
            x = with_ties(n, c, h, w, dtype, layout)
            x += torch.randn_like(x) * (torch.rand_like(x) < 0.5)
            vectors = {}
            if affine in ("scale and shift", "all"):
                vectors = {"scale": torch.randn(c), "shift": torch.randn(c)}
            samples = torch.rand(len(sizes), *sharing, 2)
            results = []
            for backend in ("reference", "native"):
                leaf = x.clone().requires_grad_()
                leaves = {name: v.clone().requires_grad_() for name, v in vectors.items()}
                with ops.backend(backend):
                    values = pool(leaf, sizes, samples, relu=affine in ("relu", "all"), **leaves)
                torch.manual_seed(1)
                grads = [torch.randn(v.shape).to(dtype) for v in values]
                torch.autograd.backward(values, grads)
                results.append((values, leaf.grad, [v.grad for v in leaves.values()]))
            (values, grad, vector_grads), (native_values, native_grad, native_vector_grads) = results
            for expected, actual in zip(values, native_values, strict=True):
                assert torch.equal(actual, expected) and actual.dtype == dtype
            assert native_grad.is_contiguous(memory_format=layout)
            # The reference adds a gradient of low precision up level by level; the kernel rounds once.
            rtol, atol = TOLERANCES[dtype]
            slack = 1 if dtype in (torch.float32, torch.float64) else 8
            torch.testing.assert_close(native_grad, grad, rtol=slack * rtol, atol=slack * max(rtol, atol))
            for actual, expected in zip(native_vector_grads, vector_grads, strict=True):
                wide = 1e-4 if dtype in (torch.float32, torch.float64) else 0.02
                torch.testing.assert_close(actual, expected, rtol=wide, atol=wide * 10)


@native_only
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_low_precision_gradient_is_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(2, 28, 16, 16).to(dtype)
    samples = torch.rand(4, 2, 28, 2)
    sizes = [(13, 13), (11, 11), (9, 9), (8, 8)]
    wide, narrow = x.float().requires_grad_(), x.clone().requires_grad_()
    grads = [torch.randn(2, 28, *s).to(dtype) for s in sizes]
    torch.autograd.backward(pool(wide, sizes, samples), [g.float() for g in grads])
    torch.autograd.backward(pool(narrow, sizes, samples), grads)
    assert torch.equal(narrow.grad, wide.grad.to(dtype))


@native_only
def test_bfloat16_rounding() -> None:
    infinity = float("inf")
    special = [float("nan"), infinity, -infinity, 3.3e38, -3.39e38, 1e-40, 1 + 2**-8, 1 + 3 * 2**-8, -0.0]
    for layout in LAYOUTS:
        x = torch.ones(1, 9, 3, 3, dtype=torch.bfloat16).contiguous(memory_format=layout)
        scale = torch.tensor(special)
        (y,) = pool(x, [(1, 1)], torch.rand(1, 1, 1, 2), scale=scale)
        torch.testing.assert_close(y.flatten(), scale.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_half_size_is_ordinary_max_pooling(layout: torch.memory_format) -> None:
    x = torch.randn(2, 14, 16, 24).contiguous(memory_format=layout)
    (y,) = pool(x, [(8, 12)], torch.rand(1, 2, 14, 2))
    assert torch.equal(y, F.max_pool2d(x, 2))


@native_only
def test_extreme_samples() -> None:
    below_one = torch.nextafter(torch.ones(()), torch.zeros(()))
    for layout in LAYOUTS:
        for size in range(2, 66):
            x = torch.randn(1, 3, size, size).contiguous(memory_format=layout)
            sizes = [(out, out) for out in sorted({1, size // 2, size * 3 // 4, size - 1} - {0})]
            samples = torch.zeros(len(sizes), 1, 3, 2)
            samples[..., 1, :], samples[..., 2, 0] = below_one, below_one
            for y, u, s in zip(pool(x, sizes, samples), samples, sizes, strict=True):
                assert torch.equal(y, F.fractional_max_pool2d(x, 2, output_size=s, _random_samples=u))


@native_only
def test_float64_samples_for_float32_maps_and_the_reverse() -> None:
    samples = torch.rand(1, 1, 9, 2, dtype=torch.float64)
    for x, u in ((torch.randn(1, 9, 64, 64), samples), (torch.randn(1, 9, 64, 64).double(), samples.float())):
        (y,) = pool(x, [(53, 45)], u)
        expected = F.fractional_max_pool2d(x, 2, output_size=(53, 45), _random_samples=u[0].to(x.dtype))
        assert torch.equal(y, expected)


@native_only
def test_more_than_65535_pixels() -> None:
    for layout in LAYOUTS:
        for shape in ((1, 2, 300, 301), (1, 3, 3, 70001), (1, 3, 70001, 3)):
            x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
            size = (shape[2] * 5 // 6, shape[3] * 5 // 6)
            samples = torch.rand(1, 1, shape[1], 2)
            results = []
            for backend in ("reference", "native"):
                with ops.backend(backend):
                    (y,) = pool(x, [size], samples)
                (grad,) = torch.autograd.grad(y.square().sum(), x)
                results.append((y, grad))
            assert torch.equal(results[0][0], results[1][0])
            assert_close(results[1][1], results[0][1])


@native_only
@pytest.mark.parametrize("shape", ((0, 28, 8, 8), (4, 0, 8, 8), (0, 0, 8, 8)))
def test_empty_batch(shape: tuple[int, ...]) -> None:
    for layout in LAYOUTS:
        x = torch.empty(shape).contiguous(memory_format=layout).requires_grad_()
        scale = torch.ones(shape[1], requires_grad=True)
        values = pool(x, [(6, 5), (4, 4)], None, scale=scale)
        assert [v.shape for v in values] == [(*shape[:2], 6, 5), (*shape[:2], 4, 4)]
        torch.autograd.backward(sum(v.sum() for v in values))
        assert x.grad.shape == shape
        assert torch.equal(scale.grad, torch.zeros(shape[1]))


def strided(layout: str, shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """A tensor of a shape with unusual strides."""
    torch.manual_seed(seed)
    n, c, h, w = shape
    if layout == "sliced":
        return torch.randn(n, c + 2, h + 3, 2 * w)[:, 1:-1, 2:-1, ::2]
    if layout == "permuted":
        return torch.randn(w, n, c, h).permute(1, 2, 3, 0)
    if layout == "sliced channels_last":
        return torch.randn(2 * n, h + 1, w, c + 3).permute(0, 3, 1, 2)[::2, 1:-2, :-1]
    if layout == "expanded":
        return torch.randn(n, 1, h, 1).expand(shape)
    return torch.randn(()).expand(shape)


@native_only
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("layout", ("sliced", "permuted", "sliced channels_last", "expanded", "scalar"))
def test_unusual_strides_of_inputs_and_gradients(layout: str, dtype: torch.dtype) -> None:
    shape, sizes = (2, 9, 12, 10), [(10, 9), (6, 5)]
    samples = torch.rand(2, 2, 9, 4)[..., ::2]
    x = strided(layout, shape, 0).to(dtype)
    dense_grads = [torch.randn(2, 9, *s).to(dtype) for s in sizes]
    odd_grads = [strided(layout, (2, 9, *s), i).to(dtype) for i, s in enumerate(sizes)]
    for main in LAYOUTS:
        main_x = x.contiguous(memory_format=main)
        for inputs, grads in ((x, dense_grads), (main_x, odd_grads), (x, odd_grads)):
            leaf = inputs.detach().requires_grad_()
            values = pool(leaf, sizes, samples)
            (grad,) = torch.autograd.grad(values, leaf, grads)
            plain = x.detach().contiguous().requires_grad_()
            expected = pool(plain, sizes, samples)
            (expected_grad,) = torch.autograd.grad(expected, plain, [g.contiguous() for g in grads])
            assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))
            # Layouts add the same numbers up in another order.
            torch.testing.assert_close(grad, expected_grad, rtol=2 * TOLERANCES[dtype][0], atol=1e-2)


@native_only
def test_levels_without_gradient() -> None:
    for layout in LAYOUTS:
        x = torch.randn(2, 9, 12, 10).contiguous(memory_format=layout).requires_grad_()
        samples = torch.rand(3, 2, 9, 2)
        values = pool(x, [(10, 9), (6, 5), (7, 7)], samples)
        (grad,) = torch.autograd.grad(values[1].sum(), x)
        (alone,) = torch.autograd.grad(pool(x, [(6, 5)], samples[1:2])[0].sum(), x)
        assert torch.equal(grad, alone)


@native_only
def test_only_scale_or_only_shift_needs_a_gradient() -> None:
    x, samples = torch.randn(2, 5, 8, 8), torch.rand(1, 2, 5, 2)
    scale, shift = torch.randn(5), torch.randn(5, dtype=torch.float64).requires_grad_()
    grads = []
    for backend in ("reference", "native"):
        with ops.backend(backend):
            (y,) = pool(x, [(7, 6)], samples, scale=scale, shift=shift, relu=True)
        grads.append(torch.autograd.grad(y.square().sum(), shift)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_same_bits_with_any_number_of_threads(layout: torch.memory_format) -> None:
    x = torch.randn(1, 28, 64, 64).contiguous(memory_format=layout).requires_grad_()
    scale, shift = torch.randn(28, requires_grad=True), torch.randn(28, requires_grad=True)
    samples = torch.rand(4, 1, 28, 2)
    grads = [torch.randn(1, 28, *s) for s in PYRAMID]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            values = pool(x, PYRAMID, samples, scale=scale, shift=shift, relu=True)
            results.append([*values, *torch.autograd.grad(values, (x, scale, shift), grads)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_gradcheck(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    # Distinct values far apart: no window may change its winner within gradcheck's step.
    x = torch.randperm(2 * 3 * 6 * 5).double().view(2, 3, 6, 5).sub(90.3).div(10)
    x = x.contiguous(memory_format=layout).requires_grad_()
    scale = torch.tensor([1.5, -0.7, 0.9], dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([0.11, -0.23, 0.37], dtype=torch.float64, requires_grad=True)
    samples = torch.rand(3, 2, 3, 2)
    sizes = [(5, 4), (3, 2), (1, 1)]

    def function(x: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool) -> tuple[Tensor, ...]:
        return tuple(pool(x, sizes, samples, scale=scale, shift=shift, relu=relu))

    assert torch.autograd.gradcheck(function, (x, None, None, False))
    assert torch.autograd.gradcheck(function, (x, scale, shift, True))


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 12, 10).to(dtype).contiguous(memory_format=layout)
    vector = torch.randn(9)
    samples = torch.rand(2, 2, 9, 2)
    forward = torch.ops.pyranet_fast.fractional_max_pool_pyramid.default
    backward = torch.ops.pyranet_fast.fractional_max_pool_pyramid_backward.default
    flat = [10, 9, 6, 5]
    torch.library.opcheck(forward, (x, samples, flat, None, None, False, False))
    torch.library.opcheck(forward, (x.clone().requires_grad_(), samples, flat, None, None, False, True))
    leaves = [t.clone().requires_grad_() for t in (x, vector, vector)]
    torch.library.opcheck(forward, (leaves[0], samples, flat, *leaves[1:], True, True))
    values, positions = forward(x, samples, flat, vector, vector, True, True)
    grads = [torch.randn_like(v) for v in values]
    torch.library.opcheck(backward, (grads, positions, samples, None, None, None, False))
    torch.library.opcheck(backward, (grads, positions, samples, x, vector, vector, True))


@native_only
def test_compiled_in_one_graph_with_dynamic_sizes() -> None:
    def function(x: Tensor, samples: Tensor, scale: Tensor) -> Tensor:
        half = (x.shape[2] // 2, x.shape[3] // 2)
        values = ops.fractional_max_pool_pyramid(
            x, [half, (x.shape[2] * 5 // 6, x.shape[3] * 5 // 6)], samples, scale=scale, relu=True
        )
        return values[0].square().sum() + values[1].sin().sum()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, size, layout in ((2, 12, LAYOUTS[0]), (3, 18, LAYOUTS[0]), (2, 14, LAYOUTS[1])):
        x = torch.randn(n, 9, size, size + 2).contiguous(memory_format=layout).requires_grad_()
        scale = torch.randn(9, requires_grad=True)
        samples = torch.rand(2, n, 9, 2)
        results = []
        for f in (function, compiled):
            loss = f(x, samples, scale)
            results.append((loss, *torch.autograd.grad(loss, (x, scale))))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


@native_only
def test_exported() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, samples: Tensor) -> list[Tensor]:
            return ops.fractional_max_pool_pyramid(x, [(8, 8), (5, 4)], samples)

    x, samples = torch.randn(2, 3, 9, 9), torch.rand(2, 1, 1, 2)
    program = torch.export.export(Module(), (x, samples))
    for a, b in zip(program.module()(x, samples), pool(x, [(8, 8), (5, 4)], samples), strict=True):
        assert torch.equal(a, b)


@native_only
def test_autocast_leaves_the_dtype_alone() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(1, 8, 8, 8).to(dtype).requires_grad_()
            scale = torch.ones(8, requires_grad=True)
            (y,) = pool(x, [(6, 6)], None, scale=scale)
            y.sum().backward()
            assert y.dtype == x.grad.dtype == dtype and scale.grad.dtype == torch.float32


@native_only
def test_double_backward_raises_by_name() -> None:
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    (y,) = pool(x, [(6, 6)], None)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="fractional_max_pool_pyramid has no double backward"):
        grad.sum().backward()


@native_only
def test_meta_tensors() -> None:
    x = torch.empty(2, 9, 12, 10, device="meta", memory_format=torch.channels_last).requires_grad_()
    values = ops.fractional_max_pool_pyramid(x, [(10, 9), (6, 5)])
    assert [v.shape for v in values] == [(2, 9, 10, 9), (2, 9, 6, 5)]
    assert all(v.is_contiguous(memory_format=torch.channels_last) and v.is_meta for v in values)
    torch.autograd.backward(values[0].sum())
    assert x.grad.shape == x.shape


@native_only
def test_no_positions_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    operator = torch.ops.pyranet_fast.fractional_max_pool_pyramid

    def spy(*arguments: object) -> tuple[list[Tensor], Tensor]:
        asked.append(arguments[-1])
        return operator(*arguments)

    monkeypatch.setattr(torch.ops.pyranet_fast, "fractional_max_pool_pyramid", spy)
    x = torch.randn(1, 2, 8, 8)
    plain = pool(x, [(6, 6)], torch.full((1, 1, 1, 2), 0.3))
    with torch.no_grad():
        pool(x.clone().requires_grad_(), [(6, 6)], None)
    recorded = pool(x.clone().requires_grad_(), [(6, 6)], torch.full((1, 1, 1, 2), 0.3))
    assert asked == [False, False, True]
    assert torch.equal(plain[0], recorded[0])


@native_only
def test_what_is_kept_for_the_backward() -> None:
    kept: list[Tensor] = []
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        pool(x, [(13, 13), (11, 11)], None)
    large = [t for t in kept if t.numel() > 64]
    assert [(t.dtype, t.shape) for t in large] == [(torch.uint8, x.shape)]


@pytest.mark.parametrize("backend", ops.available_backends())
def test_none_draws_from_the_default_generator(backend: str) -> None:
    x = torch.randn(2, 3, 16, 16)
    with ops.backend(backend):
        torch.manual_seed(5)
        drawn = ops.fractional_max_pool_pyramid(x, [(13, 13), (9, 9)])
        torch.manual_seed(5)
        given = pool(x, [(13, 13), (9, 9)], torch.rand(2, 2, 3, 2))
        other = ops.fractional_max_pool_pyramid(x, [(13, 13), (9, 9)])
    assert all(torch.equal(a, b) for a, b in zip(drawn, given, strict=True))
    assert not torch.equal(drawn[0], other[0])


@native_only
def test_samples_out_of_range_cannot_leave_the_map() -> None:
    for layout in LAYOUTS:
        x = torch.arange(9 * 64.0).view(1, 9, 8, 8).contiguous(memory_format=layout)
        for bad in (-3.0, 7.5, 1e30, float("nan"), float("inf")):
            samples = torch.full((1, 1, 9, 2), bad)
            samples[:, :, ::2] = 0.5
            values, positions = raw(x, [(6, 6)], samples)
            assert torch.isin(values[0], x).all()
            torch.ops.pyranet_fast.fractional_max_pool_pyramid_backward(
                values, positions, samples, None, None, None, False
            )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.randn(3, 8, 8)}, ValueError, "x has shape"),
        ({"x": torch.ones(1, 3, 8, 8, dtype=torch.int32)}, TypeError, "x has dtype int32"),
        ({"x": [1, 2]}, TypeError, "x is a list"),
        ({"output_sizes": []}, ValueError, "output_sizes is empty"),
        ({"output_sizes": [(8, 6)]}, ValueError, r"output_sizes\[0\] is \(8, 6\)"),
        ({"output_sizes": [(0, 6)]}, ValueError, r"output_sizes\[0\] is \(0, 6\)"),
        ({"output_sizes": [(6,)]}, ValueError, r"output_sizes\[0\]"),
        ({"samples": torch.rand(1, 2, 3, 2)}, ValueError, "samples has shape"),
        ({"samples": torch.full((1, 1, 3, 2), 1.0)}, ValueError, "samples has values"),
        ({"samples": torch.full((1, 1, 3, 2), float("nan"))}, ValueError, "samples has values"),
        ({"samples": torch.rand(1, 1, 3, 2).half()}, TypeError, "samples has dtype"),
        ({"samples": torch.rand(1, 1, 3, 2, device="meta")}, ValueError, "samples is on meta"),
        ({"scale": torch.ones(4)}, ValueError, "scale has shape"),
        ({"shift": torch.ones(3, dtype=torch.int64)}, TypeError, "shift has dtype"),
    ],
)
def test_bad_arguments(change: dict[str, object], error: type[Exception], words: str) -> None:
    arguments: dict[str, object] = {
        "x": torch.randn(1, 3, 8, 8),
        "output_sizes": [(6, 6)],
        "samples": torch.rand(1, 1, 3, 2),
        "scale": None,
        "shift": None,
    }
    with pytest.raises(error, match=words):
        ops.fractional_max_pool_pyramid(**{**arguments, **change})


_OTHER_ISA = """
import torch
from pyranet_fast import ops
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    for layout in (torch.contiguous_format, torch.channels_last):
        for c, sharing in ((28, 28), (7, 7), (14, 1)):
            torch.manual_seed(0)
            sizes = [(26, 22), (19, 16)]
            x = torch.randn(2, c, 32, 27).to(dtype).contiguous(memory_format=layout)
            samples, vector = torch.rand(2, 2, sharing, 2), torch.randn(c)
            results = []
            for backend in ("reference", "native"):
                leaf = x.clone().requires_grad_()
                with ops.backend(backend):
                    values = ops.fractional_max_pool_pyramid(
                        leaf, sizes, samples, scale=vector, shift=vector, relu=True
                    )
                torch.autograd.backward(values, [torch.ones_like(v) for v in values])
                results.append([*values, leaf.grad])
            assert all(torch.equal(a, b) for a, b in zip(results[0][:2], results[1][:2])), (dtype, layout, c)
            tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(results[0][2], results[1][2], rtol=tolerance, atol=tolerance)
print("same")
"""


@native_only
@pytest.mark.parametrize("isa", ("baseline", "avx2", "avx512"))
def test_every_instruction_set(isa: str) -> None:
    """Wider sets than the CPU has fall back to what it has, so this runs everywhere."""
    root = Path(ops.__file__).parents[2]
    environment = {**os.environ, "PYRANET_FAST_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", _OTHER_ISA], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "same", done.stderr[-2000:]


def test_reference_is_pytorch() -> None:
    x, samples = torch.randn(2, 3, 16, 16), torch.rand(1, 2, 3, 2)
    (y,) = reference.fractional_max_pool_pyramid(x, [(13, 12)], samples)
    assert torch.equal(y, F.fractional_max_pool2d(x, 2, output_size=(13, 12), _random_samples=samples[0]))
