"""Image classifiers with and without a pyramid in every block (paper section 5.2).

Wide residual networks (Zagoruyko and Komodakis, BMVC 2016) and ResNeXt for CIFAR (Xie et al., CVPR 2017).
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import warn_renamed
from ..nn.checkpointing import Recomputing
from ..nn.layers import BatchNorm, BatchNormReLU, add_
from ..nn.pyramid import PyramidBranch
from .pyranet import check_precision


class Classifier(nn.Module):
    """Image classifier for (N, 3, H, W) images, ending in global average pooling and one linear layer.

    Attributes:
        name: name for `pyranet_fast.models.classifier`.
        smallest: minimum height and width of an image.
    """

    def __init__(self, name: str, channels: int, classes: int, *, smallest: int) -> None:
        super().__init__()
        self.name, self.smallest, self.classes = name, smallest, classes
        self.linear = nn.Linear(channels, classes)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of ``pyranet_fast.models.classifier`` that rebuild the network; JSON-serializable."""
        return {"name": self.name, "classes": self.classes}

    def features(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) to the features (N, channels, h, w) before pooling."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (logits).

        Args:
            image: (N, 3, H, W), normalized, 32x32 pixels in CIFAR-10.

        Returns:
            (N, classes).

        Raises:
            TypeError, ValueError: the input is invalid; the message says what was got.
        """
        if not isinstance(image, Tensor):
            raise TypeError(f"image must be a tensor (N, 3, H, W), got {type(image).__name__}")
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"image must have shape (N, 3, H, W), got {tuple(image.shape)}")
        if not torch.is_floating_point(image):
            raise TypeError(f"image must be normalized and have a floating-point dtype, got {image.dtype}")
        if image.shape[2] < self.smallest or image.shape[3] < self.smallest:
            h, w = image.shape[2], image.shape[3]
            raise ValueError(f"image is {h}x{w} (height x width); {self.name} accepts {self.smallest} or more of each")
        check_precision(image, self)
        return self.linear(F.adaptive_avg_pool2d(self.features(image), 1).flatten(1))

    def initialise(self) -> None:
        """Former name of `initialize`."""
        warn_renamed("Classifier.initialise", "Classifier.initialize")
        self.initialize()

    def initialize(self) -> None:
        """Initialize by He et al. with fan-out, as in the code of both papers: Var[w] = 2 / (k² out); linear bias 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)


def check_counts(**counts: int) -> None:
    """ValueError unless all are whole numbers of at least 1."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")


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
        y = self.conv2(self.bn2(self.conv1(active)))
        y = add_(y, x if self.skip is None else self.skip(active), of=self.conv2)
        return y if self.pyramid is None else add_(y, self.pyramid(active, samples), of=self.conv2)


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
        self.initialize()

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 64 width, H / 4, W / 4)."""
        return self.bn(self.blocks(self.conv(image)))


def wide_resnet(depth: int = 28, width: int = 10, *, pyramid: bool = False, classes: int = 10) -> WideResNet:
    """Build a wide residual network, WRN-depth-width, without dropout.

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
        ValueError: an argument is invalid.
    """
    check_counts(depth=depth, width=width, classes=classes)
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6 n + 4 with n of at least 1, such as 16, 28 or 40, got {depth}")
    return WideResNet(depth, width, bool(pyramid), classes)


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
        self.bn3 = BatchNorm(outputs)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.skip = nn.Sequential(shortcut, BatchNorm(outputs))
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
        self.initialize()

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 1024, H / 4, W / 4)."""
        return self.blocks(self.bn(self.conv(image)))


def resnext(
    depth: int = 29, cardinality: int = 8, base_width: int = 64, *, pyramid: bool = False, classes: int = 10
) -> ResNeXt:
    """Build a ResNeXt for small images, ResNeXt-depth, cardinality x base_width d.

    A 3x3 with 64 channels, BN, ReLU; three stages of (depth - 2) / 9 blocks with 256, 512 and 1024 output
    channels, the second and third starting with stride 2; global average, linear. Convolutions have no bias.

    Args:
        depth: 9 n + 2.
        cardinality: groups of the 3x3 convolutions.
        base_width: channels per group in the first stage.
        pyramid: add a `pyranet_fast.nn.PyramidBranch` with 64, 128, 256 channels by stage to every block (paper
            section 5.2): 45.61 M parameters for 8x64d, 79.34 M for 16x64d.
        classes: number of outputs.

    Raises:
        ValueError: an argument is invalid.
    """
    check_counts(depth=depth, cardinality=cardinality, base_width=base_width, classes=classes)
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(f"depth must be 9 n + 2 with n of at least 1, such as 20, 29 or 38, got {depth}")
    return ResNeXt(depth, cardinality, base_width, bool(pyramid), classes)


_WIDE = re.compile(r"wrn-(\d{1,4})-(\d{1,3})(-pyramid)?")
_RESNEXT = re.compile(r"resnext-(\d{1,4})-(\d{1,3})x(\d{1,4})d(-pyramid)?")


def classifier(name: str, *, classes: int = 10) -> Classifier:
    """Build the classifier of a name.

    Args:
        name: ``"wrn-DEPTH-WIDTH"`` or ``"resnext-DEPTH-CARDINALITYxWIDTHd"``, optionally followed by
            ``"-pyramid"`` for a pyramid in every block: ``"wrn-28-10-pyramid"``, ``"wrn-16-2"``,
            ``"resnext-29-8x64d"``.
        classes: number of outputs.

    Raises:
        ValueError: unknown name or invalid configuration.
    """
    if found := _WIDE.fullmatch(str(name)):
        depth, width = int(found[1]), int(found[2])
        return wide_resnet(depth, width, pyramid=found[3] is not None, classes=classes)
    if found := _RESNEXT.fullmatch(str(name)):
        depth, cardinality, width = int(found[1]), int(found[2]), int(found[3])
        return resnext(depth, cardinality, width, pyramid=found[4] is not None, classes=classes)
    raise ValueError(
        "model must be wrn-DEPTH-WIDTH or resnext-DEPTH-CARDINALITYxWIDTHd, with or without -pyramid, such as "
        f"wrn-28-10-pyramid or resnext-29-8x64d, got {name!r}"
    )
