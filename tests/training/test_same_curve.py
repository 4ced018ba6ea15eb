"""Training with and without the kernels gives the same curve."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.models import PyraNet
from pyranet_fast.ops.cpu import batch_norm_relu, pointwise, winograd

pytestmark = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")


def curve(backend: str, steps: int, seed: int = 0) -> tuple[list[float], list[Tensor]]:
    """Losses of a short training, and the first step's gradients."""
    torch.manual_seed(seed)
    model = PyraNet(1, 5, features=64, depth=1, pool_windows="channel").train().to(memory_format=torch.channels_last)
    # Not RMSProp, which makes whole steps of gradients that are nothing but rounding, of biases before a norm.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    generator = torch.Generator().manual_seed(seed + 1)
    losses, first = [], []
    with ops.backend(backend):
        for _ in range(steps):
            image = torch.randn(4, 3, 64, 64, generator=generator).contiguous(memory_format=torch.channels_last)
            joints = image[:, :, ::13, ::13].reshape(4, -1)[:, :10].reshape(4, 5, 2) * 2 + 8
            (maps,) = model(image)
            loss = ops.heatmap_loss(maps, joints, torch.ones(4, 5))
            optimizer.zero_grad()
            loss.backward()
            if not first:
                first = [p.grad.clone() for p in model.parameters()]
            optimizer.step()
            losses.append(loss.item())
    return losses, first


def test_same_curve(monkeypatch):
    calls = {"winograd": 0, "pointwise": 0, "shared": 0}
    for name, module, function in (
        ("winograd", winograd, "differentiable_conv3x3"),
        ("pointwise", pointwise, "conv1x1"),
        ("shared", batch_norm_relu, "shared_batch_norm_relu"),
    ):
        real = getattr(module, function)

        def counted(*arguments, name=name, real=real):
            calls[name] += 1
            return real(*arguments)

        monkeypatch.setattr(module, function, counted)
    ours, _ = curve("native", 8)
    assert (
        calls["winograd"] >= 8 and calls["pointwise"] >= 8 * 5 and calls["shared"] >= 8 * 5
    )  # the fast paths were taken
    seen = dict(calls)
    plain, _ = curve("reference", 8)
    assert calls == seen
    assert ours[-1] < 0.8 * ours[0]
    for a, b in zip(ours, plain, strict=True):
        assert a == pytest.approx(b, rel=0.05)
    assert ours[0] == pytest.approx(plain[0], rel=1e-4)


def test_same_gradients():
    """Rounding may choose another maximum of a window or the other side of a ReLU, which moves gradients by about a
    hundredth, as an image changed by 3e-7 of itself does in plain PyTorch: no step goes further, and of half of the
    parameters no gradient is further from the other than a thousandth in the best of the steps."""
    errors = []
    for seed in range(4):
        ours, exact = curve("native", 1, seed)[1], curve("reference", 1, seed)[1]
        # Biases before a norm have no gradient but rounding, so the largest gradient sets the scale for those.
        floor = 1e-2 * max(g.norm() for g in exact)
        errors.append([((a - b).norm() / (b.norm() + floor)).item() for a, b in zip(ours, exact, strict=True)])
    assert max(map(max, errors)) < 0.1
    assert min(map(statistics.median, errors)) < 1e-3
