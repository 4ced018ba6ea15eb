"""Triton's upsample-sum, in its interpreter, against the sum of PyTorch's interpolate()."""

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
    spoilt,
    triton_marks,
)

__all__ = ["huge", "spoilt"]
pytestmark = triton_marks
# Identity, enlarging, shrinking, size 1 on either side; channels that do and do not divide into 16 bytes.
CASES = [  # layout of the maps, of base and of the gradient, (N, C, H, W), levels
    ("contiguous", "contiguous", (1, 1, 9, 7), [(8, 6), (9, 7), (1, 1)]),
    ("channels_last", "channels_last", (2, 14, 7, 9), [(6, 8), (4, 5)]),
    ("channels_last", "channels_last", (1, 72, 2, 3), [(2, 2)]),
    ("channels_last", "sliced channels_last", (1, 4, 6, 5), [(5, 4), (8, 3)]),
    ("channels_last", "contiguous", (1, 5, 4, 3), [(3, 2)]),
    ("contiguous", "channels_last", (1, 2, 3, 17), [(5, 33)]),
    ("contiguous", "contiguous", (1, 2, 1, 1), [(4, 3), (1, 1)]),
    ("sliced", "permuted", (1, 2, 6, 5), [(3, 4)]),
    ("permuted", "sliced", (1, 2, 5, 6), [(4, 5)]),
    ("expanded 3", "scalar", (1, 2, 5, 4), [(4, 2), (2, 3)]),
]
IDS = ["-".join(map(str, (case[0], case[1], *case[2]))) for case in CASES]


