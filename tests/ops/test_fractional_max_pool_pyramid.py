"""The pool against PyTorch's own fractional_max_pool2d: values, winners, gradients, layouts, odd inputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from tests.ops.testing import (
    DTYPES,
    LAYOUTS,
    POOL_CASES,
    PYRAMID,
    TOLERANCES,
    assert_close,
    native_only,
    pool,
    raw,
    starts,
    with_ties,
)


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("case", POOL_CASES, ids=lambda case: "x".join(map(str, case[:4])))
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
    for n, c, h, w, sizes in POOL_CASES:
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
    x = torch.randint(0, 4, (2, 14, 16, 24)).float().contiguous(memory_format=layout)  # many equal ones
    x[0, 0, 3, 5], x[0, 1, 2, 2] = torch.nan, torch.inf
    for size in ((8, 12), (1, 1)):
        of = x[:, :, : 2 * size[0], : 2 * size[1]].contiguous(memory_format=layout).requires_grad_()
        (y,) = pool(of, [size], torch.rand(1, 2, 14, 2))
        expected = F.max_pool2d(of, 2)
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        grad = torch.randn_like(y)
        assert torch.equal(*(torch.autograd.grad(made, of, grad)[0] for made in (y, expected)))


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
