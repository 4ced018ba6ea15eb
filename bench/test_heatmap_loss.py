"""heatmap_loss against target maps and a mean squared error in native PyTorch, in the same run.

`python -m pytest bench/test_heatmap_loss.py -s` prints, for every case, our time, the native time (contiguous /
channels_last, eager) and our ratio to the better one: the median over rounds in which the three run one after
another, so that whatever else the machine does falls on all. Native targets are made in every step, as in training,
where every step has other joints. Two threads.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.paired import LAYOUTS, compare, described, moved
from pyranet_fast import ops

JOINTS, SIDE = 16, 64


def native_loss(pred: Tensor, joints: Tensor) -> Tensor:
    """The same for weights of 1: separable Gaussians, then the mean squared error."""
    at = torch.arange(SIDE, dtype=torch.float32)
    gauss = torch.exp((at - joints.unsqueeze(3)).square_().mul_(-0.5))
    target = gauss[:, :, 1].unsqueeze(3) * gauss[:, :, 0].unsqueeze(2)
    return F.mse_loss(pred.float(), target)


@pytest.mark.parametrize("batch", (4, 16))
@pytest.mark.parametrize("backward", (False, True), ids=("forward", "forward+backward"))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("fp32", "bf16"))
def test_against_native(benchmark: Any, dtype: torch.dtype, layout: str, backward: bool, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((batch, JOINTS, SIDE, SIDE), generator=generator).to(dtype)
    forms = {name: values.contiguous(memory_format=form).requires_grad_(backward) for name, form in LAYOUTS.items()}
    joints = torch.rand((batch, JOINTS, 2), generator=generator) * SIDE
    weight = torch.ones(batch, JOINTS)

    def step(name: str, ours: bool) -> Tensor:
        pred = forms[name]
        loss = ops.heatmap_loss(pred, joints, weight) if ours else native_loss(pred, joints)
        return torch.autograd.grad(loss, pred)[0] if backward else loss

    steps = [lambda: step(layout, True), *(lambda name=name: step(name, False) for name in LAYOUTS)]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(steps[0](), steps[1](), rtol=tolerance, atol=1e-9)  # parity first
    case = described("heatmap_loss", values.shape, dtype, layout, backward)
    size = moved(values) * (3 if backward else 1)  # backward: maps in again, gradient out
    compare(benchmark, steps[0], dict(zip(LAYOUTS, steps[1:], strict=True)), case=case, size=size)