def draw(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def native_sum(maps: Sequence[Tensor], size: Sequence[int], base: Tensor | None, align_corners: bool) -> Tensor:
    ups = [F.interpolate(m, size=tuple(size), mode="bilinear", align_corners=align_corners) for m in maps]
    return sum(ups[1:], ups[0]) if base is None else sum(ups, base)


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize(
    "dtype, align_corners", [*((dtype, True) for dtype in DTYPES), (torch.float32, False), (torch.bfloat16, False)]
)
def test_values_and_gradients(case: Any, dtype: torch.dtype, align_corners: bool, spoilt: None) -> None:
    layout, of_others, (n, c, h, w), levels = case
    maps = [in_layout(layout, draw((n, c, *level), i).to(dtype)) for i, level in enumerate(levels)]
    base, grad = (in_layout(of_others, draw((n, c, h, w), i).to(dtype)) for i in (8, 9))
    base = base if align_corners else None
    wide = torch.promote_types(dtype, torch.float32)
    exact = [m.detach().to(wide).requires_grad_() for m in maps]
    expected = native_sum(exact, (h, w), None if base is None else base.to(wide), align_corners)
    expected_grads = torch.autograd.grad(expected, exact, grad.to(wide))
    leaves = [m.detach().requires_grad_() for m in maps]
    with ops.backend("triton"):
        out = ops.upsample_sum(leaves, (h, w), base=base, align_corners=align_corners)
        grads = torch.autograd.grad(out, leaves, grad)
        again = torch.autograd.grad(ops.upsample_sum(leaves, (h, w), align_corners=align_corners), leaves, grad)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    rtol, atol = TOLERANCES[dtype]
    assert out.dtype == dtype and out.is_contiguous(memory_format=memory_format)
    # The interpreter cuts bfloat16 off, so that a sum is up to one unit of its last place away.
    torch.testing.assert_close(out, expected.to(dtype), rtol=rtol, atol=max(atol, 1e-6 if wide == torch.float32 else 0))
    for a, b, c in zip(grads, expected_grads, again, strict=True):
        assert a.dtype == dtype and torch.equal(a, c)
        torch.testing.assert_close(a, b.to(dtype), rtol=rtol, atol=max(atol, 1e-6 if wide == torch.float32 else 0))


@pytest.mark.parametrize("align_corners", [True, False], ids=("aligned", "centres"))
@pytest.mark.parametrize("case", CASES[6:9], ids=IDS[6:9])
def test_maps_as_if_huge(case: Any, align_corners: bool, huge: None) -> None:
    test_values_and_gradients(case, torch.float32, align_corners, None)


@pytest.mark.parametrize("present", ("scale shift relu", "scale", "shift", "relu"))
def test_a_folded_batch_norm_and_relu_follow_the_sum(present: str) -> None:
    maps = [draw((2, 3, 3, 4)), draw((2, 3, 6, 2), 1)]
    options: dict[str, Any] = {k: draw((3,), i).requires_grad_() for i, k in enumerate(present.split()) if k != "relu"}
    leaves = [*(m.requires_grad_() for m in maps), *options.values()]
    results = []
    for backend in ("reference", "triton"):
        with ops.backend(backend):
            out = ops.upsample_sum(maps, (7, 8), relu="relu" in present, **options)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("align_corners", [True, False], ids=("aligned", "centres"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("bad", (NAN, INF, -INF))
def test_nan_and_infinity_reach_just_where_they_have_weight(bad: float, layout: str, align_corners: bool) -> None:
    # 5 to 9 with corners aligned: every other output pixel has one source, of weight 1.
    for in_size, out_size in (((5, 4), (9, 7)), ((6, 6), (6, 6)), ((4, 9), (7, 13))):
        x, grad = torch.zeros(1, 3, *in_size), torch.zeros(1, 3, *out_size)
        x[:, 1, 0, 0], x[:, 1, 2, 3], grad[:, 1, 0, 0], grad[:, 1, 4, 5] = 1, 1, 1, 1
        v = torch.zeros_like(x).requires_grad_()
        options = {"size": out_size, "align_corners": align_corners}
        touched = F.interpolate(x, mode="bilinear", **options) != 0
        (weights,) = torch.autograd.grad(F.interpolate(v, mode="bilinear", **options), v, grad)
        spoilt_x = in_layout(layout, torch.where(x == 1, bad, x)).requires_grad_()
        with ops.backend("triton"):
            out = ops.upsample_sum([spoilt_x], out_size, align_corners=align_corners)
            (got,) = torch.autograd.grad(out, spoilt_x, in_layout(layout, torch.where(grad == 1, bad, grad)))
        assert torch.equal(~out.isfinite(), touched) and torch.equal(~got.isfinite(), weights != 0)


@pytest.mark.parametrize("align_corners", [True, False], ids=("aligned", "centres"))
def test_taps_lie_where_pytorchs_do(align_corners: bool) -> None:
    # Every size to every size of a row; the positions of the pixels are the values, so a wrong tap is seen.
    for size in (1, 2, 3, 7, 16, 33, 53):
        x = torch.arange(float(size)).square().view(1, 1, 1, size)
        for out in (1, 2, 5, 16, 31, 64, 65):
            with ops.backend("triton"):
                got = ops.upsample_sum([x], (1, out), align_corners=align_corners)
            expected = F.interpolate(x, size=(1, out), mode="bilinear", align_corners=align_corners)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_many_levels_and_levels_without_gradient() -> None:
    maps = [draw((1, 3, 1 + i % 3, 1 + i // 2), i).float().requires_grad_(i % 3 == 0) for i in range(7)]
    results = []
    for backend in ("reference", "triton"):
        with ops.backend(backend):
            out = ops.upsample_sum(maps, (4, 5))
        results.append([out, *torch.autograd.grad(out.square().sum(), maps[::3])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    with ops.backend("triton"), pytest.raises(ValueError, match="supports at most 32 levels on CUDA, got 33"):
        ops.upsample_sum([maps[1]] * 33, (4, 4))


@pytest.mark.parametrize("shape", ((0, 3, 3, 4), (2, 0, 3, 4)))
def test_empty_batches(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    with ops.backend("triton"):
        out = ops.upsample_sum([x], (5, 6))
    assert out.shape == (*shape[:2], 5, 6)
    out.sum().backward()
    assert x.grad is not None and x.grad.shape == shape


def test_gradcheck_opcheck_and_double_backward() -> None:
    maps = [draw((1, 2, 3, 2)).requires_grad_(), draw((1, 2, 5, 1), 1).requires_grad_()]
    base = draw((1, 2, 4, 3), 2).requires_grad_()

    def function(*t: Tensor) -> Tensor:
        with ops.backend("triton"):
            return ops.upsample_sum(t[:2], (4, 3), base=t[2])

    assert torch.autograd.gradcheck(function, (*maps, base), fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (*maps, base), fast_mode=True)
    forward = torch.ops.pyranet_fast_triton.upsample_sum.default
    torch.library.opcheck(forward, (maps, 4, 3, base, True))
    last = [in_layout("channels_last", draw((1, 3, s, s)).float()).requires_grad_() for s in (3, 2)]
    torch.library.opcheck(forward, (last, 4, 3, None, False))
    backward = torch.ops.pyranet_fast_triton.upsample_sum_backward.default
    torch.library.opcheck(backward, (last[0].detach(), [2, 3, 4, 4], True))


def test_compiled_in_one_graph_with_dynamic_sizes() -> None:
    def function(maps: list[Tensor], base: Tensor) -> Tensor:
        return ops.upsample_sum([m.relu() for m in maps], base.shape[2:], base=base).square().sum()

    with ops.backend("triton"):
        compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
        for n, side in ((1, 4), (2, 6)):
            maps = [draw((n, 3, s, side), s).float().requires_grad_() for s in (side - 1, side // 2)]
            base = draw((n, 3, side, side + 2), 5).float()
            results = [torch.autograd.grad(f(maps, base), maps) for f in (function, compiled)]
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b)


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    assert len(compile_in_subprocess("upsample_sum", tmp_path)) == 3 * 2
