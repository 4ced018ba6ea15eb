"""upsample_sum against the sum of interpolate() calls: values, gradients, layouts, odd inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from tests.ops.testing import TOLERANCES
from tests.ops.testing import native_only as native

BACKENDS = [pytest.param("reference"), pytest.param("native", marks=native)]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PYRAMID = [(53, 53), (45, 45), (38, 38), (32, 32)]
CASES = [  # channels, (H, W), levels: the model's, then identity, enlarging, shrinking, size 1 on either side
    (28, (64, 64), PYRAMID),
    (1, (64, 64), PYRAMID),
    (7, (17, 23), [(17, 23), (9, 40), (1, 1), (33, 5)]),
    (14, (32, 32), [(32, 32), (63, 31)]),
    (3, (1, 1), [(4, 5), (1, 1)]),
    (70, (9, 130), [(8, 129), (3, 64)]),
    (2, (5, 200), [(7, 3), (5, 200)]),
    (1, (100, 37), [(31, 36), (2, 1)]),
]
LAYOUTS = ("contiguous", "channels_last", "sliced", "permuted", "expanded")


def arrange(x: Tensor, layout: str) -> Tensor:
    """The same values in other strides; "expanded" repeats the first sample instead."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.cat([x, x.flip(3)], 3)[..., : x.shape[3]]
    if layout == "permuted":
        return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    return x[:1].expand_as(x) if layout == "expanded" else x


