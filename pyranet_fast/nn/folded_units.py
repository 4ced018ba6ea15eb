"""The residual units and pyramids for inference: the same values in fewer passes over memory.

Every batch norm that follows a convolution, or a sum of convolutions and upsamplings of convolutions, is folded into
them. What is left are the norms at the entry of a unit, which several branches read: `Entry` makes all of them in one
pass, together with the addition before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import add_affine_relu, fractional_max_pool_pyramid, upsample_sum
from .activation import BatchNormReLU
from .folded import FoldedConv, fold
from .pyramid import DilatedPyramid, PooledPyramid, PyramidResidualModule
from .residual import BNReLUConv, ResidualUnit
from .windows import draw_samples, level_sizes


class Entry(nn.Module):
    """What the branches of a unit read: the sum, or relu(batch_norm(sum)), for each of them, in one pass.

    Args:
        norms: for each branch its norm, or an ``nn.Identity`` where the branch reads the sum itself.
        keep: the sum is needed besides.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norms: Sequence[nn.Module], *, keep: bool) -> None:
        super().__init__()
        folded = [norm.folded() for norm in norms if isinstance(norm, BatchNormReLU)]
        self.places = [-1 if isinstance(norm, nn.Identity) else 0 for norm in norms]
        self.keep = keep or -1 in self.places
        number = int(self.keep)
        for i, place in enumerate(self.places):
            if place == 0:
                self.places[i], number = number, number + 1
        self.register_buffer("scale", torch.stack([s.detach() for s, _ in folded]) if folded else torch.empty(0, 0))
        self.register_buffer("shift", torch.stack([t.detach() for _, t in folded]) if folded else torch.empty(0, 0))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        wide = torch.promote_types(self.scale.dtype, torch.float32)  # the operator's precision, whatever .to() said
        self.scale, self.shift = self.scale.to(wide), self.shift.to(wide)
        return self

    def forward(self, x: Tensor, other: Tensor | None = None) -> tuple[Tensor | None, list[Tensor]]:
        """x (+ other, see `ops.add_affine_relu`) to the sum, if kept, and what every branch reads."""
        if not len(self.scale):
            total = x if other is None else add_affine_relu(x, other, self.scale, self.shift, keep=True)[0]
            return total, [total] * len(self.places)
        keep = self.keep and other is not None
        made = add_affine_relu(x, other, self.scale, self.shift, keep=keep)
        if self.keep and not keep:
            made.insert(0, x)
        total = made[0] if self.keep else None
        return total, [made[place] if place >= 0 else cast(Tensor, total) for place in self.places]


def _after(unit: BNReLUConv) -> BatchNormReLU:
    assert isinstance(unit.bn, BatchNormReLU)
    return unit.bn


def _conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module


class FoldedPooledPyramid(nn.Module):
    """`PooledPyramid` without its entry norm; see there. Ends in a sum with f_0 and the ReLU after it."""

    def __init__(self, pyramid: PooledPyramid, end: BatchNormReLU, dtype: torch.dtype) -> None:
        super().__init__()
        self.levels, self.windows, self.concatenate = pyramid.levels, pyramid.windows, pyramid.concatenate
        self.reduce = nn.ModuleList(
            FoldedConv(*fold(_conv(conv), cast(BatchNormReLU, bn)), _conv(conv), dtype, relu=True)
            for conv, bn in zip(pyramid.reduce, pyramid.bn, strict=True)
        )
        after, levels = _after(pyramid.expand), pyramid.levels
        filters = []
        for level in range(levels):
            conv = _conv(pyramid.filters[level % len(pyramid.filters)])
            if self.concatenate:
                weight, bias = fold(conv)
                scale, shift = (v.double().chunk(levels)[level] for v in after.folded())
                weight, bias = weight * scale[:, None, None, None], bias * scale + shift
            elif level >= len(pyramid.filters):
                continue
            else:  # upsampling weights add up to one: it may come after the norm
                weight, bias = fold(conv, after, shift_share=1 / levels)
            filters.append(FoldedConv(weight, bias, conv, dtype, relu=False))
        self.filters = nn.ModuleList(filters)
        self.expand = FoldedConv(*fold(pyramid.expand.conv, end, shift_share=0.0), pyramid.expand.conv, dtype, relu=True)

    def forward(self, active: Tensor, full: Tensor) -> Tensor:
        """(N, inputs, H, W) after its norm, and f_0's (N, outputs, H, W), which is overwritten."""
        size = (active.shape[2], active.shape[3])
        sizes = level_sizes(size, self.levels)
        entries = [reduce(active) for reduce in self.reduce]
        samples = draw_samples(entries[0], self.levels, self.windows, False)
        if len(entries) == 1:
            maps = fractional_max_pool_pyramid(entries[0], sizes, samples)
        else:
            maps = [
                fractional_max_pool_pyramid(entry, sizes[i : i + 1], samples[i : i + 1])[0]
                for i, entry in enumerate(entries)
            ]
        maps = [self.filters[i % len(self.filters)](m) for i, m in enumerate(maps)]
        if self.concatenate:
            joined = torch.cat([upsample_sum([m], size, align_corners=True) for m in maps], 1)
        else:
            joined = upsample_sum(maps, size, align_corners=True)
        return cast(Tensor, self.expand(joined.relu_(), full))


