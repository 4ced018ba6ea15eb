"""The pool as an operator of PyTorch: graphs, export, autocast, what is kept, arguments, instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import reference
from tests.ops.testing import LAYOUTS, POOL_CASES, native_only, pool, raw, with_ties


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
@pytest.mark.parametrize("affine", (False, True))
def test_derivatives_of_every_order(affine: bool) -> None:
    torch.manual_seed(0)
    x, samples = torch.randn(2, 3, 6, 5).double(), torch.rand(2, 2, 3, 2)
    vectors = [torch.randn(3).double() for _ in range(2 * affine)]

    def f(x: Tensor, *vectors: Tensor) -> list[Tensor]:
        options = dict(zip(("scale", "shift"), vectors, strict=False))
        return pool(x, [(5, 3), (2, 4)], samples, relu=affine, **options)

    inputs = [t.requires_grad_() for t in (x, *vectors)]
    torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    torch.autograd.gradgradcheck(lambda *t: [y.sin() for y in f(*t)], inputs, check_fwd_over_rev=True)


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("n", "c", "h", "w", "sizes"), POOL_CASES)
def test_tangents_and_second_gradients_take_the_winners_of_the_kernel(
    n: int, c: int, h: int, w: int, sizes: list[tuple[int, int]], layout: torch.memory_format
) -> None:
    x = with_ties(n, c, h, w, torch.float32, layout).requires_grad_()
    samples = torch.rand(len(sizes), n, c, 2)
    index = torch.arange(h * w, dtype=torch.float32).view(1, 1, h, w).expand_as(x)
    _, winners = torch.func.jvp(lambda x: pool(x, sizes, samples), (x.detach(),), (index,))
    weights = [torch.randn(n, c, *size).requires_grad_() for size in sizes]
    (grad,) = torch.autograd.grad(pool(x, sizes, samples), x, weights, create_graph=True)
    expected = torch.zeros(n, c, h * w)
    for winner, weight in zip(winners, weights, strict=True):
        expected.scatter_add_(2, winner.flatten(2).long(), weight.detach().flatten(2))
    torch.testing.assert_close(grad.detach().flatten(2), expected, rtol=1e-5, atol=1e-5)
    again = torch.autograd.grad(grad, weights, index)
    assert all(torch.equal(a, b) for a, b in zip(winners, again, strict=True))


@native_only
def test_meta_tensors() -> None:
    x = torch.empty(2, 9, 12, 10, device="meta", memory_format=torch.channels_last).requires_grad_()
    values = ops.fractional_max_pool_pyramid(x, [(10, 9), (6, 5)])
    assert [v.shape for v in values] == [(2, 9, 10, 9), (2, 9, 6, 5)]
    assert all(v.is_contiguous(memory_format=torch.channels_last) and v.is_meta for v in values)
    torch.autograd.backward(values[0].sum())
    assert x.grad.shape == x.shape


@native_only
def test_positions_where_the_gradient_is_recorded_or_they_are_asked_for() -> None:
    operator = torch.ops.pyranet_fast.fractional_max_pool_pyramid
    x, samples = torch.randn(1, 2, 8, 8), torch.full((1, 1, 1, 2), 0.3)
    leaf = x.clone().requires_grad_()
    plain, none = operator(x, samples, [6, 6], None, None, False, False)
    with torch.no_grad():
        assert operator(leaf, samples, [6, 6], None, None, False, False)[1].shape == none.shape == (0, 0, 0, 0)
    recorded, positions = operator(leaf, samples, [6, 6], None, None, False, False)
    _, asked = operator(x, samples, [6, 6], None, None, False, True)
    assert torch.equal(positions, asked) and asked.shape == x.shape
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
        ({"x": torch.randn(3, 8, 8)}, ValueError, r"x must be a 4-D tensor \(N, C, H, W\), got shape"),
        ({"x": torch.ones(1, 3, 8, 8, dtype=torch.int32)}, TypeError, "x must have dtype .*, got int32"),
        ({"x": [1, 2]}, TypeError, r"x must be a 4-D tensor \(N, C, H, W\), got list"),
        ({"output_sizes": []}, ValueError, "output_sizes must be .*, got an empty list"),
        ({"output_sizes": [(8, 6)]}, ValueError, r"output_sizes\[0\] must be at most .*, got \(8, 6\)"),
        ({"output_sizes": [(0, 6)]}, ValueError, r"output_sizes\[0\] must have .*, got \(0, 6\)"),
        ({"output_sizes": [(6,)]}, ValueError, r"output_sizes\[0\]"),
        ({"samples": torch.rand(1, 2, 3, 2)}, ValueError, "samples must have shape"),
        ({"samples": torch.full((1, 1, 3, 2), 1.0)}, ValueError, r"samples must lie in \[0, 1\), got values"),
        ({"samples": torch.full((1, 1, 3, 2), float("nan"))}, ValueError, r"samples must lie in \[0, 1\), got values"),
        ({"samples": torch.rand(1, 1, 3, 2).half()}, TypeError, "samples must have dtype"),
        (
            {"samples": torch.rand(1, 1, 3, 2, device="meta")},
            ValueError,
            "samples must be on the device of x, cpu, got meta",
        ),
        ({"scale": torch.ones(4)}, ValueError, "scale must have shape"),
        ({"shift": torch.ones(3, dtype=torch.int64)}, TypeError, "shift must have dtype"),
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
