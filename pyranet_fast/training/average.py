"""Exponential moving average of weights and batch-norm statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``model`` that follows it: average += (1 - d) (weights - average), d = min(decay, (1+n)/(10+n)).

    The rising decay makes the average useful from the first hundred steps on.
    """

    def follow(averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor | int) -> None:
        n = int(count)
        keep = min(decay, (1 + n) / (10 + n))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(currents), 1 - keep)
        else:
            torch._foreach_copy_(list(averages), list(currents))

    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