def draw(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def native_sum(maps: Sequence[Tensor], size: tuple[int, int], base: Tensor | None, align_corners: bool) -> Tensor:
    """What the operator replaces, in the inputs' own precision."""
    ups = [F.interpolate(m, size=size, mode="bilinear", align_corners=align_corners) for m in maps]
    return sum(ups[1:], ups[0]) if base is None else sum(ups, base)


def gradients(out: Tensor, inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(
    case: tuple[int, tuple[int, int], list[tuple[int, int]]], dtype: torch.dtype, align_corners: bool, backend: str
) -> None:
    c, size, levels = case
    n = 1 if c == 28 else 2  # the slowest case
    maps = [draw((n, c, *level), dtype, i) for i, level in enumerate(levels)]
    base, grad = draw((n, c, *size), dtype, 8), draw((n, c, *size), dtype, 9)
    wide = [m.double().requires_grad_() for m in (*maps, base)]
    expected = gradients(native_sum(wide[:-1], size, wide[-1], align_corners), wide, grad.double())
    rtol, atol = TOLERANCES[dtype]
    for layout in LAYOUTS[:1] if backend == "reference" else LAYOUTS[:4]:
        inputs = [arrange(m, layout).requires_grad_() for m in (*maps, base)]
        with ops.backend(backend):
            out = ops.upsample_sum(inputs[:-1], size, base=inputs[-1], align_corners=align_corners)
        is_last = out.is_contiguous(memory_format=torch.channels_last)
        assert is_last if layout == "channels_last" else out.is_contiguous()
        for a, b in zip(gradients(out, inputs, arrange(grad, layout)), expected, strict=True):
            assert a.dtype == dtype
            # Positions in float32 are inexact by one part in 2^23 of the size, and with them the weights.
            inexact = 0 if dtype == torch.float64 else 2e-5 * b.abs().max().item()
            torch.testing.assert_close(a.double(), b, rtol=rtol, atol=max(atol, inexact, 1e-12))


@native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_layouts_and_mixed_maps(layout: str) -> None:
    maps = [draw((2, 5, 7, 9), torch.float32, 0), arrange(draw((2, 5, 3, 4), torch.float32, 1), layout)]
    grad = arrange(draw((2, 5, 8, 10), torch.float32, 2), layout)
    inputs = [m.requires_grad_() for m in maps]
    got = gradients(ops.upsample_sum(inputs, (8, 10)), inputs, grad)
    expected = gradients(native_sum(inputs, (8, 10), None, True), inputs, grad)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n, c", [(0, 3), (2, 0)])
def test_empty_batches(n: int, c: int, backend: str) -> None:
    x = torch.zeros(n, c, 3, 4, requires_grad=True)
    with ops.backend(backend):
        out = ops.upsample_sum([x], (5, 6))
    assert out.shape == (n, c, 5, 6)
    out.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


@native
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_reach_just_where_they_have_weight(
    bad: float, channels_last: bool, align_corners: bool
) -> None:
    # 33 to 65 with corners aligned: every other output pixel has one source, of weight 1.
    for in_size, out_size in (((33, 19), (65, 37)), ((20, 20), (20, 20)), ((12, 40), (31, 64))):
        x = torch.zeros(1, 3, *in_size)
        places = [(0, 0), (5, 7), (in_size[0] - 1, in_size[1] - 1)]
        for y, column in places:
            x[:, 1, y, column] = 1
        touched = F.interpolate(x, size=out_size, mode="bilinear", align_corners=align_corners) != 0
        x[x == 1] = bad
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(~ops.upsample_sum([x], out_size, align_corners=align_corners).isfinite(), touched)
        grad = torch.zeros(1, 3, *out_size)
        grad[:, 1, 0, 0] = grad[:, 1, 6, 9] = grad[:, 1, -1, -1] = 1
        for g in (grad, grad.contiguous(memory_format=torch.channels_last)):
            v = torch.zeros(1, 3, *in_size, requires_grad=True)
            up = F.interpolate(v, size=out_size, mode="bilinear", align_corners=align_corners)
            (weights,) = torch.autograd.grad(up, v, grad)
            w = torch.zeros(1, 3, *in_size, requires_grad=True)
            spoilt = torch.where(g == 1, bad, 0.0)
            (got,) = torch.autograd.grad(ops.upsample_sum([w], out_size, align_corners=align_corners), w, spoilt)
            assert torch.equal(~got.isfinite(), weights != 0)


@native
@pytest.mark.parametrize("channels_last", [False, True])
def test_two_runs_and_any_number_of_threads_give_the_same_bits(channels_last: bool) -> None:
    def run() -> list[Tensor]:
        maps = [draw((3, 28, s, s), torch.float32, s) for s in (53, 45, 20)]
        grad = draw((3, 28, 64, 64), torch.float32, 1)
        if channels_last:
            maps = [m.contiguous(memory_format=torch.channels_last) for m in maps]
            grad = grad.contiguous(memory_format=torch.channels_last)
        inputs = [m.requires_grad_() for m in maps]
        return gradients(ops.upsample_sum(inputs, (64, 64)), inputs, grad)

    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3, 1):
            torch.set_num_threads(threads)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@native
@pytest.mark.parametrize("align_corners", [True, False])
def test_derivatives_and_opcheck(align_corners: bool) -> None:
    maps = [
        draw((1, 2, 3, 4), torch.float64, 0).requires_grad_(),
        draw((1, 2, 7, 2), torch.float64, 1).requires_grad_(),
    ]
    base = draw((1, 2, 5, 6), torch.float64, 2).requires_grad_()

    def f(*t: Tensor) -> Tensor:
        return ops.upsample_sum(t[:2], (5, 6), base=t[2], align_corners=align_corners)

    torch.autograd.gradcheck(f, (*maps, base), check_forward_ad=True)
    torch.autograd.gradgradcheck(f, (*maps, base), check_fwd_over_rev=True, check_rev_over_rev=True)
    op = torch.ops.pyranet_fast.upsample_sum.default
    torch.library.opcheck(op, (maps, 5, 6, base, align_corners))
    last = [draw((2, 3, s, s), torch.float32, s).contiguous(memory_format=torch.channels_last) for s in (3, 4)]
    torch.library.opcheck(op, ([m.requires_grad_() for m in last], 6, 5, None, align_corners))
    grad = last[0].detach()
    torch.library.opcheck(torch.ops.pyranet_fast.upsample_sum_backward.default, (grad, [2, 3, 5, 5], align_corners))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_whole_and_dynamic(backend: str) -> None:
    def step(maps: list[Tensor], base: Tensor) -> Tensor:
        size = (base.shape[2], base.shape[3])
        return ops.upsample_sum([m.relu() for m in maps], size, base=base).square().sum()

    with ops.backend(backend):
        compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
        for n, side in ((2, 8), (3, 11)):
            maps = [draw((n, 3, s, side), torch.float32, s).requires_grad_() for s in (side - 1, side // 2)]
            base = draw((n, 3, side, side + 2), torch.float32, 5)
            got = torch.autograd.grad(compiled(maps, base), maps)
            expected = torch.autograd.grad(step(maps, base), maps)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_different_dtypes_are_promoted_under_autocast_alone(backend: str) -> None:
    maps = [draw((1, 2, 3, 3), torch.bfloat16, 0).requires_grad_(), draw((1, 2, 4, 4), torch.float32, 1)]
    base = draw((1, 2, 6, 6), torch.bfloat16, 2)
    with ops.backend(backend):
        with pytest.raises(
            TypeError, match=r"maps\[1\] must have the dtype of maps\[0\], torch.bfloat16, got torch.float32"
        ):
            ops.upsample_sum(maps, (6, 6))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = ops.upsample_sum(maps, (6, 6), base=base)
            alike = ops.upsample_sum(maps[:1], (6, 6), base=base)
        assert out.dtype == torch.float32 and alike.dtype == torch.bfloat16
        torch.testing.assert_close(out, native_sum([m.float() for m in maps], (6, 6), base.float(), True))
        out.sum().backward()
        assert maps[0].grad is not None and maps[0].grad.dtype == torch.bfloat16


@native
def test_meta_tensors_have_the_shapes_and_layout() -> None:
    maps = [torch.empty(2, 3, s, s, device="meta").to(memory_format=torch.channels_last) for s in (4, 5)]
    out = ops.upsample_sum([m.requires_grad_() for m in maps], (6, 7))
    assert out.shape == (2, 3, 6, 7) and out.is_contiguous(memory_format=torch.channels_last)
    out.sum().backward()
    assert maps[1].grad is not None and maps[1].grad.shape == (2, 3, 5, 5)


def test_bad_arguments_are_named() -> None:
    x = torch.randn(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"maps must be .*, got an empty list"):
        ops.upsample_sum([], (4, 4))
    with pytest.raises(ValueError, match=r"size must have a height and width of at least 1, got \(0, 4\)"):
        ops.upsample_sum([x], (0, 4))
    with pytest.raises(ValueError, match=r"size must be two numbers .*, got \(4,\)"):
        ops.upsample_sum([x], (4,))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"maps\[1\] must have shape \(2, 3, h, w\) as maps\[0\], .*, got \(2, 4, 4, 5\)"
    ):
        ops.upsample_sum([x, torch.randn(2, 4, 4, 5)], (6, 6))
    with pytest.raises(ValueError, match=r"maps\[0\] must have shape .*, got \(2, 3, 0, 5\)"):
        ops.upsample_sum([x[:, :, :0]], (6, 6))
    with pytest.raises(TypeError, match=r"maps\[0\] must have dtype .*, got int32"):
        ops.upsample_sum([x.int()], (6, 6))
    with pytest.raises(TypeError, match=r"base must have the dtype of maps\[0\], torch.float32, got torch.float64"):
        ops.upsample_sum([x], (6, 6), base=torch.zeros(2, 3, 6, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"base must have shape \(N, C, H, W\) = \(2, 3, 6, 6\), got \(2, 3, 6, 5\)"):
        ops.upsample_sum([x], (6, 6), base=torch.zeros(2, 3, 6, 5))
    with pytest.raises(ValueError, match=r"maps\[1\] must be on the device of maps\[0\], cpu, got meta"):
        ops.upsample_sum([x, x.to("meta")], (6, 6))


@native
@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_other_instruction_sets(isa: str) -> None:
    code = """
import torch, test_upsample_sum as t
for case in (t.CASES[0], t.CASES[1], t.CASES[2], t.CASES[5]):
    for dtype in t.DTYPES:
        t.test_values_and_gradients(case, dtype, True, "native")
t.test_nan_and_infinity_reach_just_where_they_have_weight(float("nan"), False, False)
"""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    environment = {**os.environ, "PYRANET_FAST_CPU_ISA": isa, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=here, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("present", [("scale", "shift", "relu"), ("scale",), ("shift",), ("relu",)], ids="+".join)
def test_a_folded_batch_norm_and_relu_follow_the_sum(backend: str, present: tuple[str, ...]) -> None:
    maps = [draw((2, 5, 3, 4), torch.float64, 0), draw((2, 5, 6, 2), torch.float64, 1)]
    vectors = {"scale": draw((5,), torch.float64, 2), "shift": draw((5,), torch.float64, 3)}
    leaves = [t.requires_grad_() for t in (*maps, *vectors.values())]
    more = {k: v for k, v in vectors.items() if k in present} | {"relu": "relu" in present}
    expected = native_sum(maps, (7, 8), None, True)
    if "scale" in present:
        expected = expected * vectors["scale"].view(1, -1, 1, 1)
    if "shift" in present:
        expected = expected + vectors["shift"].view(1, -1, 1, 1)
    expected = expected.relu() if "relu" in present else expected
    with ops.backend(backend):
        got = ops.upsample_sum(maps, (7, 8), **more)
        used = [leaf for leaf, name in zip(leaves, (*"ab", "scale", "shift"), strict=True) if name in (*"ab", *present)]
        for a, b in zip(gradients(got, used, expected), gradients(expected, used, expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        with pytest.raises(ValueError, match=r"scale must have shape \(5,\), one value per channel, got \(4,\)"):
            ops.upsample_sum(maps, (7, 8), scale=torch.zeros(4))
