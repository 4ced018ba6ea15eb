"""1x1 convolutions of small maps as matrix products, beside F.conv2d."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.nn.layers import Conv1x1
from pyranet_fast.ops.cpu import pointwise, policy

pytestmark = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")


SHAPES = [((4, 256, 4, 4), 28), ((2, 28, 9, 5), 64), ((0, 8, 4, 4), 3), ((1, 3, 2, 1), 2)]


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape, outputs", SHAPES)
def test_values_and_gradients(shape, outputs, biased):
    torch.manual_seed(0)
    x, weight = channels_last(*shape), torch.randn(outputs, shape[1], 1, 1)
    bias = torch.randn(outputs) if biased else None
    grad = channels_last(shape[0], outputs, *shape[2:])
    inputs = [t for t in (x, weight, bias) if t is not None]

    def gradients(conv) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in inputs]
        y = conv(*leaves, *([] if biased else [None]))
        assert conv is F.conv2d or y.is_contiguous(memory_format=torch.channels_last)
        return [y, *torch.autograd.grad(y, leaves, grad)]

    for ours, theirs in zip(gradients(pointwise.conv1x1), gradients(F.conv2d), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_of_a_strided_gradient_and_of_gradients():
    """A gradient need not be channels_last, and may itself be differentiated."""
    torch.manual_seed(0)
    x, weight = channels_last(2, 5, 3, 4).requires_grad_(), torch.randn(6, 5, 1, 1, requires_grad=True)
    y, expected = pointwise.conv1x1(x, weight, None), F.conv2d(x, weight)
    for grad in (torch.randn(2, 6, 3, 4), torch.randn(6).view(1, 6, 1, 1).expand(2, 6, 3, 4)):
        ours, theirs = (torch.autograd.grad(z, [x, weight], grad, retain_graph=True) for z in (y, expected))
        torch.testing.assert_close(ours, theirs)
    ours, theirs = (
        torch.autograd.grad(torch.autograd.grad(z.square().sum(), x, create_graph=True)[0].square().sum(), weight)
        for z in (y, expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_only_what_is_asked_for():
    x, weight = channels_last(1, 4, 3, 3), torch.randn(2, 4, 1, 1, requires_grad=True)
    (grad,) = torch.autograd.grad(pointwise.conv1x1(x, weight, None).sum(), [weight])
    torch.testing.assert_close(grad.flatten(1), x.sum((0, 2, 3)).expand(2, 4))
    y = pointwise.conv1x1(x, weight, torch.zeros(2))
    y += 1  # as residual units do: a view would make this a copy
    assert type(y.grad_fn).__name__ == "AddBackward0"


def test_where_it_pays():
    weight, x = torch.randn(8, 16, 1, 1), channels_last(2, 16, 32, 32)
    assert policy.trains_with_pointwise(x, weight)
    assert not policy.trains_with_pointwise(x.contiguous(), weight) and not policy.trains_with_pointwise(
        x.bfloat16(), weight.bfloat16()
    )
    assert not policy.trains_with_pointwise(channels_last(2, 16, 33, 32), weight) and not policy.trains_with_pointwise(
        x[0], weight
    )
    with ops.backend("reference"):
        assert not policy.trains_with_pointwise(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not policy.trains_with_pointwise(x, weight)


def test_module_is_conv2d(monkeypatch):
    torch.manual_seed(0)
    module = Conv1x1(16, 8)
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(16, 8, 1)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    calls = []
    real = pointwise.conv1x1
    monkeypatch.setattr(pointwise, "conv1x1", lambda *a: calls.append(1) or real(*a))
    x = channels_last(2, 16, 7, 7)
    torch.testing.assert_close(module(x), plain(x))
    assert calls == [1]
    with pytest.raises(RuntimeError, match=r"expected input.* to have 16 channels"):
        module(x[:, :15].contiguous(memory_format=torch.channels_last))
    exported = torch.export.export(module, (x,))
    assert "conv2d" in str(exported.graph) and calls == [1]
