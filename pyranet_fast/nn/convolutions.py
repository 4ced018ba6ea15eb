"""``nn.Conv2d`` with faster ways for the CPU where there are some; parameters and results are its own."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops.cpu import pointwise, policy, winograd


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
