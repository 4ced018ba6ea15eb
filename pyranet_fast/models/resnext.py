"""ResNeXt for CIFAR (Xie et al., CVPR 2017), with a pyramid in every block if asked for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.activation import BatchNormReLU
from ..nn.pyramid_branch import PyramidBranch
from ..nn.recompute import Recomputing
from .classifier_base import Classifier, check_counts

EXPANSION = 4
PYRAMID_WIDTH = 64  # of the first stage; doubles with each


class ResNeXtBlock(Recomputing):
    """1x1 BN ReLU, grouped 3x3 BN ReLU, 1x1 BN; plus the skip; plus the pyramid if there is one; ReLU.

    The block is post-activated: its input has been through the last block's ReLU already, so that is what the
    pyramid reads, and it is added where the other branches meet, before the last ReLU. The skip is the identity,
    or 1x1 BN where shapes differ.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, groups: int, stride: int, pyramid_width: int | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = BatchNormReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = BatchNormReLU(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.skip = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.pyramid = None
        if pyramid_width is not None:
            self.pyramid = PyramidBranch(inputs, pyramid_width, outputs, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W), not negative, to (N, outputs, H / stride, W / stride), not negative."""
        return self.recomputed(self._block, x, None if self.pyramid is None else self.pyramid.draw(x))

    def _block(self, x: Tensor, samples: Tensor | None) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(y))
        y = y + self.skip(x)
        if self.pyramid is not None:
            y += self.pyramid(x, samples)
        return F.relu(y, inplace=True)


class ResNeXt(Classifier):
    """See `resnext`."""

    def __init__(self, depth: int, cardinality: int, base_width: int, pyramid: bool, classes: int) -> None:
        name = f"resnext-{depth}-{cardinality}x{base_width}d" + ("-pyramid" if pyramid else "")
        super().__init__(name, 64 * EXPANSION * 4, classes, smallest=8 if pyramid else 1)
        self.conv = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn = BatchNormReLU(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for stage in range(3):
            width, outputs = cardinality * base_width * 2**stage, 64 * EXPANSION * 2**stage
            extra = PYRAMID_WIDTH * 2**stage if pyramid else None
            for number in range((depth - 2) // 9):
                stride = 2 if stage and not number else 1
                blocks.append(ResNeXtBlock(inputs, width, outputs, cardinality, stride, extra))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.initialise()

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 1024, H / 4, W / 4)."""
        return self.blocks(self.bn(self.conv(image)))


def resnext(
    depth: int = 29, cardinality: int = 8, base_width: int = 64, *, pyramid: bool = False, classes: int = 10
) -> ResNeXt:
    """A ResNeXt for small images, ResNeXt-depth, cardinality x base_width d.

    A 3x3 with 64 channels, BN, ReLU; three stages of (depth - 2) / 9 blocks with 256, 512 and 1024 output
    channels, the second and third starting with stride 2; global average, linear. Convolutions have no bias.

    Args:
        depth: 9 n + 2.
        cardinality: groups of the 3x3.
        base_width: channels of a group in the first stage.
        pyramid: add a `pyranet_fast.nn.PyramidBranch` with 64, 128, 256 channels by stage to every block (paper
            section 5.2): 45.61 M parameters for 8x64d, 79.34 M for 16x64d.
        classes: number of outputs.

    Raises:
        ValueError: an argument is not as described.
    """
    check_counts(depth=depth, cardinality=cardinality, base_width=base_width, classes=classes)
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(f"depth is {depth}; 9 n + 2 with n of at least 1, such as 20, 29 or 38, is accepted")
    return ResNeXt(depth, cardinality, base_width, bool(pyramid), classes)
