"""Which residual unit stands at a place of the network, by the name of the variant."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..nn.pyramid import PYRAMID_VARIANTS, PyramidResidualModule
from ..nn.residual import ResidualUnit

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
