"""Layers with faster ways for the CPU where there are some: batch norm with ReLU, 1x1 and 3x3 convolutions.

Parameters and results are those of PyTorch's own layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import batch_norm_relu
from ..ops.cpu import batch_norm_relu as shared
from ..ops.cpu import pointwise, policy, winograd


class BatchNormReLU(nn.BatchNorm2d):
    """relu(batch_norm(x)); the state dict is that of ``nn.BatchNorm2d``.

    Every BN-ReLU of the network is this module, so a faster ``forward`` here speeds up all of it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and layout."""
        if self.training and self.momentum is not None:
            return batch_norm_relu(
                input, self.weight, self.bias, self.running_mean, self.running_var, self.num_batches_tracked,
                momentum=self.momentum, eps=self.eps,
            )  # fmt: skip
        # In place is safe: batch norm keeps its input for the backward, not its output.
        return F.relu(super().forward(input), inplace=True)

    @property
    def foldable(self) -> bool:
        """Whether the statistics are fixed, so that the norm is y = x * scale + shift."""
        return not self.training and self.running_mean is not None

    def folded(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,) of the norm with its running statistics, in float32 at least.

        Raises:
            RuntimeError: the module is training, or keeps no running statistics.
        """
        if not self.foldable or self.running_mean is None or self.running_var is None:
            raise RuntimeError("a batch norm folds only in evaluation and with running statistics")
        wide = torch.promote_types(self.running_var.dtype, torch.float32)
        scale = torch.rsqrt(self.running_var.to(wide) + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.to(wide)
        shift = -self.running_mean.to(wide) * scale
        if self.bias is not None:
            shift = shift + self.bias.to(wide)
        return scale, shift


def norms_of(x: Tensor, norms: Sequence[nn.Module]) -> tuple[Tensor, list[Tensor]]:
    """What the branches of a unit read: every norm (or ``nn.Identity``) of x, in the fewest passes.

    In training on the CPU the `BatchNormReLU` among them share statistics and passes (`ops.shared_batch_norm_relu`);
    their own hooks do not run there.

    Returns:
        x for the identity skip, to be used instead of x, and the outputs in the order of ``norms``.
    """
    own = [norm for norm in norms if isinstance(norm, BatchNormReLU)]
    first = own[0] if own else None
    if (
        first is None
        or any(not n.training or n.momentum is None or n.eps != first.eps for n in own)
        or not policy.supports_shared_batch_norm_relu(
            x, *(v for n in own for v in (n.weight, n.bias, n.running_mean, n.running_var))
        )
    ):
        return x, [norm(x) for norm in norms]
    x, made, mean, var = shared.shared_batch_norm_relu(x, [n.weight for n in own], [n.bias for n in own], first.eps)
    count = x.numel() // x.shape[1]
    for norm in own:
        shared.update_averages_(
            norm.running_mean, norm.running_var, norm.num_batches_tracked, mean, var, norm.momentum, count
        )
    outputs = iter(made)
    return x, [next(outputs) if isinstance(norm, BatchNormReLU) else x for norm in norms]


class Conv1x1(nn.Conv2d):
    """``nn.Conv2d`` of 1x1, as a matrix product where the map is small (`ops.cpu.pointwise`)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        if policy.trains_with_pointwise(input, self.weight):
            return pointwise.conv1x1(input, self.weight, self.bias)
        return super().forward(input)


class Conv3x3(nn.Conv2d):
    """``nn.Conv2d`` of 3x3, stride 1, padding 1, in fewer products where there is a kernel (`ops.cpu.winograd`).

    Where autocast has chosen a lower precision, on other devices and in graphs it is ``nn.Conv2d``.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        if policy.trains_with_winograd(input, self.weight):
            return winograd.differentiable_conv3x3(input, self.weight, self.bias)
        return super().forward(input)


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution of odd kernel size with "same" padding and a bias."""
    if kernel == 1:
        return Conv1x1(inputs, outputs)
    if kernel == 3:
        return Conv3x3(inputs, outputs)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
