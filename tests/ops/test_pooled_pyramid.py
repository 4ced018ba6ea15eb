"""The pooled pyramid in one call against its operators in double."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.nn.pyramid import draw_samples, level_sizes
from pyranet_fast.ops.cpu import policy, pooled_pyramid

pytestmark = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")

# N, C, K, D, H, W, levels, filters: channels around the widths of vectors and panels, maps down to 2x2
SHAPES = [
    (1, 28, 28, 128, 16, 16, 4, 1), (2, 14, 14, 64, 13, 21, 4, 4), (1, 9, 40, 33, 64, 5, 3, 1),
    (3, 1, 1, 1, 4, 4, 2, 1), (1, 3, 17, 16, 9, 2, 1, 1), (2, 36, 33, 7, 2, 2, 4, 4), (0, 4, 4, 4, 8, 8, 2, 1),
]  # fmt: skip


def problem(n: int, c: int, k: int, d: int, h: int, w: int, levels: int, filters: int) -> tuple:  # type: ignore[type-arg]
    torch.manual_seed(n + c + h)
    x, y = (torch.randn(n, m, h, w).contiguous(memory_format=torch.channels_last) for m in (c, d))
    chosen = [(torch.randn(k, c, 3, 3) / (3 * c**0.5), torch.randn(k)) for _ in range(filters)]
    return x, y, level_sizes((h, w), levels), chosen, (torch.randn(d, k, 1, 1) / k**0.5, torch.randn(d))


def composed(x: Tensor, y: Tensor, sizes, filters, expand) -> Tensor:  # type: ignore[no-untyped-def]
    """In double, with the windows of float32."""
    pooled = ops.fractional_max_pool_pyramid(x, sizes, draw_samples(x, len(sizes), "channel", False))
    maps = []
    for i, level in enumerate(pooled):
        weight, bias = (t.double() for t in filters[i % len(filters)])
        maps.append(F.conv2d(level.double(), weight, bias, padding=1))
    total = ops.upsample_sum(maps, x.shape[2:], align_corners=True)
    return F.relu(y.double() + F.conv2d(F.relu(total), *(t.double() for t in expand)))


@pytest.mark.parametrize("shape", SHAPES)
def test_against_its_operators(shape):
    x, y, sizes, filters, expand = problem(*shape)
    exact = composed(x, y, sizes, filters, expand) if shape[0] else y.double()
    packed = pooled_pyramid.prepack(filters, expand)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            target = y.clone(memory_format=torch.preserve_format)
            assert pooled_pyramid.pooled_pyramid_(x, sizes, packed, target) is target
            results.append(target)
    finally:
        torch.set_num_threads(threads)
    assert (results[0].double() - exact).norm() <= 2e-6 * exact.norm()
    for result in results:
        assert torch.equal(result, results[0]) and result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pooled_pyramid.pooled_pyramid_(x.contiguous(), sizes, packed, y.clone()), results[0])


@pytest.mark.parametrize(("dtype", "shape"), [(torch.float16, SHAPES[1]), (torch.bfloat16, SHAPES[2])])
def test_what_is_converted_is_rounded_once(dtype, shape):
    x, y, sizes, filters, expand = problem(*shape)
    low = [t.to(dtype) for t in (x, y)]
    assert policy.supports_pooled_pyramid(*low, expand[0].to(dtype))  # type: ignore[call-arg]
    large = [torch.empty(2, t.shape[1], 64, 64, dtype=dtype).to(memory_format=torch.channels_last) for t in low]
    assert not policy.supports_pooled_pyramid(*large, expand[0].to(dtype))  # type: ignore[call-arg]
    halved = [(w.to(dtype), b.to(dtype)) for w, b in (*filters, expand)]
    packed = pooled_pyramid.prepack(halved[:-1], halved[-1])
    assert torch.equal(packed.expand_bias, halved[-1][1].float()) and packed.expand.dtype == torch.float32
    exact = pooled_pyramid.pooled_pyramid_(low[0].float(), sizes, packed, low[1].float())
    got = pooled_pyramid.pooled_pyramid_(low[0], sizes, packed, low[1])
    assert got is low[1] and torch.equal(got, exact.to(dtype))


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], (1, 2, 2, 4, 5, 4, 2, 1), (2, 36, 34, 7, 2, 2, 4, 4)])
def test_bfloat16_has_products_of_pairs(shape):
    x, y, sizes, filters, expand = problem(*shape)
    low = [(w.bfloat16(), b) for w, b in (*filters, expand)]
    x, y = x.bfloat16(), y.bfloat16()
    assert policy.supports_pooled_pyramid(x, y, low[-1][0])
    packed = pooled_pyramid.prepack(low[:-1], low[-1])
    assert packed.expand.dtype == packed.filters[0].dtype == torch.bfloat16
    exact = composed(x, y, sizes, low[:-1], low[-1])
    got = pooled_pyramid.pooled_pyramid_(x, sizes, packed, y)
    assert got is y and (got.double() - exact).norm() <= 3e-3 * exact.norm()


def test_nan_stays_where_it_is_read():
    x, y, sizes, filters, expand = problem(1, 28, 28, 64, 32, 32, 4, 1)
    x[0, 5, 3, 4] = float("nan")
    y[0, 7, 30, 30] = float("nan")
    exact = composed(x, y, sizes, filters, expand)
    got = pooled_pyramid.pooled_pyramid_(x, sizes, pooled_pyramid.prepack(filters, expand), y)
    assert exact.isnan().any() and not exact.isnan().all()
    assert torch.equal(got.isnan(), exact.isnan())


def test_what_is_refused():
    x, y, sizes, filters, expand = problem(1, 4, 5, 6, 8, 8, 2, 1)
    packed = pooled_pyramid.prepack(filters, expand)
    with pytest.raises(RuntimeError, match="between 1 and the input size - 1"):
        pooled_pyramid.pooled_pyramid_(x, [(8, 4)], packed, y)
    with pytest.raises(RuntimeError, match="y must be"):
        pooled_pyramid.pooled_pyramid_(x, sizes, packed, y.contiguous())
    with pytest.raises(RuntimeError, match="y must be"):
        pooled_pyramid.pooled_pyramid_(x, sizes, packed, y[:, :, 1:])
    with pytest.raises(RuntimeError, match="filters must come from pyramid_pack"):
        pooled_pyramid.pooled_pyramid_(torch.randn(1, 5, 8, 8), sizes, packed, y)
    with pytest.raises(RuntimeError, match="expand must come from pointwise_pack"):
        pooled_pyramid.pooled_pyramid_(
            x, sizes, packed, torch.randn(1, 7, 8, 8).contiguous(memory_format=torch.channels_last)
        )
    with pytest.raises(RuntimeError, match="must not be empty"):
        torch.ops.pyranet_fast.pooled_pyramid_(x, [4, 4], [], [], packed.expand, packed.expand_bias, y)
    with pytest.raises(RuntimeError, match="weight must be"):
        torch.ops.pyranet_fast.pyramid_pack(torch.randn(3, 3))
    with pytest.raises(RuntimeError, match="expected an even number of channels in bfloat16, got 5"):
        torch.ops.pyranet_fast.pyramid_pack(torch.randn(4, 5, 3, 3, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="expected float32 or bfloat16"):
        torch.ops.pyranet_fast.pyramid_pack(torch.randn(4, 4, 3, 3, dtype=torch.float64))
    assert not policy.supports_pooled_pyramid(x.bfloat16(), y, expand[0])
    assert not policy.supports_pooled_pyramid(x.double(), y.double(), expand[0].double())
    assert not policy.supports_pooled_pyramid(x, y.contiguous(), expand[0])
