"""PyraNet: the stacked hourglass with Pyramid Residual Modules (paper section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.checkpointing import Recomputing
from ..nn.hourglass import Hourglass, max_pool
from ..nn.layers import BatchNormReLU, Conv1x1, add_
from ..nn.pyramid import POOL_WINDOWS, PYRAMID_VARIANTS, PyramidResidualModule
from ..nn.residual import BNReLUConv, ResidualUnit

VARIANTS = ("plain", "wide", *PYRAMID_VARIANTS)


def wide_width(inputs: int, outputs: int, base_width: int) -> int:
    """Width of a `ResidualUnit` whose parameter count is nearest to that of a B* module's.

    Counted without the skip and the last bias, which both have; the last of the smaller is taken in a tie.
    """

    def plain(width: int) -> int:
        # Weights, the biases and the two batch norms of this width; and the first batch norm.
        return width * (inputs + 9 * width + outputs) + 6 * width + 2 * inputs

    middle, level = outputs // 2, outputs // base_width
    pyramid = level * (inputs + 9 * level + middle) + 6 * level + 2 * inputs + middle
    target = plain(middle) + pyramid
    return min(range(middle, 2 * middle + 1), key=lambda width: abs(plain(width) - target))


@dataclass(frozen=True)
class Units:
    """Makes the units of one variant: a `pyranet_fast.nn.hourglass.UnitFactory`.

    Args:
        variant: ``"plain"``: residual units everywhere; ``"wide"``: wider ones at the places of the pyramid
            modules, of the size of B* modules; else a variant of the pyramid module.
        levels, base_width, pool_windows: see `PyramidResidualModule`.
    """

    variant: str
    levels: int
    base_width: int
    pool_windows: str

    def __call__(
        self,
        inputs: int,
        outputs: int,
        *,
        pyramid: bool,
        project_skip: bool = False,
        preactivate: bool = True,
    ) -> nn.Module:
        """One unit, inputs to outputs channels."""
        if pyramid and self.variant in PYRAMID_VARIANTS:
            return PyramidResidualModule(
                inputs,
                outputs,
                variant=self.variant,
                levels=self.levels,
                base_width=self.base_width,
                project_skip=project_skip,
                preactivate=preactivate,
                pool_windows=self.pool_windows,
            )
        width = wide_width(inputs, outputs, self.base_width) if pyramid and self.variant == "wide" else None
        return ResidualUnit(inputs, outputs, width=width, project_skip=project_skip, preactivate=preactivate)


class Stem(nn.Module):
    """The image to features at a quarter of its size.

    7x7 stride 2, BN, ReLU, unit (without pre-activation) at 1/2; max-pool 2, two units at 1/4. Channels
    features/4, features/2, features/2, features.
    """

    def __init__(self, features: int, units: Units) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, features // 4, 7, stride=2, padding=3)
        self.bn = BatchNormReLU(features // 4)
        self.unit1 = units(features // 4, features // 2, pyramid=True, preactivate=False)
        self.unit2 = units(features // 2, features // 2, pyramid=True)
        self.unit3 = units(features // 2, features, pyramid=True)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, features, H/4, W/4)."""
        x = max_pool(self.unit1(self.bn(self.conv(image))))
        return self.unit3(self.unit2(x))


