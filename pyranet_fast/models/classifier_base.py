"""What the image classifiers share: checks, the last layers, initialisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network of (N, 3, H, W) images that ends in global average pooling and one linear layer.

    Attributes:
        name: what `pyranet_fast.models.classifier` builds it from.
        smallest: least height and width of an image.
    """

    def __init__(self, name: str, channels: int, classes: int, *, smallest: int) -> None:
        super().__init__()
        self.name, self.smallest, self.classes = name, smallest, classes
        self.linear = nn.Linear(channels, classes)

    @property
    def config(self) -> dict[str, Any]:
        """``pyranet_fast.models.classifier(**config)`` builds the same network; JSON can hold it."""
        return {"name": self.name, "classes": self.classes}

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to the maps (N, channels, h, w) that are averaged."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (logits).

        Args:
            image: (N, 3, H, W), normalised, 32x32 pixels in CIFAR-10.

        Returns:
            (N, classes).

        Raises:
            TypeError, ValueError: the input is not as described; the sentence names what was got.
        """
        if not isinstance(image, Tensor):
            raise TypeError(f"image is a {type(image).__name__}; a tensor (N, 3, H, W) is accepted")
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"image has shape {tuple(image.shape)}; (N, 3, H, W) is accepted")
        if not torch.is_floating_point(image):
            raise TypeError(f"image has dtype {image.dtype}; a floating-point, normalised image is accepted")
        if image.shape[2] < self.smallest or image.shape[3] < self.smallest:
            h, w = image.shape[2], image.shape[3]
            raise ValueError(f"image is {h}x{w} (height x width); {self.name} accepts {self.smallest} or more of each")
        return self.linear(F.adaptive_avg_pool2d(self.features(image), 1).flatten(1))

    def initialise(self) -> None:
        """He et al.'s rule with the fan-out, as both papers' code: Var[w] = 2 / (k² out); linear bias 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)


def check_counts(**counts: int) -> None:
    """ValueError unless all are whole numbers of at least 1."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} is {count!r}; a whole number of at least 1 is accepted")