class FoldedDilatedPyramid(nn.Module):
    """`DilatedPyramid` without its entry norm; see `FoldedPooledPyramid`."""

    def __init__(self, pyramid: DilatedPyramid, end: BatchNormReLU, dtype: torch.dtype) -> None:
        super().__init__()
        self.reduce = FoldedConv(*fold(pyramid.reduce.conv, pyramid.bn), pyramid.reduce.conv, dtype, relu=True)
        after, count = _after(pyramid.expand), len(pyramid.filters)
        self.filters = nn.ModuleList(
            FoldedConv(*fold(_conv(conv), after, shift_share=1 / count), _conv(conv), dtype, relu=i == count - 1)
            for i, conv in enumerate(pyramid.filters)
        )
        self.expand = FoldedConv(*fold(pyramid.expand.conv, end, shift_share=0.0), pyramid.expand.conv, dtype, relu=True)

    def forward(self, active: Tensor, full: Tensor) -> Tensor:
        """As `FoldedPooledPyramid.forward`."""
        x, total = self.reduce(active), None
        for dilated in self.filters:
            total = dilated(x, total)
        return cast(Tensor, self.expand(total, full))


class FoldedUnit(nn.Module):
    """`ResidualUnit` or `PyramidResidualModule` with fixed statistics.

    Attributes:
        entry: makes what ``forward`` reads.
    """

    def __init__(self, unit: ResidualUnit | PyramidResidualModule, dtype: torch.dtype, *, keep: bool = False) -> None:
        super().__init__()
        norms = [unit.reduce.bn]
        after, end = _after(unit.filter), _after(unit.expand)
        self.reduce = FoldedConv(*fold(unit.reduce.conv, after), unit.reduce.conv, dtype, relu=True)
        self.pyramid: nn.Module | None = None
        if isinstance(unit, PyramidResidualModule):
            pyramid = unit.pyramid
            if isinstance(pyramid, PooledPyramid):
                norms.append(pyramid.preactivation)
                self.pyramid = FoldedPooledPyramid(pyramid, end, dtype)
            else:
                assert isinstance(pyramid, DilatedPyramid)
                norms.append(pyramid.reduce.bn)
                self.pyramid = FoldedDilatedPyramid(pyramid, end, dtype)
        relu = self.pyramid is None  # else the pyramid's end applies it to the sum
        self.filter = FoldedConv(*fold(unit.filter.conv, end), unit.filter.conv, dtype, relu=relu)
        self.expand = FoldedConv(*fold(unit.expand.conv), unit.expand.conv, dtype, relu=False)
        self.skip: FoldedConv | None = None
        if isinstance(unit.skip, BNReLUConv):
            norms.append(unit.skip.bn)
            self.skip = FoldedConv(*fold(unit.skip.conv), unit.skip.conv, dtype, relu=False)
        self.entry = Entry(norms, keep=keep or self.skip is None)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, inputs, H, W), and a second term of it (see `Entry`), to (N, outputs, H, W)."""
        return self.after_entry(*self.entry(x, other))

    def after_entry(self, x: Tensor | None, active: list[Tensor]) -> Tensor:
        """What follows ``entry``."""
        y = self.filter(self.reduce(active[0]))
        if self.pyramid is not None:
            y = self.pyramid(active[1], y)
        if self.skip is None:
            return cast(Tensor, self.expand(y, x, overwrite=False))
        return cast(Tensor, self.expand(y, self.skip(active[-1])))


def max_pool(x: Tensor) -> Tensor:
    """As `hourglass.max_pool`."""
    return F.max_pool2d(x, 2)
