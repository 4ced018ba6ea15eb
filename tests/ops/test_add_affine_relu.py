"""A sum with the folded norms that read it, and the same with their 1x1 convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops.cpu import fused_pointwise

native = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
BACKENDS = [pytest.param("reference"), pytest.param("native", marks=native)]
EXACT = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def drawn(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    x = torch.randn(shape).to(dtype)
    if layout == "sliced":
        return torch.cat([x, x], 1)[:, : shape[1]]
    return x.contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("other", [None, "same", "twice"])
@pytest.mark.parametrize("channels", [1, 7, 16, 28, 70])
def test_equals_its_definition(channels, other, dtype, layout, backend):
    torch.manual_seed(0)
    x = drawn((2, channels, 3, 5), dtype, layout)
    more = None if other is None else drawn((2, channels, 6, 10) if other == "twice" else x.shape, dtype, layout)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale, shift = torch.randn(3, channels, dtype=wide), torch.randn(3, channels, dtype=wide)
    with ops.backend(backend):
        total, *outputs = ops.add_affine_relu(x, more, scale, shift, keep=True)
        alone = ops.add_affine_relu(x, more, scale, shift)
    expected = x if more is None else more + (F.interpolate(x, scale_factor=2.0) if other == "twice" else x)
    torch.testing.assert_close(total, expected, rtol=0, atol=0)  # one rounding, as PyTorch's addition
    for j in range(3):
        exact = F.relu(expected.double() * scale[j].double()[:, None, None] + shift[j].double()[:, None, None])
        assert outputs[j].dtype == dtype and torch.equal(outputs[j], alone[j])
        torch.testing.assert_close(outputs[j].double(), exact, rtol=EXACT[dtype], atol=EXACT[dtype] * 8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_empty_batch_and_the_sum_alone(backend):
    x = torch.randn(1, 20, 2, 2)
    x[0, 3, 1, 1] = torch.nan
    with ops.backend(backend):
        (y,) = ops.add_affine_relu(x, None, torch.ones(1, 20), torch.zeros(1, 20))
        assert y.isnan().sum() == 1 and y[0, 3, 1, 1].isnan()
        (total,) = ops.add_affine_relu(x, x, torch.empty(0, 20), torch.empty(0, 20), keep=True)
        torch.testing.assert_close(total, x + x, equal_nan=True, rtol=0, atol=0)
        assert ops.add_affine_relu(x[:0], None, torch.ones(2, 20), torch.ones(2, 20))[1].shape == (0, 20, 2, 2)


def test_bad_input_is_named():
    x, one = torch.randn(1, 4, 2, 2), torch.ones(1, 4)
    for arguments, error, message in (
        ((x, torch.randn(1, 4, 2, 3), one, one), ValueError, r"other must have the shape of x.*, got \(1, 4, 2, 3\)"),
        ((x, x.double(), one, one), TypeError, "other must have dtype float32, got float64"),
        ((x, None, torch.ones(4), one), ValueError, r"one shape \(J, 4\), .*, got scale \(4,\)"),
        ((x, None, one, torch.ones(2, 4)), ValueError, r"one shape .*, got shift \(2, 4\)"),
        ((x, None, one.double(), one), TypeError, "scale must have dtype torch.float32 .*, got torch.float64"),
        ((x, None, one[:0], one[:0]), ValueError, "scale must have rows or keep be True"),
        ((x[0], None, one, one), ValueError, r"x must be a 4-D tensor \(N, C, H, W\), got shape"),
    ):
        with pytest.raises(error, match=message):
            ops.add_affine_relu(*arguments)


@native
@pytest.mark.parametrize("other", [None, "same", "twice", "pool"])
@pytest.mark.parametrize(("channels", "widths"), [(3, (5,)), (9, (28, 33, 7)), (64, (128, 28)), (300, (40, 64))])
def test_fused_pointwise_equals_norms_and_convolutions(channels, widths, other):
    torch.manual_seed(0)
    x = drawn((2, channels, 5, 6), torch.float32, "channels_last")
    pool, more = other == "pool", None
    if pool:
        x = drawn((2, channels, 11, 12), torch.float32, "channels_last")
        x[0, 0, 4, 5], x[1, -1, 0, 0] = float("nan"), float("inf")
    elif other is not None:
        more = torch.randn((2, channels, 10, 12) if other == "twice" else x.shape)
    norms = [(torch.randn(channels), torch.randn(channels)) for _ in widths]
    norms[-1] = (None, None)  # reads the sum itself
    convs = [(torch.randn(k, channels, 1, 1), torch.randn(k), k % 2 == 0) for k in widths]
    packed = fused_pointwise.prepack(norms, convs)
    total, *outputs = fused_pointwise.fused_pointwise(x, more, packed, keep=True, pool=pool)
    again = fused_pointwise.fused_pointwise(x, more, packed, pool=pool)
    if pool:
        expected = F.max_pool2d(x, 2)
    else:
        expected = x if more is None else more + (F.interpolate(x, scale_factor=2.0) if other == "twice" else x)
    torch.testing.assert_close(total, expected, rtol=0, atol=0, equal_nan=True)
    for (scale, shift), (weight, bias, relu), y, repeated in zip(norms, convs, outputs, again, strict=True):
        a = expected.double()
        if scale is not None:
            a = F.relu(a * scale.double()[:, None, None] + shift.double()[:, None, None])
        exact = F.conv2d(a, weight.double(), bias.double())
        exact = F.relu(exact) if relu else exact
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5 * channels**0.5, equal_nan=True)
        torch.testing.assert_close(y, repeated, rtol=0, atol=0, equal_nan=True)
        assert y.is_contiguous(memory_format=torch.channels_last)


@native
@pytest.mark.parametrize("other", [None, "same", "twice", "pool"])
@pytest.mark.parametrize(("channels", "widths"), [(2, (3, 1)), (40, (16, 33)), (64, (64, 14, 128))])
def test_fused_pointwise_in_bfloat16(channels, widths, other):
    torch.manual_seed(0)
    side = 12 if other == "pool" else 6
    x = torch.randn(2, channels, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
    more = torch.randn(2, channels, 12, 12).bfloat16() if other == "twice" else torch.randn_like(x)
    more = more if other in ("same", "twice") else None
    norms = [(torch.randn(channels), torch.randn(channels)) for _ in widths]
    convs = [(torch.randn(k, channels, 1, 1).bfloat16(), torch.randn(k), k % 2 == 0) for k in widths]
    packed = fused_pointwise.prepack(norms, convs)
    total, *outputs = fused_pointwise.fused_pointwise(x, more, packed, keep=True, pool=other == "pool")
    scale, shift = (torch.stack(rows) for rows in zip(*norms, strict=True))
    composed = ops.add_affine_relu(F.max_pool2d(x, 2) if other == "pool" else x, more, scale, shift, keep=True)
    assert torch.equal(total, composed[0])
    for a, (weight, bias, relu), y in zip(composed[1:], convs, outputs, strict=True):
        exact = F.conv2d(a.double(), weight.double(), bias.double())
        exact = F.relu(exact) if relu else exact
        assert y.dtype == torch.bfloat16 and (y.double() - exact).norm() <= 4e-3 * exact.norm()


@native
def test_fused_pointwise_residual_threads_and_checks():
    torch.manual_seed(0)
    x, residual = (torch.randn(3, c, 9, 7).contiguous(memory_format=torch.channels_last) for c in (40, 50))
    packed = fused_pointwise.prepack([(None, None)], [(torch.randn(50, 40, 1, 1), torch.randn(50), True)])
    arguments = (packed.scale, packed.shift, packed.weight, packed.bias, packed.relu)
    run = torch.ops.pyranet_fast.fused_pointwise
    plain = fused_pointwise.prepack([(None, None)], [(torch.zeros(50, 40, 1, 1), torch.zeros(50), False)])
    (added,) = run(x, None, plain.scale, plain.shift, plain.weight, plain.bias, plain.relu, residual, False, False)
    assert torch.equal(added, residual)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        (one,) = run(x, None, *arguments, residual, False, False)
        torch.set_num_threads(3)
        (three,) = run(x, None, *arguments, residual, False, False)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)
    with pytest.raises(RuntimeError, match="weight must come from pointwise_pack"):
        run(x[:, :39], None, *arguments, None, False, False)
    with pytest.raises(RuntimeError, match="weight must come from pointwise_pack on this machine, in the dtype of x"):
        run(x.bfloat16(), None, *arguments, None, False, False)
    with pytest.raises(RuntimeError, match="expected an even number of channels in bfloat16, got 3"):
        torch.ops.pyranet_fast.pointwise_pack(torch.randn(4, 3).bfloat16())
    with pytest.raises(RuntimeError, match="pool is for an x of at least 2x2 without other"):
        run(x, x, *arguments, None, False, True)
    with pytest.raises(RuntimeError, match="residual must have the output's shape"):
        run(x, None, *arguments, x, False, False)
