"""Winograd's 3x3 convolution and its gradients against the direct method in double."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.nn.layers import Conv3x3
from pyranet_fast.nn.residual import BNReLUConv
from pyranet_fast.ops.cpu import policy, winograd

pytestmark = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")

# Of the result's norm; the direct method in float32 has about 5e-7, Winograd's F(4x4, 3x3) a few times as much.
TOLERANCE = 1e-5
SHAPES = [(1, 3, 5, 1, 1), (2, 7, 9, 5, 7), (1, 16, 33, 4, 4), (2, 28, 28, 13, 9), (3, 64, 40, 16, 20), (0, 8, 8, 4, 4)]


def error(got: Tensor, exact: Tensor) -> float:
    return ((got - exact).norm() / exact.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("n", "c", "k", "h", "w"), SHAPES)
def test_smaller_tiles_round_as_the_direct_method(n, c, k, h, w, layout):
    torch.manual_seed(0)
    x, other = torch.randn(n, c, h, w).contiguous(memory_format=layout), torch.randn(n, k, h, w)
    weight, bias, grad = torch.randn(k, c, 3, 3), torch.randn(k), torch.randn(n, k, h, w)
    exact = F.relu(F.conv2d(x.double(), weight.double(), bias.double(), padding=1) + other)
    packed = winograd.prepack(weight, 2)
    assert packed.shape[0] == 16
    assert error(winograd.conv3x3(x, packed, weight, bias, other, relu=True), exact) < 1e-6
    turned = winograd.conv3x3(grad, winograd.prepack(weight, 2, backward=True), weight, backward=True)
    assert error(turned, F.conv_transpose2d(grad.double(), weight.double(), padding=1)) < 1e-6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("n", "c", "k", "h", "w"), SHAPES)
def test_convolution_and_gradients(n, c, k, h, w, layout):
    torch.manual_seed(0)
    x, grad = torch.randn(n, c, h, w).contiguous(memory_format=layout), torch.randn(n, k, h, w)
    weight, bias, other = torch.randn(k, c, 3, 3), torch.randn(k), torch.randn(n, k, h, w)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    packed = winograd.prepack(weight)
    assert error(winograd.conv3x3(x, packed, weight, bias), exact) < TOLERANCE
    assert error(winograd.conv3x3(x, packed, weight), exact - bias.double()[:, None, None]) < TOLERANCE
    ended = winograd.conv3x3(x, packed, weight, bias, other, relu=True)
    assert error(ended, F.relu(exact + other)) < TOLERANCE and not (ended < 0).any()

    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    expected = torch.autograd.grad(F.conv2d(*leaves, padding=1), leaves, grad.double())
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    got = torch.autograd.grad(winograd.differentiable_conv3x3(*leaves), leaves, grad)
    weight_gradient, finite = torch.ops.pyranet_fast.winograd_weight_gradient(x, grad)
    assert finite
    for a, b in zip((*got, weight_gradient), (*expected, expected[1]), strict=True):
        assert a.shape == b.shape and (not b.norm() or error(a, b) < TOLERANCE)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("n", "c", "k", "h", "w"), [s for s in SHAPES if s[1] % 2 == 0] + [(1, 2, 5, 1, 1), (2, 34, 9, 5, 7)]
)
def test_bfloat16_has_smaller_tiles(n, c, k, h, w, layout):
    torch.manual_seed(0)
    x, other = torch.randn(n, c, h, w).bfloat16().contiguous(memory_format=layout), torch.randn(n, k, h, w).bfloat16()
    weight, bias = torch.randn(k, c, 3, 3).bfloat16(), torch.randn(k)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    packed = winograd.prepack(weight)
    assert packed.shape[0] == 16 and packed.dtype == torch.bfloat16
    assert error(winograd.conv3x3(x, packed, weight, bias), exact) < 6e-3
    ended = winograd.conv3x3(x, packed, weight, bias, other, relu=True)
    assert error(ended, F.relu(exact + other)) < 6e-3 and not (ended < 0).any()


def test_many_tiles_and_any_number_of_threads():
    torch.manual_seed(0)
    x, grad = torch.randn(5, 36, 40, 44), torch.randn(5, 48, 40, 44)  # 550 tiles: several blocks and chunks
    weight = torch.randn(48, 36, 3, 3)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(
                [
                    winograd.conv3x3(x, winograd.prepack(weight), weight),
                    winograd.conv3x3(x, winograd.prepack(weight, 2), weight),
                    winograd.conv3x3(grad, winograd.prepack(weight, backward=True), weight, backward=True),
                    torch.ops.pyranet_fast.winograd_weight_gradient(x, grad)[0],
                ]
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    exact = torch.nn.grad.conv2d_weight(x.double(), weight.shape, grad.double(), padding=1)  # type: ignore[attr-defined]
    assert error(results[0][3], exact) < TOLERANCE


def test_filters_are_those_of_the_neighbours():
    """One tap at a time: a wrong entry of a transform cannot hide in a norm."""
    x = torch.arange(1.0, 1 + 32 * 9 * 10).reshape(1, 32, 9, 10) / 100
    for tap in range(9):
        weight = torch.zeros(32, 32, 3, 3)
        weight[torch.arange(32), torch.arange(32).flip(0), tap // 3, tap % 3] = 1
        for tile in (2, 4):
            y = winograd.conv3x3(x, winograd.prepack(weight, tile), weight)
            torch.testing.assert_close(y, F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-4)
        low, weight = (x * 100 % 97).bfloat16(), weight.bfloat16()
        y = winograd.conv3x3(low, winograd.prepack(weight), weight)
        torch.testing.assert_close(y.float(), F.conv2d(low, weight, padding=1).float(), rtol=0, atol=3)


def test_where_it_serves():
    weight, x = torch.randn(64, 64, 3, 3), torch.randn(1, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    assert policy.trains_with_winograd(x, weight)
    assert not policy.trains_with_winograd(x.contiguous(), weight) and not policy.trains_with_winograd(
        x.bfloat16(), weight.bfloat16()
    )
    assert not policy.trains_with_winograd(x[..., :8, :8].contiguous(memory_format=torch.channels_last), weight)
    assert policy.supports_winograd(weight.bfloat16()) is not policy.has_matrix_units()
    assert not policy.supports_winograd(weight[:16]) and not policy.supports_winograd(weight.double())
    with ops.backend("reference"):
        assert not policy.trains_with_winograd(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not policy.trains_with_winograd(x, weight)


def test_small_maps_have_small_tiles():
    """The side of a tile by the map: large ones while there are tiles enough, then small ones, then none."""

    def side(n: int, size: int, dtype: torch.dtype = torch.float32) -> int:
        return policy.winograd_tile(torch.empty(n, 8, size, size, dtype=dtype))

    assert [side(1, size) for size in (64, 20, 16, 12, 8, 4)] == [4, 4, 2, 2, 2, 0]
    assert [side(2, size) for size in (16, 8, 4)] == [4, 2, 0]
    assert [side(1, size, torch.bfloat16) for size in (64, 16, 8, 4)] == [2, 2, 2, 0]
    with torch.device("meta"):
        assert side(1, 64) == 4


def test_module_trains_as_conv2d_does(monkeypatch):
    torch.manual_seed(0)
    unit = BNReLUConv(32, 48, 3)
    assert isinstance(unit.conv, Conv3x3) and set(unit.conv.state_dict()) == {"weight", "bias"}
    x = torch.randn(2, 32, 24, 24).contiguous(memory_format=torch.channels_last).requires_grad_()
    calls = []
    real = winograd.differentiable_conv3x3
    monkeypatch.setattr(winograd, "differentiable_conv3x3", lambda *a: calls.append(1) or real(*a))

    def gradients() -> list[Tensor]:
        y = unit(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *unit.parameters()])]

    ours = gradients()
    with ops.backend("reference"):
        theirs = gradients()
    assert len(calls) == 1
    for a, b in zip(ours, theirs, strict=True):
        assert error(a, b) < 3e-5
    compiled = torch.export.export(unit.eval(), (x.detach(),))
    assert "pyranet_fast" not in str(compiled.graph) and "conv2d" in str(compiled.graph)


def test_twice_differentiated():
    torch.manual_seed(0)
    conv = Conv3x3(32, 32)
    x = torch.randn(2, 32, 24, 24).contiguous(memory_format=torch.channels_last).requires_grad_()
    leaves = [x, *conv.parameters()]

    def second() -> list[Tensor]:
        gradients = torch.autograd.grad(conv(x).square().mean(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves))

    assert policy.trains_with_winograd(x, conv.weight)
    ours = second()
    with ops.backend("reference"):
        theirs = second()
    for a, b in zip(ours, theirs, strict=True):
        assert error(a, b) < 3e-5


def test_bad_calls_are_refused():
    x = torch.randn(1, 32, 8, 8)
    weight = torch.randn(32, 32, 3, 3)
    packed = winograd.prepack(weight)
    with pytest.raises(RuntimeError, match="packed must come from winograd_pack"):
        winograd.conv3x3(x[:, :31], packed, weight)
    with pytest.raises(RuntimeError, match="other must have the output's shape"):
        winograd.conv3x3(x, packed, weight, other=x[..., :7])
    with pytest.raises(RuntimeError, match="weight must be"):
        winograd.prepack(torch.randn(32, 32, 1, 1))
    with pytest.raises(RuntimeError, match="tile must be 2, or 4 in float32, got 6"):
        winograd.prepack(weight, 6)
    with pytest.raises(RuntimeError, match="tile must be 2, or 4 in float32, got 4"):
        winograd.prepack(weight.bfloat16(), 4)
    with pytest.raises(RuntimeError, match="packed must come from winograd_pack"):
        winograd.conv3x3(x.bfloat16(), packed.bfloat16(), weight.bfloat16())