class Stack(Recomputing):
    """One hourglass and its head; all but the last also make the input of the next."""

    def __init__(self, joints: int, features: int, depth: int, units: Units, variance_control: bool, last: bool):
        super().__init__()
        self.hourglass = Hourglass(depth, features, units, variance_control=variance_control)
        self.features = BNReLUConv(features, features)
        self.bn = BatchNormReLU(features)
        self.score = Conv1x1(features, joints)
        self.from_features = None if last else Conv1x1(features, features)
        self.from_score = None if last else Conv1x1(joints, features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, features, h, w) to the score maps (N, joints, h, w) and the next stack's input."""
        return self.recomputed(self._head, self.hourglass(x), x)

    def _head(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        features = self.bn(self.features(x))
        score = self.score(features)
        if self.from_features is None or self.from_score is None:
            return score, before
        following = add_(self.from_features(features), self.from_score(score), of=self.from_features)
        return score, add_(following, before, of=self.from_features)


class PyraNet(nn.Module):
    """Stacked hourglass network of Pyramid Residual Modules, or a baseline with the same structure.

    Args:
        stacks: number of hourglasses; each predicts score maps.
        joints: number of score maps, K.
        features: channels of the hourglasses, a multiple of 4. The stem has features/4 and features/2.
        variant: ``"B*"`` is the paper's model, with 3x3 filters shared by the levels; ``"A"`` has separate
            input maps, ``"B"`` separate filters, ``"C"`` concatenates the levels, ``"D"`` dilates instead of
            pooling. ``"plain"`` has residual units, ``"wide"`` wider ones with as many parameters as B*.
        levels: pyramid levels C.
        depth: levels of an hourglass.
        base_width: a pyramid level has (output channels) // base_width channels.
        variance_control: BN-ReLU-1x1 instead of the identity skip before a sum of branches (section 4.2).
        pool_windows: random window offsets of fractional pooling in training: one per ``"channel"`` of each sample
            (the paper), per ``"sample"`` or per ``"batch"``. Fixed in evaluation.

    Raises:
        ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        stacks: int = 8,
        joints: int = 16,
        *,
        features: int = 256,
        variant: str = "B*",
        levels: int = 4,
        depth: int = 4,
        base_width: int = 9,
        variance_control: bool = True,
        pool_windows: str = "channel",
    ) -> None:
        super().__init__()
        counts = {
            "stacks": stacks,
            "joints": joints,
            "levels": levels,
            "depth": depth,
            "base_width": base_width,
        }
        for name, count in counts.items():
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a positive integer, got {count!r}")
        if not isinstance(features, int) or features < 4 or features % 4:
            raise ValueError(f"features must be a positive multiple of 4, got {features!r}")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}")
        if variant != "plain" and base_width > features // 2:
            raise ValueError(
                f"base_width must be at most features // 2 = {features // 2}, so that every pyramid level has a "
                f"channel, got {base_width}"
            )
        if pool_windows not in POOL_WINDOWS:
            raise ValueError(f"pool_windows must be one of {', '.join(map(repr, POOL_WINDOWS))}, got {pool_windows!r}")
        self._config: dict[str, Any] = {
            "stacks": stacks,
            "joints": joints,
            "features": features,
            "variant": variant,
            "levels": levels,
            "depth": depth,
            "base_width": base_width,
            "variance_control": bool(variance_control),
            "pool_windows": pool_windows,
        }
        units = Units(variant, levels, base_width, pool_windows)
        self.multiple = 4 * 2**depth
        """Height and width of an input must be multiples of this."""
        self.stem = Stem(features, units)
        self.stacks = nn.ModuleList(
            Stack(joints, features, depth, units, bool(variance_control), last=i == stacks - 1) for i in range(stacks)
        )

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild the network; JSON-serializable."""
        return dict(self._config)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the score maps of every stack.

        Args:
            image: (N, 3, H, W), normalized, H and W multiples of 4 * 2^depth.

        Returns:
            ``stacks`` tensors (N, joints, H/4, W/4); use the last for predictions.

        Raises:
            TypeError, ValueError: the input is invalid; the message says what was got.
        """
        check_image(image, self.multiple)
        check_precision(image, self)
        x = self.stem(image)
        scores = []
        for stack in self.stacks:
            score, x = stack(x)
            scores.append(score)
        return scores


def check_image(image: Tensor, multiple: int) -> None:
    """TypeError or ValueError unless ``image`` is what `PyraNet.forward` takes."""
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor (N, 3, H, W), got {type(image).__name__}")
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(f"image must have shape (N, 3, H, W), got {tuple(image.shape)}")
    if not torch.is_floating_point(image):
        raise TypeError(f"image must be normalized and have a floating-point dtype, got {image.dtype}")
    h, w = image.shape[2], image.shape[3]
    if h < 1 or w < 1 or h % multiple or w % multiple:
        raise ValueError(f"height and width of image must be multiples of {multiple} = 4 * 2^depth, got {h}x{w}")


def check_precision(image: Tensor, model: nn.Module) -> None:
    """TypeError unless ``image`` has the dtype of the weights, or autocast brings the two together."""
    if torch.compiler.is_compiling():
        return
    weights = next(model.parameters()).dtype
    if image.dtype != weights and not torch.is_autocast_enabled(image.device.type):
        raise TypeError(
            f"image must have the dtype of the network's weights, {weights}, got {image.dtype}; use image.to(dtype), "
            "model.to(dtype) or torch.autocast"
        )
