"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016), with a pyramid in every block if asked for."""

from __future__ import annotations

from torch import Tensor, nn

from ..nn.activation import BatchNormReLU
from ..nn.pyramid_branch import PyramidBranch
from ..nn.recompute import Recomputing
from .classifier_base import Classifier, check_counts


class WideBlock(Recomputing):
    """BN ReLU 3x3, BN ReLU 3x3; plus the skip; plus, with ``pyramid``, a `PyramidBranch` of width outputs / 4.

    The skip is the identity where the channels agree and the stride is 1; else a 1x1 of the first BN-ReLU's
    output, which the pyramid reads too.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, pyramid: bool) -> None:
        super().__init__()
        self.bn1 = BatchNormReLU(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNormReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        project = inputs != outputs or stride != 1
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if project else None
        self.pyramid = PyramidBranch(inputs, outputs // 4, outputs, stride=stride) if pyramid else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return self.recomputed(self._block, x, None if self.pyramid is None else self.pyramid.draw(x))

    def _block(self, x: Tensor, samples: Tensor | None) -> Tensor:
        active = self.bn1(x)
        # In-place additions go into the fresh output of a convolution, which no backward needs.
        y = self.conv2(self.bn2(self.conv1(active)))
        y += x if self.skip is None else self.skip(active)
        if self.pyramid is not None:
            y += self.pyramid(active, samples)
        return y


class WideResNet(Classifier):
    """See `wide_resnet`."""

    def __init__(self, depth: int, width: int, pyramid: bool, classes: int) -> None:
        name = f"wrn-{depth}-{width}" + ("-pyramid" if pyramid else "")
        super().__init__(name, 64 * width, classes, smallest=8 if pyramid else 1)
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = 16
        for group in range(3):
            outputs = 16 * width * 2**group
            for number in range((depth - 4) // 6):
                blocks.append(WideBlock(inputs, outputs, 2 if group and not number else 1, pyramid))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = BatchNormReLU(inputs)
        self.initialise()

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 64 width, H / 4, W / 4)."""
        return self.bn(self.blocks(self.conv(image)))


def wide_resnet(depth: int = 28, width: int = 10, *, pyramid: bool = False, classes: int = 10) -> WideResNet:
    """A wide residual network, WRN-depth-width, without dropout.

    A 3x3 with 16 channels; three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times ``width`` channels,
    the second and third starting with stride 2; BN, ReLU, global average, linear. Convolutions have no bias.

    Args:
        depth: 6 n + 4.
        width: widening factor k.
        pyramid: add a `pyranet_fast.nn.PyramidBranch`, with a quarter of the block's channels, to every block
            (paper section 5.2): 42.33 M parameters for WRN-28-10. (WRN-28-9 has 34.29 M by this rule; the
            paper prints 36.4 M, which does not follow from it.)
        classes: number of outputs.

    Raises:
        ValueError: an argument is not as described.
    """
    check_counts(depth=depth, width=width, classes=classes)
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth is {depth}; 6 n + 4 with n of at least 1, such as 16, 28 or 40, is accepted")
    return WideResNet(depth, width, bool(pyramid), classes)
